"""A delivery that could not be noted, or not be removed, would be made again with each try: so it
is not made, and the error says what is in the way. What others put into the folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.spool import disk as disk_module
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, encode_content

TRIES = 3


def foreign(name: str | bytes, outbox: Path, *numbers: int) -> None:
    """Messages somebody else puts there, who knows nothing of notes."""
    outbox.mkdir(exist_ok=True)
    lines = [
        spool.encode(Message(email="a@x", content=encode_content("status", number)))
        for number in numbers
    ]
    Path(outbox, os.fsdecode(name)).write_bytes(b"\n".join(lines) + b"\n")


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    return Pusher(relay, context, tmp_path)


def is_refused_unsent(pusher: Pusher) -> str:
    for errors in range(1, TRIES + 1):
        stands = pusher.push()
        assert (stands.moved, stands.errors_in_row) == (0, errors)
    assert pusher.relay.requests("push") == []
    assert stands.problem is not None
    pusher.stands = Direction()  # or the next would be sent one by one
    return stands.problem.text


@pytest.mark.parametrize(
    ("put", "got"),
    [
        (os.mkfifo, "'.acked' is a link, a pipe or a folder, no regular file"),
        (os.mkdir, "Is a directory"),
        (lambda path: os.symlink("victim", path), "symbolic link"),
    ],
    ids=["pipe", "folder", "link"],
)
def test_what_is_in_the_place_of_the_notes_is_told_and_nothing_is_sent(
    pusher: Pusher, put: Callable[[Path], None], got: str
) -> None:
    foreign("a.jsonl", pusher.outbox, *range(150))
    (pusher.outbox / "victim").write_text("precious")
    put(pusher.outbox / ".acked")
    told = is_refused_unsent(pusher)
    assert "no delivery can be noted in 'out/.acked': " in told
    assert got in told
    assert "want a file that may be read and written, of 1024 bytes" in told
    assert (pusher.outbox / "victim").read_text() == "precious"
    there = pusher.outbox / ".acked"
    there.rmdir() if there.is_dir() else there.unlink()
    assert pusher.push().problem is None
    assert pusher.arrived() == list(range(150))


def test_notes_of_another_user_are_told_and_nothing_is_sent(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher.post(*range(60))
    pusher.post(*range(60, 120))
    real = disk_module._open_at_once

    def open_at_once(path: Path, flags: int) -> int:
        if Path(path).name == ".acked" and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(disk_module, "_open_at_once", open_at_once)
        assert "'out/.acked': Permission denied, want a file that" in is_refused_unsent(pusher)
    assert pusher.push().problem is None
    assert pusher.arrived() == list(range(120))


def test_what_a_sticky_folder_would_keep_is_not_sent(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /tmp only a file's owner removes it, or the folder's."""
    pusher.post(1, 2)
    pusher.outbox.chmod(0o1777)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 54_321)
        patch.setattr(disk_module, "_may_act_as_owner", lambda: False)
        told = is_refused_unsent(pusher)
        assert "could not be removed once it is delivered: 'out' is sticky" in told
        pusher.outbox.chmod(0o777)
        assert pusher.push().problem is None
    assert pusher.arrived() == [1, 2]


def test_on_a_full_disk_without_notes_only_whole_files_are_sent(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need none, and make room."""
    foreign("a.jsonl", pusher.outbox, *range(150))

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_space)
        assert "'out/.acked': No space left" in is_refused_unsent(pusher)
        assert pusher.left() == ["a.jsonl"]
        assert list(pusher.outbox.iterdir()) == [pusher.outbox / "a.jsonl"]
        (pusher.outbox / "a.jsonl").rename(pusher.outbox.parent / "later")
        foreign("b.json", pusher.outbox, 777)
        assert pusher.push().problem is None
    (pusher.outbox.parent / "later").rename(pusher.outbox / "a.jsonl")
    assert pusher.push().problem is None
    assert pusher.arrived() == [777, *range(150)]
    assert (pusher.outbox / ".acked").stat().st_size == 1024


def test_a_name_that_is_no_utf_8_is_noted(pusher: Pusher) -> None:
    """Delivered in two requests, each message once."""
    foreign(b"\xff.jsonl", pusher.outbox, *range(150))
    assert pusher.push().problem is None
    assert pusher.arrived() == list(range(150))
    assert pusher.left() == []
