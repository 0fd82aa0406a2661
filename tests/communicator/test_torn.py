"""What is not quite JSON: half a character is read as others read it, and what cannot be read costs
itself and nothing beside it. The relay has forgotten all of it."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest
from playedline import Line, reply_to

from fsmv2.communicator import spool
from fsmv2.communicator.spool import segments
from fsmv2.communicator.transport import mending
from fsmv2.communicator.transport.codec import (
    CodecError,
    decode_batch,
    decode_content,
    decode_message,
    read_texts,
)
from fsmv2.communicator.transport.mending import MENDS_MAX, STEPS_MAX, mended, torn_list

BROKEN = (
    b'{"x":01}',
    b'{"x":"\x01"}',
    b'{"x":-}',
    b'{"x":"\\q","y":[{"z":"]},{"}]}',
    b'{"x":[}]',
    b"nul",
    b"",
    b'{"a":1} {"b":2}',
    b'{"x":' + b"[" * 20 + b"01,{}" + b"]" * 20 + b"}",
)


def reply_of(*elements: bytes) -> bytes:
    return b'{"more":{"n":[1]}, "UMHMessages" : [' + b" , ".join(elements) + b"]}\n"


def element(email: str) -> bytes:
    return b'{"email":"%s","content":"YQ==","metadata":{"traceId":"t"}}' % email.encode()


def content_of(payload: bytes, kind: str = "action") -> str:
    inner = b'{"Payload":%s,"MessageType":"%s"}' % (payload, kind.encode())
    return base64.b64encode(inner).decode()


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d", "�"),
        (r"\uDE00x", "�x"),
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d\ud83d\ude00\ude00", "�😀�"),
        (r"\ud83d\u0041", "�A"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\�"),
        (r"\ud83d\\ude00\ud83d", r"�\ude00�"),
    ],
)
def test_half_a_character_is_read_as_u_fffd_wherever_it_stands(escaped: str, text: str) -> None:
    """JavaScript writes it for a text that was cut; a pair, and what only looks like it, stays."""
    quoted = f'"{escaped}"'.encode()
    batch = decode_batch(reply_of(element("a"), b'{"email":%s,"n":%s}' % (quoted, quoted)))
    assert ([each.email for each in batch.messages], batch.unreadable) == (["a", text], 0)
    assert decode_message(b'{"email":"a","metadata":{"traceId":%s}}' % quoted).trace_id == text
    assert decode_content(content_of(b"{%s:[%s]}" % (quoted, quoted))) == ("action", {text: [text]})
    assert read_texts(b'{"uuid":%s}' % quoted, "login reply", ["uuid"]) == [text]


def test_mending_agrees_with_a_reader_that_leaves_halves_alone() -> None:
    """Whatever the order of halves, backslashes and quotes; nothing grows or shrinks."""
    rng = random.Random(5)
    pieces = ("\\ud83d", "\\ude00", "\\\\", '\\"', "x", "\\u0041", "\\n")
    for _ in range(2_000):
        quoted = '"' + "".join(rng.choices(pieces, k=rng.randint(0, 8))) + '"'
        want = json.loads(quoted).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        found = mended(quoted.encode())
        assert (json.loads(found), len(found)) == (want, len(quoted))


@pytest.mark.parametrize("broken", BROKEN)
def test_an_element_that_is_no_json_costs_no_other(broken: bytes, tmp_path: Path) -> None:
    """Wherever it stands; what holds it is kept for people."""
    for at in range(3):
        elements = [element("a"), element("b")]
        elements.insert(at, broken)
        batch = decode_batch(reply_of(*elements))
        assert ([each.email for each in batch.messages], batch.unreadable) == (["a", "b"], 1)
    saved = tmp_path / f"00001{segments.REPLY}"
    saved.write_bytes(reply_of(element("a"), broken, b"null", element("b")))
    assert spool.unpack(saved) == (2, 1)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".jsonl", ".unreadable"]


def test_what_is_torn_beside_the_list_costs_none_of_it() -> None:
    """But where no message is found, or what is there is not all, it is no reply."""
    batch = decode_batch(b'{"n":01,"umhMessages":[%s,null],"m":"\x01"}' % element("a"))
    assert ([each.email for each in batch.messages], batch.unreadable) == (["a"], 0)
    for bad in (
        b'{"n":01}',
        b'{"n":01,"UMHMessages":nul}',
        reply_of(element("a"), b"01")[:-3],
        reply_of(element("a"), b"01") + b"}",
        reply_of(element("a"), b'{"x":"}'),
        b'{01,"UMHMessages":[%s]}' % element("a"),
        b'{"UMHMessages":[%s,01],"UMHMessages":[7]}' % element("a"),
        b'{"UMHMessages":[%s,01}]' % element("a"),
    ):
        with pytest.raises(CodecError, match="cannot read pull reply"):
            decode_batch(bad)


def test_what_is_well_is_neither_mended_nor_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost several times what reading does."""
    monkeypatch.setattr(mending, "_STEP", None)
    monkeypatch.setattr(mending, "_LONE", None)
    assert len(decode_batch(reply_of(*[element("\\\\ud83d")] * 9)).messages) == 9


def test_steps_and_mends_are_bounded() -> None:
    """Hostile texts are not taken apart for minutes: they are unreadable as a whole."""
    assert len(torn_list(b"[" + b"," * (STEPS_MAX - 2) + b"]")) == STEPS_MAX - 1
    with pytest.raises(ValueError, match="too many parts"):
        torn_list(b"[" + b"," * STEPS_MAX + b"]")
    assert b"fffd" in mended(b"\\ud83d" * MENDS_MAX)
    assert b"fffd" not in mended(b"\\ud83d" * (MENDS_MAX + 1))


def test_an_order_with_half_a_character_is_run(tmp_path: Path) -> None:
    """It was counted as unreadable and deleted, without an answer."""
    line = Line(tmp_path)
    line.send(
        content_of(
            b'{"actionType":"add","actionUUID":"\\ud83du1","actionPayload":{"left":1},'
            b'"note":"\\ud800"}'
        )
    )
    line.run()
    line.pool.end()
    line.run()
    assert line.states() == ["confirmed", "executing", "success"]
    assert [payload["actionUUID"] for _, payload in line.replies()] == ["�u1"] * 3
    line.outbound.close()


@pytest.mark.parametrize("payload", [b'{"v":01}', b'"\x01"', b'{"v":[}]', b"[" * 500 + b"]" * 500])
@pytest.mark.parametrize("half", [b"", b'"note":"\\ud800",'])
def test_an_order_whose_uuid_can_be_read_is_answered(
    payload: bytes, half: bytes, tmp_path: Path
) -> None:
    """Whatever it is that is no JSON: who asked is told."""
    line = Line(tmp_path)
    line.send(
        content_of(
            b'{%s"actionType":"add","actionUUID":"u1","actionPayload":%s}' % (half, payload)
        ),
        content_of(b'{"actionUUID":7,"actionPayload":%s}' % payload),
        content_of(b'{"actionUUID":"u2","actionPayload":%s}' % payload, "status"),
    )
    line.run()
    assert line.states() == ["failure"]
    assert (
        reply_to(tmp_path / "out", "u1")["actionReplyPayloadV2"]["errorCode"] == "ERR_BAD_PAYLOAD"
    )
    assert (line.counts["unreadable"], line.left()) == (3, 0)
    line.outbound.close()
