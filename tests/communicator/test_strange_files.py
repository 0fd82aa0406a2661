"""What others put into the folders under our names: too large to read, or no files at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.spool import saving, segments
from fsmv2.communicator.spool.bounds import FILE_BYTES_MAX
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.spool.tries import Tries
from fsmv2.communicator.switchboard.inbound import Inbound
from fsmv2.communicator.switchboard.ledger import answered_in
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import CodecError, Message

HUGE = 3 << 30
VICTIM = b"precious"


def sparse(path: Path, size: int = HUGE) -> Path:
    """Takes no space on the disk, and would in memory."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read may have come to; one without a bound is not made."""
    asked: list[int] = []
    real = DISK.read

    def read(disk: Any, path: Path, bytes_max: int = -1) -> bytes:
        asked.append(bytes_max)
        assert bytes_max >= 0, path
        return real(path, bytes_max)

    monkeypatch.setattr(type(DISK), "read", read)
    return asked


@pytest.mark.parametrize("name", ["0.json", "0.jsonl", f"{1:020d}-1-a.1.{HUGE}.jsonl"])
def test_a_file_that_is_too_large_is_set_aside_unread(
    tmp_path: Path, reads: list[int], name: str
) -> None:
    """Also one that says how large it is. Who posts, and counts, does not read it either."""
    sparse(tmp_path / name)
    spool.post(
        tmp_path, email="b", message_type="t", payload=1, bounds=spool.Bounds(10**6, 1 << 40)
    )
    assert spool.usage(tmp_path).bytes > HUGE
    assert list(answered_in(tmp_path)) == []
    taken, waiting, refused = spool.outgoing(tmp_path, 100, 1 << 20)
    assert ([one.message.email for one in taken], waiting, refused) == (["b"], 1, 1)
    assert (tmp_path / f"{name}.refused").stat().st_size == HUGE
    assert max(reads) <= FILE_BYTES_MAX + 1


def test_messages_of_a_large_file_are_estimated_by_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    monkeypatch.setattr(segments, "BYTES_MAX", 100)
    (tmp_path / "a.jsonl").write_bytes(b"123456789\n" * 50)
    (tmp_path / "b.jsonl").write_bytes(b"123456789\n" * 3)
    assert spool.usage(tmp_path) == spool.Usage(53, 530, 2)
    assert max(reads) == 100


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a writer that does not know better; and a small one takes little memory."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n")
    sizes = [2, 2]
    real = DISK.size

    def size(disk: Any, path: Path) -> int:
        found = real(path)
        if sizes:
            DISK.jot(path, b"x" * sizes.pop())
        return found

    monkeypatch.setattr(type(DISK), "size", size)
    assert segments.read(path) == b"1\nxxxx"


def test_tries_in_a_file_whose_name_is_no_utf_8_are_known_after_a_kill(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.json")
    (tmp_path / name).touch()
    for number in (1, 2, 3):
        assert Tries(tmp_path).begin(f"{name}#0", noted=True) == number


def test_a_group_that_nobody_would_read_is_refused(tmp_path: Path) -> None:
    many = [bytes(FILE_BYTES_MAX // 8)] * 8
    with pytest.raises(spool.TooLarge, match="it has 268435456 bytes, want under 268435456"):
        spool.append(tmp_path, many, bounds=None)
    assert list(tmp_path.iterdir()) == []
    assert [len(group) for group in segments.groups([b"x" * 1_500_000] * 5)] == [2, 2, 1]
    assert [len(group) for group in segments.groups([b"x"] * 201)] == [100, 100, 1]


def test_what_is_too_large_for_an_inbox_is_kept_unread(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for one of ours: what was pulled is read however large it came out."""
    with pytest.raises(CodecError, match=f"reply': it has {HUGE} bytes, want at most 67108864"):
        spool.unpack(sparse(tmp_path / "1.reply"))
    with pytest.raises(CodecError, match=r"'2.json': it has \d+ bytes, want at most"):
        spool.read_messages(sparse(tmp_path / "2.json"))
    inbound = Inbound(tmp_path)
    assert inbound.receive() is None
    inbound.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.unreadable", "2.json.unreadable"]
    assert reads == []
    ours = spool.append(tmp_path, [spool.encode(Message(email="a"))])
    monkeypatch.setattr(segments, "FILE_BYTES_MAX", 1)
    assert [message.email for message in spool.read_messages(ours)] == ["a"]
    received = inbound.receive()
    assert received is not None
    assert received.message.email == "a"
    with pytest.raises(spool.TooLarge):
        segments.read(ours)


@pytest.mark.parametrize("name", [".puller", ".reader"])
@pytest.mark.parametrize(
    "put",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("../victim", path)],
    ids=["pipe", "folder", "link"],
)
def test_what_is_in_the_place_of_a_lock_is_told(
    relay: Relay, context: Any, tmp_path: Path, put: Callable[[Path], None], name: str
) -> None:
    """No link is followed, no pipe waited for: nothing is pulled, nothing read."""
    access = Pusher(relay, context, tmp_path).access
    inbox = tmp_path / "in"
    inbox.mkdir()
    (tmp_path / "victim").write_bytes(VICTIM)
    put(inbox / name)
    told = f"cannot lock {name!r}: {name!r} is a link, a pipe or a folder, no regular file, want a"
    if name == ".puller":
        problem = PullAction(access, str(inbox)).execute(context).problem
        assert problem is not None
        assert told in problem.text
        assert relay.requests("pull") == []
    else:
        with pytest.raises(OSError, match=told.replace(".", "[.]")):
            spool.claim(inbox)
    assert (tmp_path / "victim").read_bytes() == VICTIM


@pytest.mark.parametrize(
    "write",
    [
        lambda path: DISK.append(path, b"x"),
        lambda path: DISK.jot(path, b"x"),
        lambda path: DISK.empty(path),
        lambda path: DISK.overwrite(path, 0, b"x"),
        lambda path: DISK.refill(path, b"x"),
        lambda path: DISK.make_room(path, 100),
    ],
    ids=["append", "jot", "empty", "overwrite", "refill", "make_room"],
)
def test_what_is_written_to_is_a_file_of_the_folder(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    """Or nothing is; a new file is made in place of whatever is there."""
    victim, there = tmp_path / "victim", tmp_path / "there"
    victim.write_bytes(VICTIM)
    there.symlink_to("victim")
    with pytest.raises(OSError, match="'there' is a link, a pipe or a folder"):
        write(there)
    DISK.create(there).close()
    assert there.is_file()
    assert not there.is_symlink()
    there.unlink()
    os.mkfifo(there)
    with pytest.raises(OSError, match="'there' is a link, a pipe or a folder"):
        write(there)
    assert victim.read_bytes() == VICTIM


@pytest.mark.parametrize("size", [len(VICTIM), saving.RESERVE_BYTES], ids=["other", "as large"])
def test_what_is_in_the_place_of_the_reserve_is_replaced(tmp_path: Path, size: int) -> None:
    """It holds nothing that anybody needs; what it points to is left alone."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    victim = sparse(tmp_path / "victim", size)
    DISK.overwrite(victim, 0, VICTIM)
    (inbox / ".reserve").symlink_to(victim)
    spool.place_for(inbox).discard()
    assert not (inbox / ".reserve").is_symlink()
    assert (victim.read_bytes()[: len(VICTIM)], victim.stat().st_size) == (VICTIM, size)
    (inbox / ".reserve").unlink()
    os.mkfifo(inbox / ".reserve")
    spool.place_for(inbox).discard()
    assert (inbox / ".reserve").is_file()
    assert (inbox / ".reserve").stat().st_size == saving.RESERVE_BYTES
