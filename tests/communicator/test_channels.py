"""The channels for in-process users: nothing blocks the caller, nothing is lost, order holds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds, SpoolFull, segments
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.switchboard import (
    Closed,
    Counts,
    Inbound,
    Outbound,
    Switchboard,
    outbound,
)
from fsmv2.communicator.transport.codec import Message

WAIT_S = 20.0


def message(text: object) -> Message:
    return Message(email=str(text))


def until(true: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends_at, what
        time.sleep(0.002)


def without_descriptors(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Relay:
    """Takes from an outbox like a push, in order, into a ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.got: list[str] = []
        self.batches = 0

    def push(self) -> int:
        taken, *_ = spool.outgoing(self.folder, 100, 1 << 20)
        self.got += [one.message.email for one in taken]
        self.batches += 1
        spool.acknowledge(taken)
        return len(taken)

    def drain(self) -> list[str]:
        while self.push():
            pass
        return self.got


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Outbound]:
    channel = Outbound(tmp_path / "out", Bounds(messages_max=50))
    yield channel
    channel.close(WAIT_S)


def fill(folder: Path, *texts: object) -> Path:
    """One inbox file."""
    lines = [spool.encode(message(text)) for text in texts]
    return segments.publish(folder, segments.new_stem(()), lines)


def test_messages_are_written_in_order_and_told_when_they_are_on_disk(out: Outbound) -> None:
    """Many are one group: fewer syncs than messages."""
    told: list[tuple[int, bool]] = []

    def is_there(number: int) -> None:
        told.append((number, any(out.folder.iterdir())))

    for number in range(40):
        out.put(message(number), on_durable=lambda number=number: is_there(number))
    assert told == []
    out.start()
    assert out.flush(WAIT_S)
    assert told == [(number, True) for number in range(40)]
    assert out.counts["spooled"] == 40
    assert out.counts["spool_groups"] == 1
    assert Relay(out.folder).drain() == [str(number) for number in range(40)]


def test_no_message_that_waits_in_memory_shows_itself(out: Outbound) -> None:
    """It may end up in a traceback."""
    out.put(message("s3cret"))
    (one,) = out._waiting
    assert b"s3cret" in one.line
    assert "s3cret" not in repr((out, one))


def test_a_full_channel_refuses_at_once_and_takes_again_when_it_was_pushed(out: Outbound) -> None:
    """Trap 2: a put never blocks, also while nobody writes; memory and disk count together."""
    for number in range(30):
        out.put(message(number))
    out.start()
    out.flush(WAIT_S)
    for number in range(30, 50):
        out.put(message(number))
    with pytest.raises(SpoolFull, match="50 messages"):
        out.put(message("too many"))
    with pytest.raises(SpoolFull, match="for statuses"):
        out.put(message("a status"), replaceable=True)
    assert out.counts["refused"] == 2
    out.flush(WAIT_S)
    relay = Relay(out.folder)
    relay.drain()
    until(lambda: out.present.messages == 0, "the folder is counted anew")
    out.put(message("again"))
    out.flush(WAIT_S)
    assert relay.drain() == [*map(str, range(50)), "again"]


