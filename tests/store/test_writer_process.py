"""The root's side of the store: a writer that is a test's own, so that it can die, fall silent and
talk nonsense at any moment. Time stands still unless a test moves it."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fsmv2.ipc.channel import Channel
from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.messages import Message, NotSaved, Recall, Save, Saved, StoreReady, StoreShut, Write
from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.storeevents import (
    StoreDamaged,
    StoreDegraded,
    StoreEnded,
    StoreOpened,
    StoreRecovered,
    StoreRefused,
)
from fsmv2.supervisor.store import process
from fsmv2.supervisor.store.process import ANSWER_S_MAX, DOCUMENT_BYTES_MAX, SEND_S, WriterProcess
from fsmv2.supervisor.system import processes
from fsmv2.supervisor.system.poller import Poller


class Writer:
    """A started writer as `processes.Child` shows it; its end of the pipes is ``channel``."""

    def __init__(self, pid: int, orders_fd: int, answers_fd: int) -> None:
        self.pid = pid
        self.pidfd, self._ends = os.pipe()
        self.channel = Channel(os.dup(orders_fd), os.dup(answers_fd))
        self.code: int | None = None
        self.dies_of_kill = True
        self.is_killed = False

    def say(self, *messages: Message) -> None:
        """Answer the root."""
        for message in messages:
            assert self.channel.send(encode(message))

    def orders(self) -> list[Save]:
        """What has come."""
        return [decode(body, Save) for body in self.channel.receive().frames]

    def end(self, code: int) -> None:
        """Die, with that exit status."""
        self.code = code
        self.channel.close()
        os.close(self._ends)

    def reap(self) -> int | None:
        """As a child."""
        if self.code is not None and self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        return self.code

    def kill(self) -> None:
        """As a child."""
        self.is_killed = True
        if self.dies_of_kill and self.code is None:
            self.end(-9)

    def wait(self) -> int | None:
        """As a child: here it is dead when somebody waits."""
        if self.code is None:
            self.end(-9)
        return self.reap()


class Bench:
    """A root's `WriterProcess` on a clock that a test moves. ``refuses`` makes starts fail."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.heard: list[Event] = []
        self.writers: list[Writer] = []
        self.refuses: OSError | None = None
        self.greets: tuple[Message, ...] = (StoreReady(7, fresh=False),)
        self.poller = Poller()
        arguments = ("/there/store.db", 100, 60.0)
        self.process = WriterProcess(arguments, self.heard.append, self.poller, lambda: self.now)

    def start(self, _name: str, _target: Any, orders: Any, answers: Any, *_more: Any) -> Writer:
        """In the place of `processes.start`."""
        if self.refuses is not None:
            raise self.refuses
        writer = Writer(100 + len(self.writers), orders.fd, answers.fd)
        self.writers.append(writer)
        writer.say(*self.greets)
        return writer

    @property
    def writer(self) -> Writer:
        """The newest."""
        return self.writers[-1]

    def pass_s(self, seconds: float) -> None:
        """Time goes by, and what there is to do then is done."""
        self.now += seconds
        self.poller.poll()
        self.process.tend(self.now)
        self.poller.poll()

    def sleep(self, seconds: float) -> None:
        """In the place of `time.sleep`."""
        self.now += seconds

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.heard if isinstance(event, kind)]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Not opened yet; closed at the end, and no descriptor is left then."""
    gc.collect()  # what other tests have left may hold descriptors, and go at any moment
    before = len(os.listdir("/proc/self/fd"))
    made = Bench()
    monkeypatch.setattr(processes, "start", made.start)
    monkeypatch.setattr(process.time, "sleep", made.sleep)
    yield made
    for writer in made.writers:
        if writer.code is None:
            writer.end(0)
    made.process.close()
    made.poller.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def write(path: str, document: bytes = b"{}") -> Write:
    """A worker's newest document."""
    return Write(path, "identity", 1.0, document)


# --- the root's start -----------------------------------------------------------------------


def test_the_root_waits_for_what_the_file_holds_and_no_longer(bench: Bench) -> None:
    document = msgspec.json.encode({"generation": 3})
    bench.greets = (Recall("a", document), Recall("a/b", document), StoreReady(7, fresh=False))
    bench.process.open()
    assert {path: one.generation for path, one in bench.process.recalled.items()} == {
        "a": 3,
        "a/b": 3,
    }
    [opened] = bench.of(StoreOpened)
    assert (opened.pid, opened.file, opened.recalled) == (7, "/there/store.db", 2)
    assert (bench.process.pid, bench.process.trouble) == (100, "")


