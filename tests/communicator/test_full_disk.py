"""A pull deletes at the relay: what becomes of a reply on a disk that is full, or gets full."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from memorydisk import Died, MemoryDisk

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.outcomes import Credentials, Direction
from fsmv2.communicator.spool import saving, segments
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.errors import Kind
from fsmv2.communicator.transport.http import BODY_BYTES_MAX
from fsmv2.supervisor import Secret

FOLDER = Path("/spool")
REPLY = b'{"UMHMessages":[{"email":"0"},{"email":"1"},{"email":"2"}]}'


class Puller:
    """Pulls from one relay into one inbox."""

    def __init__(self, relay: Relay, context: Any, folder: Path) -> None:
        self.relay, self.context, self.inbox = relay, context, folder / "in"
        made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
        login = AuthenticateAction(made_for).execute(context)
        assert login.session is not None
        self._access = Access(made_for, login.session, 7, login.instance_uuid)
        self.stands = Direction()

    def pull(self) -> Direction:
        self.stands = PullAction(self._access, str(self.inbox), self.stands).execute(self.context)
        return self.stands

    def send(self, *payloads: Any) -> None:
        for payload in payloads:
            self.relay.send("ada@example.com", "action", payload)

    def received(self) -> int:
        files = spool.inbox_files(self.inbox)
        return sum(len(spool.read_messages(path)) for path in files)


@pytest.fixture
def puller(relay: Relay, context: Any, tmp_path: Path) -> Puller:
    return Puller(relay, context, tmp_path)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens while it waits: called one after the other, the last again and again."""
    happens: list[Callable[[], None]] = []

    def sleep(_: float) -> None:
        (happens.pop(0) if len(happens) > 1 else happens[0])()

    monkeypatch.setattr(saving.time, "sleep", sleep)
    return happens


@contextmanager
def full(monkeypatch: pytest.MonkeyPatch, *but: str) -> Iterator[None]:
    """A disk on which nothing new is written, but for these of its operations."""

    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        for name in {"sync", "allocate", "refill"} - set(but):
            patch.setattr(type(DISK), name, no_space)
        yield