def test_a_disk_that_takes_nothing_delays_messages_and_loses_none(
    out: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in memory and are tried again; the channel fills up and says so."""
    monkeypatch.setattr(outbound, "RETRY_S", 0.01)
    out.folder.parent.mkdir(exist_ok=True)
    out.folder.write_text("in the way")
    out.start()
    for number in range(50):
        out.put(message(number))
    until(lambda: out.counts["spool_failures"] > 3, "it is tried again")
    with pytest.raises(SpoolFull):
        out.put(message(50))
    out.folder.unlink()
    assert out.flush(WAIT_S)
    assert Relay(out.folder).drain() == [str(number) for number in range(50)]


def test_a_closed_channel_says_what_it_could_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 40, this side: flushed within its time, what is left is counted."""
    channel = Outbound(tmp_path / "out")
    channel.start()
    for number in range(50):
        channel.put(message(number))
    assert channel.close(WAIT_S) == 0
    with pytest.raises(Closed):
        channel.put(message("late"))
    assert len(Relay(tmp_path / "out").drain()) == 50
    (tmp_path / "file").touch()
    blocked = Outbound(tmp_path / "file")
    blocked.start()
    blocked.put(message(1))
    assert blocked.close(0.05) == 1


def test_producers_outlive_a_gap_in_pushing_without_a_drop(tmp_path: Path) -> None:
    """Scenario 54: 20 a second for a minute of re-login, and a queue of 20 in the original; here
    it is 1,200 messages at once, and the bounds are the spool's."""
    channel = Outbound(tmp_path / "out", Bounds(messages_max=2_400))
    channel.start()
    for number in range(1_200):
        channel.put(message(number), replaceable=True)
    channel.flush(WAIT_S)
    relay = Relay(channel.folder)
    assert relay.drain() == [str(number) for number in range(1_200)]
    assert relay.batches <= 14
    assert channel.counts["refused"] == 0
    assert channel.close() == 0


def test_a_slow_push_does_not_overflow_the_channel(tmp_path: Path) -> None:
    """Scenario 55, time-compressed: three seconds' worth of messages come during each push; each
    takes what is there, so that the backlog stays one push long."""
    channel = Outbound(tmp_path / "out", Bounds(messages_max=200))
    channel.start()
    relay = Relay(channel.folder)
    most = 0
    for call in range(20):
        for number in range(60):
            channel.put(message(60 * call + number))
        channel.flush(WAIT_S)
        channel._count()
        most = max(most, channel.present.messages)
        relay.push()
        channel._count()
    assert (relay.drain(), most) == ([str(number) for number in range(1_200)], 60)
    assert channel.close() == 0


def test_producers_in_many_threads_keep_their_own_order(tmp_path: Path) -> None:
    """And the channel has one thread, however many put."""
    channel = Outbound(tmp_path / "out")
    channel.start()
    before = threading.active_count()

    def produce(name: str) -> None:
        for number in range(100):
            channel.put(message(f"{name}{number}"))

    threads = [threading.Thread(target=produce, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threading.active_count() == before
    channel.flush(WAIT_S)
    got = Relay(channel.folder).drain()
    for name in "abc":
        assert [each for each in got if each[0] == name] == [f"{name}{n}" for n in range(100)]
    channel.close()


def test_received_messages_stay_on_disk_until_they_are_done(tmp_path: Path) -> None:
    """In order, over files; a file goes when all in it are done, in whatever order."""
    first, second = fill(tmp_path, 1, 2), fill(tmp_path, 3)
    channel = Inbound(tmp_path)
    got = [channel.receive() for _ in range(4)]
    assert [one and one.message.email for one in got] == ["1", "2", "3", None]
    one, two, three, _ = got
    assert one is not None
    assert two is not None
    assert three is not None
    two.done()
    three.done()
    three.done()
    assert (channel.sweep(), channel.open) == (1, 1)
    assert (first.exists(), second.exists()) == (True, False)
    again = Inbound(tmp_path)  # after a kill: what is in an open file comes again
    assert [found.message.email for found in iter(again.receive, None)] == ["1", "2"]
    one.done()
    assert channel.sweep() == 1
    assert not first.exists()


def test_a_full_window_leaves_the_rest_on_disk_in_order(tmp_path: Path) -> None:
    """Scenario 29: it takes 2 of 4; the other 2 come next, before anything newer."""
    fill(tmp_path, 1, 2, 3, 4)
    channel = Inbound(tmp_path, window=2)
    one, two, none = channel.receive(), channel.receive(), channel.receive()
    assert none is None
    assert channel.stats() == (2, 4)
    fill(tmp_path, 5)
    for each in (one, two):
        assert each is not None
        each.done()
    got = []
    while (found := channel.receive()) is not None:
        got.append(found.message.email)
        found.done()
    assert got == ["3", "4", "5"]
    channel.sweep()
    assert channel.stats() == (2, 0)


def test_5000_messages_of_one_pull_all_come(tmp_path: Path) -> None:
    """Scenario 62, this side: one reply is one file, and no window drops any of it."""
    fill(tmp_path, *range(5_000))
    channel = Inbound(tmp_path)
    got = 0
    while (found := channel.receive()) is not None:
        assert found.message.email == str(got)
        found.done()
        got += 1
    assert (got, channel.sweep(), channel.stats()[1]) == (5_000, 1, 0)


def test_lines_that_are_no_message_are_kept_for_people(tmp_path: Path) -> None:
    """And those around them come."""
    good = spool.encode(message("good"))
    segments.publish(tmp_path, segments.new_stem(()), [b"{", good, b"7"])
    counts = Counts()
    channel = Inbound(tmp_path, counts)
    found = channel.receive()
    assert found is not None
    assert channel.receive() is None
    found.done()
    channel.sweep()
    assert counts["unreadable"] == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".unreadable"]


def test_a_file_that_cannot_be_read_for_a_moment_is_still_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors, say: nothing newer overtakes it, and it does not wait for a restart."""
    for number in range(3):
        fill(tmp_path, number)
    channel = Inbound(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "read", without_descriptors)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open files"):
                channel.receive()
    assert [found.message.email for found in iter(channel.receive, None)] == ["0", "1", "2"]


def test_a_sweep_that_failed_half_way_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was moved aside already is not looked for in its old place for ever."""
    segments.publish(tmp_path, segments.new_stem(()), [b"{"])
    readable = fill(tmp_path, "good")
    channel = Inbound(tmp_path)
    found = channel.receive()
    assert found is not None
    found.done()
    assert channel.receive() is None
    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "sync_folder", without_descriptors)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open files"):
                channel.sweep()
    assert channel.sweep() == 2
    assert not readable.exists()
    assert [path.suffix for path in tmp_path.iterdir()] == [".unreadable"]


def test_a_message_that_comes_ends_the_wait(tmp_path: Path) -> None:
    """And so does a wake; a wait has its end."""
    channel = Inbound(tmp_path / "in")
    assert channel.receive(0.01) is None
    woken = threading.Timer(0.01, channel.wake)
    woken.start()
    assert channel.receive(WAIT_S) is None
    writes = threading.Timer(0.01, fill, (tmp_path / "in", "x"))
    writes.start()
    found = channel.receive(WAIT_S)
    assert found is not None
    assert "x" not in repr(found).split("Message")[1].replace("characters", "")
    woken.join()
    writes.join()


def test_an_inbox_has_one_consumer(tmp_path: Path) -> None:
    """A second switchboard on the same folder is refused before it starts anything: two would run
    orders twice."""
    claimed = spool.claim(tmp_path / "in")
    board = Switchboard(tmp_path / "out", tmp_path / "in", None, {})  # type: ignore[arg-type]
    before = threading.active_count()
    with pytest.raises(spool.Claimed, match=r"/in': another consumer reads it, want one"):
        board.start()
    assert threading.active_count() == before
    claimed.close()
    with board:
        assert threading.active_count() == before + 2
    spool.claim(tmp_path / "in").close()


def test_an_error_of_ours_ends_no_channel(
    out: Outbound, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in writing nor in a callback; it is told by its type."""
    monkeypatch.setattr(outbound, "RETRY_S", 0.01)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("s3cret")

    with monkeypatch.context() as patch:
        patch.setattr(outbound, "append", broken)
        out.start()
        out.put(message(1), on_durable=broken)
        until(lambda: out.counts["faults"] > 1, "it is tried again")
    assert out.flush(WAIT_S)
    out.put(message(2))
    assert out.flush(WAIT_S)
    assert Relay(out.folder).drain() == ["1", "2"]
    assert "s3cret" not in caplog.text


def test_what_must_be_noted_before_it_is_seen_waits_until_it_can_be(
    out: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those behind it, in their order; those before it are not held up."""
    monkeypatch.setattr(outbound, "RETRY_S", 0.01)
    is_full = True

    def note(_line: bytes) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "no space")

    out.put(message(1))
    out.put(message(2), on_writing=note)
    out.put(message(3))
    out.start()
    until(lambda: out.counts["spool_failures"] > 2, "it is tried again")
    assert Relay(out.folder).drain() == ["1"]
    is_full = False
    assert out.flush(WAIT_S)
    assert Relay(out.folder).drain() == ["2", "3"]


CLAIMS_AND_FORKS = """
import os, sys
from pathlib import Path
from fsmv2.communicator.spool import claim
folder = Path(sys.argv[1])
held = claim(folder)
read, write = os.pipe()
lives, live = os.pipe()
child = os.fork()
if child == 0:
    os.close(write)
    os.write(live, b"x")
    os.read(read, 1)
    os._exit(0)
os.read(lives, 1)
held.close()
claim(folder).close()
os.close(write)
os.waitpid(child, 0)
print("free")
"""


@pytest.mark.proc
def test_a_claim_is_not_that_of_a_forked_child_too(tmp_path: Path) -> None:
    """It would outlive the program that is killed."""
    told = subprocess.run(
        [sys.executable, "-P", "-c", CLAIMS_AND_FORKS, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert told.stdout == "free\n"