def test_a_file_that_cannot_be_had_is_a_start_error_in_the_writers_words(bench: Bench) -> None:
    bench.greets = (StoreShut("cannot open store /there/store.db: locked"),)
    with pytest.raises(StartError, match=r"^cannot open store /there/store.db: locked$"):
        bench.process.open()
    assert bench.process.pid == 0


def test_a_writer_that_cannot_be_started_is_a_start_error(bench: Bench) -> None:
    bench.refuses = OSError(errno.EAGAIN, "no more processes")
    with pytest.raises(StartError, match=r"cannot start the store's writer: .*no more processes"):
        bench.process.open()


def test_a_writer_that_says_nothing_or_dies_keeps_the_root_waiting_for_so_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.greets = ()

    def poll(timeout_s: float) -> None:
        bench.now += timeout_s

    with monkeypatch.context() as patched:
        patched.setattr(Poller, "poll", lambda _self, timeout_s: poll(timeout_s))
        with pytest.raises(StartError, match=r"store.db: its writer has not opened it within 20 s"):
            bench.process.open()
    assert bench.writer.code == 0 or bench.writer.is_killed


def test_a_damaged_file_is_told_with_where_it_went(bench: Bench) -> None:
    bench.greets = (StoreReady(7, fresh=True, moved_to="/there/bad", reason="malformed"),)
    told: list[str] = []
    bench.process.on_fresh = lambda: told.append("fresh")
    bench.process.open()
    [damaged] = bench.of(StoreDamaged)
    assert (damaged.file, damaged.reason, damaged.moved_to) == (
        "/there/store.db", "malformed", "/there/bad",
    )  # fmt: skip
    assert told == [], "at the start everything is said anyway"


# --- saving ---------------------------------------------------------------------------------


def test_one_order_is_out_at_a_time_and_the_next_carries_what_came_meanwhile(bench: Bench) -> None:
    bench.process.open()
    assert bench.process.next_moment() is None
    bench.process.take(write("a"))
    assert bench.process.next_moment() == float("-inf")
    bench.pass_s(0.0)
    bench.process.take(write("b"))
    assert bench.process.next_moment() == bench.now + ANSWER_S_MAX
    bench.pass_s(SEND_S)
    [first] = bench.writer.orders()
    assert [one.path for one in first.writes] == ["a"]

    bench.writer.say(Saved(first.number, refused=["a: too old"]))
    bench.pass_s(SEND_S)

    [second] = bench.writer.orders()
    assert [one.path for one in second.writes] == ["b"]
    assert [one.error for one in bench.of(StoreRefused)] == ["a: too old"]


def test_a_document_no_frame_can_carry_is_refused_once_and_again_after_one_that_fits(
    bench: Bench,
) -> None:
    bench.process.open()
    large = write("a", b"x" * (DOCUMENT_BYTES_MAX + 1))
    for each in (large, large, write("a"), large):
        bench.process.take(each)
    refused = [one.error for one in bench.of(StoreRefused)]
    got = f"got {DOCUMENT_BYTES_MAX + 1} bytes, want at most {DOCUMENT_BYTES_MAX}"
    assert refused == [f"a: cannot keep its identity: {got}; the last that fits stays"] * 2


def test_what_cannot_be_saved_is_told_once_tried_again_and_its_end_is_told(bench: Bench) -> None:
    bench.process.open()
    bench.process.take(write("a"))
    bench.pass_s(0.0)
    for _ in range(2):
        [order] = bench.writer.orders()
        bench.writer.say(NotSaved(order.number, "disk full"))
        bench.pass_s(0.0)
        assert bench.process.trouble == "disk full; 1 unsaved"
        assert bench.writer.orders() == [], "it waits a little"
        wait_s = (bench.process.next_moment() or 0.0) - bench.now
        assert 0.1 < wait_s < 1.0
        bench.pass_s(wait_s)
    [degraded] = bench.of(StoreDegraded)
    assert (degraded.error, degraded.waiting) == ("disk full", 1)

    [order] = bench.writer.orders()
    bench.now += 5.0
    bench.writer.say(Saved(order.number))
    bench.pass_s(0.0)

    [recovered] = bench.of(StoreRecovered)
    assert recovered.downtime_s > 5.0
    assert bench.process.trouble == ""


def test_a_writer_that_does_not_answer_is_trouble_until_it_does(bench: Bench) -> None:
    bench.process.open()
    bench.process.take(write("a"))
    bench.pass_s(0.0)
    bench.pass_s(ANSWER_S_MAX)
    assert bench.process.trouble == "no answer for 10 s; 1 unsaved"
    assert bench.process.next_moment() is None
    [order] = bench.writer.orders()
    bench.writer.say(Saved(order.number))
    bench.pass_s(0.0)
    assert bench.process.trouble == ""


