"""Orders, take-backs, answers and deaths in every order: each attempt runs at most once.

The real pool, channels and pages; the procs are played step by step by the test, so that each
side can be stopped between any two of its steps, as the kernel may stop it.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameBuffer, pack_frame
from fsmv2.ipc.messages import Done, FromProc, Order, Run, Skipped, ToProc
from fsmv2.supervisor import Action, ActionContext, Limits
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.events import Event, ProcEnded
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.core.quarantine import CLEAN
from fsmv2.supervisor.pool.attempts import UNBEGUN_MAX
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.pool.procs import ProcHandle

QUEUE = 12
SEEDS = 150


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
        self._orders: list[tuple[int, Order]] = []
        self._next: Callable[[], None] = self._begin
        self._order: Order | None = None
        self._place = 0
        self.is_dead = False

    @property
    def at_work(self) -> int | None:
        """The attempt that it has begun for good and not ended."""
        return self._order[0] if self._order and self._next == self._end else None

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
            run = decode(body, ToProc)
            assert isinstance(run, Run)
            self._orders += enumerate(run.orders, run.place)

    def _begin(self) -> None:
        self._place, self._order = self._orders.pop(0)
        self.handle.page.begin(self._order[0], 1.0, 0.0, self._place)
        self._next = self._look

    def _look(self) -> None:
        assert self._order is not None
        attempt_id = self._order[0]
        if self.handle.page.is_revoked(self._place):
            self._say(Skipped(attempt_id, self._place))
        else:
            self.world.ran(attempt_id)
            self._next = self._end

    def _end(self) -> None:
        assert self._order is not None
        attempt_id, action, _payload, _timeout_s = self._order
        ran_s = 0.01 if action.endswith("Long") else 0.0
        self._say(Done(attempt_id, encode(None), 1.0, ran_s))

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
                failed=SimpleNamespace(is_hopeless=False),
                procs=[],
                left=self._left,
                bury=lambda proc, failed_start, by_others: proc.close(),
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

    def submit(
        self, action: Action, key: str = "", urgent: bool = False, gives_out: bool = True
    ) -> int:
        """``gives_out``: as the next answer would, though fewer wait than go out at once."""
        attempt_id = self.pool.submit(action, key=key, urgent=urgent)
        self.keys[attempt_id] = key
        if gives_out:
            self.pool.dispatcher.dispatch(self.lane)
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


class History:
    """A random order of steps, the same for a seed, with all books checked after each."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.world = World(chance.choice([1, 2, 2, 3]), chance.choice([1, 2, 4, 16]))
        deaths = chance.choice([0.0, 0.0, 0.6])
        self.weights = [3.0, 6.0, 4.0, 2.0, 1.0, deaths]
        self.steps = [
            self.submit,
            self.proc_works,
            self.root_reads,
            self.root_finds_a_stall,
            self.cancel,
            self.proc_dies,
        ]

    def play(self) -> None:
        try:
            for _ in range(self.chance.choice([15, 25, 40, 80])):
                self.chance.choices(self.steps, self.weights)[0]()
                self.check_books()
            self.world.finish()
            self.check_books()
            self.check_end()
        finally:
            self.world.close()

    def any_proc(self) -> PlayedProc:
        return self.chance.choice(self.world.living())

    def submit(self) -> None:
        kind: type[Action] = self.chance.choice([Short, Short, Short, Long, Single])
        key, urgent = self.chance.choice(["", "", "a", "b"]), self.chance.random() < 0.2
        gives_out = self.chance.random() < 0.5
        for _ in range(self.chance.randint(1, 6)):
            self.world.submit(kind(), key, urgent, gives_out)

    def proc_works(self) -> None:
        proc = self.any_proc()
        for _ in range(self.chance.randint(1, 6)):
            if not proc.step():
                break

    def root_reads(self) -> None:
        self.world.read(self.any_proc())

    def root_finds_a_stall(self) -> None:
        self.world.find_stalled(self.any_proc())

    def cancel(self) -> None:
        ids = [attempt.id for attempt in self.world.pool.ledger]
        if ids:
            assert self.world.pool.cancel(self.chance.choice(ids))

    def proc_dies(self) -> None:
        self.world.kill(self.any_proc())
        self.world.add()

    def check_books(self) -> None:
        """What the pool notes of its procs and attempts agrees."""
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
        for kind in world.pool.kinds.values():
            assert kind.running == sum(one.kind is kind for one in placed)
        assert world.pool.kinds[Single].running <= 1

    def check_end(self) -> None:
        """Each has its one result, which says what has really happened."""
        world = self.world
        assert set(world.results) == set(world.keys), "each has exactly one result"
        for attempt_id, result in world.results.items():
            if result.status in ("succeeded", "refused"):
                assert world.runs[attempt_id] == (result.status == "succeeded"), attempt_id
        for key, ran in world.ran_by_key.items():
            assert ran == sorted(ran), f"{key!r} out of order"
        assert world.lane.waiting_in_pipes == 0
        assert len(world.lane.queue) == world.lane.queue.held == 0
        assert all(kind.running == 0 for kind in world.pool.kinds.values())