def test_without_room_for_the_largest_reply_nothing_is_pulled(
    puller: Puller, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages stay at the relay; the error has the numbers and the page to read."""
    puller.send(1, 2)
    assert saving.FREE_BYTES_MIN >= BODY_BYTES_MAX
    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "free", lambda *_: saving.FREE_BYTES_MIN - 1)
        for errors in (1, 2, 3):
            stands = puller.pull()
            assert stands.errors_in_row == errors
    assert stands.problem is not None
    assert stands.problem.kind is Kind.CHANNEL_FULL
    assert "67108863 bytes are free, want 67108864" in stands.problem.text
    assert "fsmv2 runbook disk-full" in stands.problem.text
    with full(monkeypatch):
        (puller.inbox / saving.RESERVE).unlink()
        assert "cannot set 4194304 bytes aside there: No space left" in str(puller.pull().problem)
    assert relay.requests("pull") == []
    assert [path.name for path in puller.inbox.iterdir()] == [".puller"]
    assert (puller.pull().problem, puller.received()) == (None, 2)


def test_a_disk_that_fills_up_during_the_request_costs_no_message(
    puller: Puller, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply goes into the reserve; it is unpacked when there is room, and nothing more is
    pulled before."""
    puller.send(1, 2, 3)
    with full(monkeypatch, "allocate", "refill"):
        assert puller.pull().problem is not None
        assert {path.suffix for path in puller.inbox.iterdir()} == {"", ".reply"}  # and the lock
    with full(monkeypatch):
        puller.send(4)
        assert puller.pull().problem is not None
    assert len(relay.requests("pull")) == 1
    assert (puller.pull().problem, puller.received()) == (None, 4)
    assert len(relay.requests("pull")) == 2
    assert (puller.inbox / saving.RESERVE).stat().st_size == saving.RESERVE_BYTES


def test_a_reply_that_no_reserve_holds_is_held_until_there_is_room(
    puller: Puller, monkeypatch: pytest.MonkeyPatch, slept: list[Callable[[], None]]
) -> None:
    """By a limit of the kernel's own on how large a file may be, which is lifted later on."""
    puller.pull()
    puller.send("x" * 60_000, "y" * 60_000)
    monkeypatch.setattr(saving, "RESERVE_BYTES", 1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    slept += [lambda: None, lift]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        stands = puller.pull()
    finally:
        lift()
    assert (stands.problem, stands.moved, puller.received()) == (None, 2, 2)


def test_what_is_lost_all_the_same_is_told(
    puller: Puller, monkeypatch: pytest.MonkeyPatch, slept: list[Callable[[], None]]
) -> None:
    """Larger than the reserve, on a disk that stays full to the attempt's end, or to a stop."""
    monkeypatch.setattr(saving, "RESERVE_BYTES", 10)
    puller.send("secret-content")
    slept += [lambda: None, lambda: setattr(puller.context, "cancelled", True)]
    with full(monkeypatch, "allocate"):
        stands = puller.pull()
    assert stands.problem is not None
    assert "bytes is lost, the inbox takes nothing: No space left" in stands.problem.text
    told = [(level, fields) for event, level, fields in puller.context.logged if "lost" in event]
    assert [(level, fields["why"]) for level, fields in told] == [
        ("error", "No space left on device")
    ]
    assert told[0][1]["bytes"] > 50


def test_where_no_more_unreadable_replies_are_kept_nothing_is_pulled(
    puller: Puller, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are never deleted: a relay that sends rubbish is asked no more, and it is told."""
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 2)
    puller.inbox.mkdir()
    for number in range(2):
        (puller.inbox / f"{number}.unreadable").touch()
    stands = puller.pull()
    assert stands.problem is not None
    assert stands.problem.kind is Kind.CHANNEL_FULL
    assert "2 files with 0 bytes are kept there, want at most 2" in stands.problem.text
    assert relay.requests("pull") == []


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
def test_a_reply_survives_any_step_that_fails_and_death_at_any_later_one(
    power_cut: bool, monkeypatch: pytest.MonkeyPatch, slept: list[Callable[[], None]]
) -> None:
    """Whatever single step finds no space, the reply is saved; once it is, no end loses it."""
    monkeypatch.setattr(saving, "RESERVE_BYTES", 100)
    slept.append(lambda: None)
    for seed in range(200):
        rng = random.Random(seed)
        disk = MemoryDisk()
        spool.place_for(FOLDER, disk).discard()
        place = spool.place_for(FOLDER, disk)
        disk.fails_at = disk.steps + rng.randint(1, 8)
        path = place.save(REPLY, lambda: True)
        disk.fails_at = None
        disk.steps_left = rng.randint(0, 12)
        try:
            spool.unpack(path, disk)
            spool.place_for(FOLDER, disk).discard()
        except Died:
            pass
        disk.steps_left = None
        if power_cut:
            disk.power_cut(rng)
        for reply in spool.saved_replies(FOLDER, disk):
            spool.unpack(reply, disk)
        (file,) = spool.inbox_files(FOLDER, disk)
        assert [m.email for m in spool.read_messages(file, disk)] == ["0", "1", "2"], seed


def test_the_real_disk_says_what_is_free_and_keeps_what_is_allocated(tmp_path: Path) -> None:
    """Against the kernel's own numbers; a file that cannot be allocated is not there."""
    found = os.statvfs(tmp_path)
    assert abs(DISK.free(tmp_path) - found.f_bavail * found.f_frsize) < found.f_blocks / 2 * 4096
    path = tmp_path / "reserve"
    DISK.allocate(path, 100_000)
    assert path.stat().st_blocks * 512 >= 100_000
    DISK.refill(path, b"short")
    assert path.read_bytes() == b"short"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            DISK.allocate(path, 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not path.exists()
