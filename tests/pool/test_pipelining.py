"""Orders, take-backs, answers and deaths in every order: each attempt runs at most once.

The real pool, channels and pages; the procs are played step by step by the test, so that each
side can be stopped between any two of its steps, as the kernel may stop it.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameBuffer, pack_frame
from fsmv2.ipc.messages import Done, Exit, FromProc, Run, Skipped, ToProc
from fsmv2.supervisor import Action, ActionContext, Limits
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool import Pool, PoolOptions
from fsmv2.supervisor.procs import ProcHandle

QUEUE = 12


class Short(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Played."""


class Long(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Played."""


class Single(Action, frozen=True):
    limits = Limits(concurrency=1)

    def execute(self, ctx: ActionContext) -> None:
        """Played."""


class PlayedProc:
    """A proc that does one thing at a time, when it is told to: see `Proc._result_of`."""

    def __init__(self, world: World, slot: str) -> None:
        self.world = world
        self.handle = ProcHandle(slot, 1, 0.0)
        self.handle.revokes = True
        self.handle.state = ProcState.IDLE
        self.handle.ready_at = 0.0
        os.set_blocking(self.handle.theirs[0], False)
        self._buffer = FrameBuffer()
        self._orders: list[Run] = []
        self._next: Callable[[], None] = self._begin
        self._order: Run | None = None
        self.is_dead = False

    @property
    def at_work(self) -> int | None:
        """The attempt that it has begun for good and not ended."""
        return self._order.attempt_id if self._order and self._next == self._end else None

    def step(self) -> bool:
        """One step. False: it waits for an order."""
        if self._next == self._begin and not self._orders:
            self._read()
            if not self._orders:
                return False
        self._next()
        return True

    def _read(self) -> None:
        try:
            data = os.read(self.handle.theirs[0], 1 << 16)
        except BlockingIOError:
            return
        for body in self._buffer.feed(data):
            order = decode(body, ToProc)
            assert not isinstance(order, Exit)
            self._orders.append(order)

    def _begin(self) -> None:
        self._order = order = self._orders.pop(0)
        self.handle.page.begin(order.attempt_id, 1.0, 0.0, order.place)
        self._next = self._look

    def _look(self) -> None:
        order = self._order
        assert order is not None
        if self.handle.page.is_revoked(order.place):
            self._say(Skipped(order.attempt_id, order.place))
        else:
            self.world.ran(order.attempt_id)
            self._next = self._end

    def _end(self) -> None:
        order = self._order
        assert order is not None
        ran_s = 0.01 if order.action.endswith("Long") else 0.0
        self._say(Done(order.attempt_id, msgspec.Raw(encode(None)), 1.0, ran_s))

    def _say(self, message: FromProc) -> None:
        os.write(self.handle.theirs[1], pack_frame(encode(message)))
        self._next, self._order = self._begin, None


class World:
    """A pool over played procs, and what has really happened."""

    def __init__(self, procs: int, pipeline: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fsmv2-test-")
        self.results: dict[int, ActionResult] = {}
        self.keys: dict[int, str] = {}
        self.runs: Counter[int] = Counter()
        self.ran_by_key: dict[str, list[int]] = {}
        self.procs: list[PlayedProc] = []
        self.pool = Pool(
            {"actions": procs},
            PoolOptions(queue=QUEUE, pipeline=pipeline),
            run_folder=self._folder.name,
            on_result=self._take,
        )
        # No template, no kernel: births and deaths are the test's to say.
        self.pool.nursery = cast(
            Any,
            SimpleNamespace(
                is_hopeless=False,
                procs=[],
                left=self._left,
                bury=lambda proc, failed_start: proc.close(),
                exit_of=lambda proc: (-9, 0.0),
                name_of=lambda proc: proc.slot,
                oom=SimpleNamespace(risen=lambda pid, name: None, look=lambda: None),
            ),
        )
        self.pool.kinds[Short].mean_ran_s = 0.0
        self.pool.kinds[Short].may_wait_in_pipe = True
        self.pool.kinds[Single].mean_ran_s = 0.0
        self.pool.kinds[Single].may_wait_in_pipe = True
        self.lane = self.pool.lanes["actions"]
        for _ in range(procs):
            self.add()

    def add(self) -> None:
        """One more proc, as when the nursery's has said hello."""
        proc = PlayedProc(self, f"p{len(self.procs)}")
        self.procs.append(proc)
        self.lane.add(proc.handle)
        self.pool.dispatcher.dispatch(self.lane)

    def _left(self, lane: Any, dying: ProcHandle, now: float) -> None:
        if lane.queue.size:
            self.pool.dispatcher.dispatch(lane)

    def _take(self, attempt_id: int, result: ActionResult) -> None:
        assert attempt_id not in self.results, f"a second result of {attempt_id}"
        self.results[attempt_id] = result

    def ran(self, attempt_id: int) -> None:
        """A proc has begun an attempt for good."""
        self.runs[attempt_id] += 1
        assert self.runs[attempt_id] == 1, f"attempt {attempt_id} was run twice"
        assert attempt_id not in self.results, f"attempt {attempt_id} has a result already"
        key = self.keys[attempt_id]
        if key:
            others = [p.at_work for p in self.living() if p.at_work is not None]
            assert key not in [self.keys[other] for other in others], f"two of {key!r} at once"
            self.ran_by_key.setdefault(key, []).append(attempt_id)

    def living(self) -> list[PlayedProc]:
        return [proc for proc in self.procs if not proc.is_dead]

    def submit(self, action: Action, key: str = "", urgent: bool = False) -> int:
        attempt_id = self.pool.submit(action, key=key, urgent=urgent)
        self.keys[attempt_id] = key
        return attempt_id

    def read(self, proc: PlayedProc) -> None:
        """The root reads what the proc has said so far."""
        self.pool.answers.readable(proc.handle, 1)

    def find_stalled(self, proc: PlayedProc) -> None:
        """The root's timer finds that the proc has been at one attempt for too long."""
        self.pool.dispatcher._look_for_a_stall(proc.handle, proc.handle.attempt)

    def kill(self, proc: PlayedProc) -> None:
        """The proc is killed from outside, and the kernel says so: see `Nursery._exited`."""
        proc.is_dead = True
        self.read(proc)
        self.pool.happen(proc.handle, ProcEvent.EXITED)

    def finish(self) -> None:
        """Let everybody do what there is to do."""
        quiet = 0
        for _ in range(5_000):
            busy = False
            for proc in self.living():
                busy |= proc.step()
                self.read(proc)
            quiet = 0 if busy else quiet + 1
            if quiet == 2:  # the first may be the one in which the root has read an answer
                return
        raise AssertionError(f"no end: {self.pool!r}")

    def close(self) -> None:
        for proc in self.living():
            proc.handle.close()
        self.pool.poller.close()
        self._folder.cleanup()


class Pipelining(RuleBasedStateMachine):
    """Hypothesis looks for an order of steps that breaks a promise."""

    world: World

    @initialize(procs=st.integers(1, 3), pipeline=st.sampled_from([1, 2, 4, 16]))
    def begin(self, procs: int, pipeline: int) -> None:
        self.world = World(procs, pipeline)
        self.first = dict.fromkeys("ab", 0)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        try:
            world.finish()
            assert set(world.results) == set(world.keys), "each has exactly one result"
            for attempt_id, result in world.results.items():
                expected = {"succeeded": 1, "crashed": 1, "refused": 0}.get(result.status)
                if result.status == "crashed":
                    assert world.runs[attempt_id] <= 1
                elif expected is not None:
                    assert world.runs[attempt_id] == expected, (attempt_id, result.status)
            for key, ran in world.ran_by_key.items():
                assert ran == sorted(ran), f"{key!r} out of order"
            assert world.lane.waiting_in_pipes == 0
            assert len(world.lane.queue) == world.lane.queue.held == 0
            assert all(kind.running == 0 for kind in world.pool.kinds.values())
        finally:
            world.close()

    def pick(self, data: st.DataObject) -> PlayedProc:
        return data.draw(st.sampled_from(self.world.living()))

    @rule(
        kind=st.sampled_from([Short, Short, Short, Long, Single]),
        key=st.sampled_from(["", "", "a", "b"]),
        urgent=st.sampled_from([False, False, True]),
        times=st.integers(1, 6),
    )
    def submit(self, kind: type[Action], key: str, urgent: bool, times: int) -> None:
        for _ in range(times):
            self.world.submit(kind(), key, urgent)

    @rule(data=st.data(), steps=st.integers(1, 8))
    def proc_works(self, data: st.DataObject, steps: int) -> None:
        proc = self.pick(data)
        for _ in range(steps):
            if not proc.step():
                break

    @rule(data=st.data())
    def root_reads(self, data: st.DataObject) -> None:
        self.world.read(self.pick(data))

    @rule(data=st.data())
    def root_finds_a_stall(self, data: st.DataObject) -> None:
        self.world.find_stalled(self.pick(data))

    @precondition(lambda self: self.world.pool.ledger)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [attempt.id for attempt in self.world.pool.ledger]
        assert self.world.pool.cancel(data.draw(st.sampled_from(waiting)))

    @rule(data=st.data())
    def a_proc_dies(self, data: st.DataObject) -> None:
        self.world.kill(self.pick(data))
        self.world.add()

    @invariant()
    def books_agree(self) -> None:
        world = self.world
        handles = [proc.handle for proc in world.living()]
        assert len(world.lane.idle) == len(set(world.lane.idle)), "idle twice"
        for handle in handles:
            idle = handle.state is ProcState.IDLE
            assert (handle in world.lane.idle) is idle
            assert (handle.attempt is None) is idle
            assert not (idle and handle.behind)
        assert world.lane.waiting_in_pipes == sum(len(handle.behind) for handle in handles)
        placed = [one for handle in handles for one in (handle.attempt, *handle.behind) if one]
        assert len(placed) == len({one.id for one in placed}), "one attempt in two places"
        held = sum(len(kind.held) for kind in world.pool.kinds.values())
        assert len(placed) + held + len(world.lane.queue) == len(world.pool.ledger)
        assert world.pool.kinds[Single].running <= 1


Pipelining.TestCase.settings = settings(
    max_examples=int(os.environ.get("PIPELINING", "40")),
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
)
TestPipelining = Pipelining.TestCase


# --- histories, one by one ------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    made = World(2, 16)
    yield made
    made.close()


def steps(proc: PlayedProc, number: int) -> None:
    for _ in range(number):
        assert proc.step()


def run_all(proc: PlayedProc) -> None:
    while proc.step():
        proc.world.read(proc)


def test_orders_taken_back_stay_so_when_others_are_taken_back_after_them(world: World) -> None:
    """The page has one word for what is revoked, and the proc may be slow to look at it."""
    slow, quick = world.procs
    for _ in range(6):
        world.submit(Short())
    assert len(slow.handle.behind) == 4

    # The slow one has begun; what waits behind it is taken back and runs elsewhere.
    steps(slow, 2)
    world.find_stalled(slow)
    assert not slow.handle.behind
    run_all(quick)
    assert len(world.results) == 5

    # It ends, and before it looks at another order, more are given to it and taken back.
    steps(slow, 1)
    world.read(slow)
    for _ in range(8):
        world.submit(Short())
    assert len(slow.handle.behind) == 6
    run_all(quick)
    assert len(slow.handle.behind) < 6
    world.finish()
    assert all(world.runs[one] == 1 for one in world.keys)
    assert len(world.results) == 14


def test_an_attempt_cancelled_as_it_begins_is_not_begun_elsewhere(world: World) -> None:
    """It had been marked as begun, so it was left where it was; then it was not run after all."""
    slow = world.procs[0]
    *_, waiting = [world.submit(Short()) for _ in range(3)]
    assert [one.id for one in slow.handle.behind] == [waiting]
    steps(slow, 4)  # the first begun, looked, ended; the second begun
    assert world.pool.cancel(waiting)
    assert waiting not in world.results
    world.finish()
    assert world.results[waiting].status == "cancelled"
    assert world.runs[waiting] == 0


def test_an_order_that_has_begun_stays_where_it_is(world: World) -> None:
    """Its proc has looked before it was revoked: it runs there, and only there."""
    slow = world.procs[0]
    first, *_ = [world.submit(Short()) for _ in range(6)]
    [head, *behind] = [slow.handle.attempt, *slow.handle.behind]
    assert head is not None
    steps(slow, 3 + 2)  # the first is over, its answer not read; the second is at work
    world.find_stalled(slow)
    assert list(slow.handle.behind) == behind[:1]
    world.finish()
    assert set(world.runs.values()) == {1}
    assert first in world.results


def test_what_waits_behind_a_dead_proc_runs_elsewhere_once(world: World) -> None:
    """One death costs one attempt."""
    slow = world.procs[0]
    ids = [world.submit(Short()) for _ in range(10)]
    head = slow.handle.attempt
    assert head is not None
    steps(slow, 2)
    world.kill(slow)
    world.finish()
    assert [one for one in ids if world.results[one].status != "succeeded"] == [head.id]
    assert world.results[head.id].status == "crashed"
    assert set(world.runs.values()) == {1}