@pytest.mark.parametrize("block", range(4))
def test_in_no_order_of_steps_does_an_attempt_run_twice_or_get_lost(block: int) -> None:
    """A failure names its seed: ``History(seed).play()``."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        try:
            History(seed).play()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


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


def test_what_waits_in_a_pipe_learns_of_its_stop_at_its_turn(world: World) -> None:
    """The page has room for one: the attempt at work must not miss its own."""
    proc = world.procs[0]
    for _ in range(6):
        world.submit(Short())
    at_work, behind = proc.handle.attempt, proc.handle.behind[0]
    assert at_work is not None
    world.pool.tell_of_stop(at_work.id)
    world.pool.tell_of_stop(behind.id)
    assert proc.handle.page.is_told_of_stop(at_work.id)
    steps(proc, 3)
    world.read(proc)
    assert proc.handle.attempt is behind
    assert proc.handle.page.is_told_of_stop(behind.id)


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


def test_a_death_names_the_attempt_it_has_cost_and_not_the_next(world: World) -> None:
    """That one was given to the proc before its death was seen, and runs elsewhere: with it in
    the log, a death that nothing else tells of would look like one that is told."""
    events: list[Event] = []
    world.pool.on_event = events.append
    proc, other = world.procs
    first, second, third = [world.submit(Long()) for _ in range(3)]
    assert proc.handle.attempt is not None
    first, second = (first, second) if proc.handle.attempt.id == first else (second, first)
    steps(proc, 3)
    world.read(proc)
    assert first in world.results
    assert proc.handle.attempt.id == third
    world.kill(proc)
    steps(other, 2)
    world.kill(other)
    ended = [event for event in events if isinstance(event, ProcEnded)]
    assert [event.attempt_id for event in ended] == [None, second]
    world.add()
    world.finish()
    assert world.results[third].succeeded


def test_what_has_run_is_not_given_out_again_because_its_answer_was_not_read(
    world: World,
) -> None:
    """The proc has marked an order as begun that was revoked, after one that was not."""
    slow = world.procs[0]
    for _ in range(6):
        world.submit(Short())
    [_head, ran, *_others] = [slow.handle.attempt, *slow.handle.behind]
    assert ran is not None
    steps(slow, 3 + 2)  # the second is at work
    world.find_stalled(slow)
    assert list(slow.handle.behind) == [ran]
    steps(slow, 1 + 1)  # it has ended; the third is marked as begun, and revoked
    world.pool.dispatcher.take_back(slow.handle)
    assert list(slow.handle.behind) == [ran]
    world.finish()
    assert set(world.runs.values()) == {1}
    assert len(world.results) == 6


def test_a_place_left_free_by_a_cancelled_attempt_is_given_to_one_that_was_held_back(
    world: World,
) -> None:
    """It had come back from a dead proc, so nothing of its type was at work to end."""
    ids = [world.submit(Single()) for _ in range(2)]
    assert len(world.pool.kinds[Single].held) == 1
    [proc] = [one for one in world.procs if one.handle.attempt is not None]
    [other] = [one for one in world.procs if one is not proc]
    busy = world.submit(Long())
    assert other.handle.attempt is not None
    world.kill(proc)
    assert len(world.lane.queue) == 1
    assert world.pool.cancel(ids[0])
    world.add()
    world.finish()
    assert world.results[ids[1]].succeeded
    assert world.results[busy].succeeded


def test_an_attempt_that_no_proc_lives_to_begin_is_refused_and_not_blamed() -> None:
    """Nothing of it has run: it is no crash of its type's, and safe to ask for again."""
    world = World(1, 1)
    try:
        never = world.submit(Long(), key="valve")
        following = world.submit(Long(), key="valve")
        for deaths in range(UNBEGUN_MAX):
            assert never not in world.results, f"after {deaths} deaths"
            world.kill(world.procs[-1])
            world.add()
        result = world.results[never]
        assert result.status == "refused"
        assert str(result.error) == (
            "NeverBegan: 20 procs died before they began it, the last: killed_from_outside"
        )
        kind = world.pool.kinds[Long]
        assert kind.record is CLEAN
        world.finish()
        assert world.results[following].status == "succeeded"
        assert (world.runs[never], kind.running) == (0, 0)
    finally:
        world.close()
