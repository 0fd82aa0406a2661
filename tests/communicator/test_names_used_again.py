"""Files of others in the outbox, whose names come again: none is lost for another's sake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.communicator.transport.http import HttpTransport


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    return Pusher(relay, context, tmp_path)


def put(pusher: Pusher, name: str, *lines: int | bytes) -> None:
    """As an app does: written beside it and renamed."""
    pusher.outbox.mkdir(exist_ok=True)
    draft = pusher.outbox / ".app"
    draft.write_bytes(
        b"\n".join(
            line
            if isinstance(line, bytes)
            else spool.encode(Message(email="a@x", content=encode_content("status", line)))
            for line in lines
        )
    )
    draft.replace(pusher.outbox / name)


@pytest.mark.parametrize("name", ["status.json", "status.jsonl"])
def test_a_file_that_is_replaced_while_it_is_pushed_is_sent_too(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What the relay has is the one before it."""
    real = HttpTransport.push
    following = [2, 3]

    def push(*arguments: Any) -> None:
        real(*arguments)
        if following:
            put(pusher, name, following.pop(0))

    monkeypatch.setattr(HttpTransport, "push", push)
    put(pusher, name, 1)
    for _ in range(3):
        pusher.push()
    assert (pusher.arrived(), pusher.left()) == ([1, 2, 3], [])


def test_a_second_file_of_a_name_is_sent_whole(pusher: Pusher) -> None:
    """The note of how much of the first was delivered says nothing of it."""
    for first in (0, 1000, 2000):
        put(pusher, "foo.jsonl", *range(first, first + 150))
        pusher.push()
        assert pusher.left() == []
    assert pusher.arrived() == [first + each for first in (0, 1000, 2000) for each in range(150)]


def test_a_file_in_place_of_one_that_is_sent_in_part_is_sent_whole(pusher: Pusher) -> None:
    put(pusher, "foo.jsonl", *range(3))
    taken, _, _ = spool.outgoing(pusher.outbox, 2, 1 << 20)
    spool.acknowledge(taken)
    assert [one.index for one in spool.outgoing(pusher.outbox, 9, 1 << 20)[0]] == [2]
    put(pusher, "foo.jsonl", *range(5, 8))
    pusher.push()
    assert (pusher.arrived(), pusher.left()) == ([5, 6, 7], [])


@pytest.mark.parametrize("name", ["foo.json", "foo.jsonl"])
def test_what_is_kept_for_people_is_not_overwritten(pusher: Pusher, name: str) -> None:
    """Neither where the file is renamed, nor where it holds more, nor where it was replaced."""
    bad = [b"not json %d" % number for number in range(3)]
    for each in bad:
        put(pusher, name, *([each, 7] if name == "foo.jsonl" else [each]))
        pusher.push()
    assert sorted((pusher.outbox / kept).read_bytes() for kept in pusher.left()) == bad
    assert pusher.arrived() == ([7] * 3 if name == "foo.jsonl" else [])


def test_a_file_in_place_of_a_refused_one_is_not_set_aside_for_it(pusher: Pusher) -> None:
    put(pusher, "foo.json", 1)
    (one,) = spool.outgoing(pusher.outbox, 1, 1 << 20)[0]
    put(pusher, "foo.json", 2)
    kept = spool.set_aside(one)
    assert encode_content("status", 1) in kept.read_text()
    pusher.push()
    assert (pusher.arrived(), pusher.left()) == ([2], [kept.name])