def test_more_than_the_pipe_takes_is_pushed_on_when_there_is_room(bench: Bench) -> None:
    bench.process.open()
    for number in range(40):
        bench.process.take(write(f"w{number}", b"x" * 200_000))
    got: list[str] = []
    for _ in range(200):
        bench.pass_s(SEND_S)
        for order in bench.writer.orders():
            got += [one.path for one in order.writes]
            bench.writer.say(Saved(order.number))
        if len(got) == 40:
            break
    assert got == [f"w{number}" for number in range(40)]


# --- its deaths -----------------------------------------------------------------------------


def test_what_was_not_answered_is_sent_again_to_the_next_writer(bench: Bench) -> None:
    bench.process.open()
    fresh: list[str] = []
    bench.process.on_fresh = lambda: fresh.append("said anew")
    bench.process.take(write("a"))
    bench.pass_s(0.0)
    bench.writer.end(-9)
    bench.pass_s(0.0)
    [ended] = bench.of(StoreEnded)
    assert (ended.pid, ended.verdict) == (100, "killed_from_outside")
    assert (bench.process.pid, bench.process.trouble) == (0, ""), "one death is no trouble yet"
    assert bench.process.next_moment() == bench.now + ended.retry_in_s
    bench.process.tend(bench.now)
    assert len(bench.writers) == 1, "not before its time"

    bench.greets = (StoreReady(8, fresh=True),)
    bench.pass_s(ended.retry_in_s)
    bench.pass_s(SEND_S)

    assert fresh == ["said anew"], "the file holds nothing any more"
    [order] = bench.writer.orders()
    assert [one.path for one in order.writes] == ["a"]


def test_a_writer_that_cannot_be_started_again_is_tried_later_and_later(bench: Bench) -> None:
    bench.process.open()
    bench.writer.end(1)
    bench.pass_s(0.0)
    bench.refuses = OSError(errno.ENOMEM, "no memory")
    waits = []
    for _ in range(4):
        wait_s = (bench.process.next_moment() or 0.0) - bench.now
        waits.append(wait_s)
        bench.pass_s(wait_s)
    assert waits == sorted(waits)
    assert waits[-1] > 2 * waits[0]
    assert "cannot start its writer: [Errno 12] no memory" in bench.process.trouble
    bench.refuses = None
    bench.pass_s(30.0)
    bench.pass_s(0.0)
    assert bench.process.pid == 101


def test_a_later_writer_that_cannot_have_the_file_is_trouble_in_its_words(bench: Bench) -> None:
    bench.process.open()
    bench.writer.end(1)
    bench.pass_s(0.0)
    bench.greets = (StoreShut("cannot open store: locked by pid 5"),)
    bench.pass_s(30.0)
    bench.writer.end(1)
    bench.pass_s(0.0)
    [degraded] = bench.of(StoreDegraded)
    assert degraded.error == "cannot open store: locked by pid 5"


def test_a_writer_that_talks_nonsense_is_killed_and_replaced(bench: Bench) -> None:
    bench.process.open()
    first = bench.writer
    assert first.channel.send(b"\x93no message")
    bench.pass_s(0.0)
    assert first.is_killed
    bench.pass_s(0.0)
    bench.pass_s(30.0)
    bench.pass_s(0.0)
    assert bench.process.pid == 101


# --- the root's end -------------------------------------------------------------------------


def test_at_the_end_it_gets_what_is_left_and_then_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.process.open()
    for name in ("a", "b"):
        bench.process.take(write(name))
    writer, got = bench.writer, []
    poll = Poller.poll

    def answering(poller: Poller, timeout_s: float) -> None:
        for order in writer.orders():
            got.extend(one.path for one in order.writes)
            writer.say(Saved(order.number))
        poll(poller, 0.0)
        if not len(bench.process._outbox):
            writer.end(0)

    monkeypatch.setattr(Poller, "poll", answering)
    bench.process.close()
    assert got == ["a", "b"]
    assert not writer.is_killed
    assert bench.process.pid == 0


def test_at_the_end_one_that_does_not_end_is_killed(bench: Bench) -> None:
    """And what it cannot save for now is not waited for."""
    bench.process.open()
    bench.process.take(write("a"))
    bench.pass_s(0.0)
    [order] = bench.writer.orders()
    bench.writer.say(NotSaved(order.number, "disk full"))
    bench.pass_s(0.0)
    bench.writer.dies_of_kill = False
    bench.process.close()
    assert bench.writer.is_killed
    assert bench.writer.code == -9
    assert bench.process.pid == 0
