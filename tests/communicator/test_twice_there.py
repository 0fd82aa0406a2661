"""Scenario 63: keys that are there twice. JSON lets a decoder take either; the other would be lost
without a word, as the relay has forgotten both."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from storyline import Line

from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import (
    CodecError,
    decode_batch,
    decode_content,
    decode_message,
    encode_content,
)

JSON = (("Content-Type", "application/json"),)
A, B = ('{"email":"%s","content":"%s"}' % (name, encode_content("t", name)) for name in "AB")  # noqa: UP031


@pytest.mark.parametrize("second", ["UMHMessages", "umhMessages", "UMHMessage\\u0073"])
@pytest.mark.parametrize("space", ["", " \n"])
def test_a_second_list_is_refused_where_one_of_them_would_be_lost(second: str, space: str) -> None:
    """However the key is written; of two of which one has nothing nothing can be."""

    def emails(first: str, other: str) -> list[str]:
        body = f'{{"UMHMessages":{space}{first},"{second}":{other}}}'.encode()
        batch = decode_batch(body)
        assert batch.unreadable == 0
        return [message.email for message in batch.messages]

    for both in ((f"[{A}]", f"[{B}]"), (f"[{A}]", "[7]"), ("[7]", f"[null,{B}]")):
        with pytest.raises(CodecError, match="it has two UMHMessages, want one"):
            emails(*both)
    for nothing in ("[]", "null", "[null]"):
        assert emails(nothing, f"[{A},{B}]") == emails(f"[{A},{B}]", nothing) == ["A", "B"]
        assert emails(nothing, nothing) == []
        with pytest.raises(CodecError, match="UMHMessages is text, want a list"):
            emails(nothing, '"x"')


@pytest.mark.parametrize("key", ["umhInstance", "email", "content"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_text_that_is_there_twice_costs_its_message(key: str, space: str) -> None:
    """And that one only. What nobody reads, and a trace id, may be there as often as they like."""
    other = "".join(f"\\u{ord(letter):04x}" for letter in key)
    for second in (key, key.upper(), other):
        twice = f'{{"{key}":{space}"x","{second}":"x"}}'
        batch = decode_batch(f'{{"UMHMessages":[{A},{twice},{B}]}}'.encode())
        assert ([message.email for message in batch.messages], batch.unreadable) == (["A", "B"], 1)
        with pytest.raises(CodecError, match=f"{key.lower()} is there twice, want it once"):
            decode_message(twice.encode())
    read = decode_message(
        f'{{"more":1,{space}"m\\u006fre":[2],"traceId":"1","TraceID":"2","email":"x"}}'.encode()
    )
    assert (read.email, read.trace_id) == ("x", "2")


@pytest.mark.parametrize("key", ["Payload", "MessageType"])
def test_a_content_that_has_two_of_either_is_no_content(key: str) -> None:
    inner = json.dumps({"Payload": "p", "MessageType": "t"})
    assert decode_content(base64.b64encode(inner.encode()).decode()) == ("t", "p")
    inner = inner.replace("{", f'{{"{key}":"q",')
    with pytest.raises(CodecError, match=f"cannot read content: {key.lower()} is there twice"):
        decode_content(base64.b64encode(inner.encode()).decode())


def test_wrong_types_cost_one_message_each() -> None:
    body = b"""{"UMHMessages":[{"email":"b"}, null, 7, "x", [],
        {"content":[]}, {"email":null}, {"traceId":1,"metadata":"x"}]}"""
    batch = decode_batch(body)
    assert [message.email for message in batch.messages] == ["b", "", ""]
    assert batch.unreadable == 4


@pytest.mark.parametrize(
    "body",
    [
        f'{{"UMHMessages":[{A}],"UMHMessages":[{B}]}}',
        f'{{"umhMessages":[{A}],"UMHMessages":[{B}]}}',
        f'{{"UMHMessages":[{A[:-1]},"content":"e30="}}]}}',
    ],
    ids=["lists", "lists in two cases", "contents"],
)
def test_a_reply_with_something_twice_is_kept_and_the_next_pull_works(
    relay: Relay, tmp_path: Path, context: Any, body: str
) -> None:
    """From the socket to the disk: an unknown error; neither of the two is delivered, and both are
    there for people."""
    line = Line(relay, tmp_path, context)
    line.run(2)
    relay.fault("pull", Fault(status=200, body=body.encode(), headers=JSON))
    line.run(2)
    assert any("pull failed 1 in a row (cannot read the pull" in each for each in line.reasons)
    (kept,) = [path for path in (tmp_path / "in").iterdir() if path.suffix == ".unreadable"]
    assert kept.read_text() == body
    relay.send("ada@example.com", "action", "next")
    line.run(5)
    assert line.received() == ["next"]
    assert line.trail[-1] == "syncing"
