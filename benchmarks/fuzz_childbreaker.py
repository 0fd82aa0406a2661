"""Random histories of a child breaker on a fake clock, held against what it promises.

    python benchmarks/fuzz_childbreaker.py --schedules 1000000

Each schedule draws how the child behaves (for good, for a while, falling over again and again,
never coming up), what an operator does to it, and the moments at which anybody looks.
`tests/core/test_childbreaker.py` runs a few thousand of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time

import msgspec

from fsmv2.supervisor.core import childbreaker as core

LOOKS = 60
FAILED = core.Sight("failed", "fresh", "not observed")
HELD = core.Sight("failed", "fresh", "not observed", "its restart type is temporary")
UNMADE = core.Sight("failed", "exists", "ValueError", "made anew by itself", 1)
RUNS, COMES, WAITS, AWAY = (
    core.Sight("runs"), core.Sight("comes"), core.Sight("waits"), core.Sight("away"),
)  # fmt: skip
MOODS = ("healthy", "failing", "flapping", "unmade", "never up", "random", "away")


class BrokenPromise(AssertionError):
    """A schedule in which the breaker did what it may not."""


class Schedule:
    """One random history, made from ``seed`` alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = self.chance.uniform(0.0, 1e6)
        self.track = core.CALM
        self.mood = self.chance.choice(MOODS)
        self.restarting_until = 0.0
        self.restarts: list[float] = []
        self.warned = self.escalated = 0
        self.called_at = self.closed_at = -core.NEVER
        self.runs_since: float | None = None
        self.tries = 0

    def run(self) -> None:
        """All looks; raises `BrokenPromise`."""
        pick = self.chance
        for _ in range(LOOKS):
            if pick.random() < 0.1:
                self.mood = pick.choice(MOODS)
            due = self.track.wake_at()
            wait_s = pick.choice((0.0, 0.1, 1.0, 7.0, 40.0, 400.0)) * pick.random()
            # The engine looks when the breaker wants it to, and whenever it likes before.
            self.now = min(self.now + wait_s, due) if due > self.now else self.now
            self.look(self.sight())
        self.recovers()

    def sight(self) -> core.Sight:
        """What the child shows now, by its mood."""
        pick = self.chance
        if self.mood != "unmade":
            self.tries = 0
        if self.now < self.restarting_until:
            return WAITS
        match self.mood:
            case "healthy":
                return RUNS
            case "failing":
                return FAILED if pick.random() < 0.9 else HELD
            case "flapping":
                return FAILED if pick.random() < 0.5 else RUNS
            case "unmade":
                self.tries += 1
                return msgspec.structs.replace(UNMADE, tries=self.tries)
            case "never up":
                return COMES if self.track.is_open else FAILED
            case "away":
                return AWAY
        return pick.choice((FAILED, HELD, RUNS, COMES, WAITS, AWAY))

    def look(self, sight: core.Sight) -> None:
        """One look, and what it may not do."""
        before = self.track
        self.track, orders = core.look(before, sight, self.now, self.chance.random)
        track, want = self.track, self.want
        if "opened" in orders:
            self.warned = self.escalated = 0
        if "restart" in orders:
            want(sight.kind in ("failed", "comes"), "restarted though it has not failed")
            want(not sight.unless, "restarted though it may not be")
            want(not self.escalated, "restarted after the escalation")
            want(self.now >= before.next_at, "restarted before its wait was over")
            self.restarts = [at for at in self.restarts if self.now - at < 300.0] + [self.now]
            self.restarting_until = self.now + self.chance.choice((0.0, 0.1, 10.0))
        self.warned += orders.count("warn")
        if "escalate" in orders:
            self.escalated += 1
            want(self.now >= self.called_at + 300.0, "a person called twice in a window")
            self.called_at = self.now
        if not sight.tries:
            want(len(self.restarts) <= 5, "over five restarts in a window")
        want(self.warned <= 1 and self.escalated <= 1, "told twice in an incident")
        waits = track.escalated and track.runs_since is None
        want(not waits or track.wake_at() == core.NEVER, "waits after the escalation")
        self.closes(sight, orders)
        if sight.kind == "failed":
            want(track.is_open, "closed though its child has failed")
            stuck = not (sight.unless or track.escalated or "restart" in orders)
            want(not stuck or track.next_at < core.NEVER, "failed, and nothing follows")
        if sight.kind == "comes" and track.is_open and "restart" not in orders:
            stuck = not (track.unless or track.escalated)
            want(not stuck or track.wake_at() < core.NEVER, "on its way, and nobody looks")

    def closes(self, sight: core.Sight, orders: tuple[core.Order, ...]) -> None:
        """Away closes at once, running at once or after ten seconds without a break."""
        began = self.runs_since if sight.kind == "runs" else None
        self.runs_since = self.now if sight.kind == "runs" and began is None else began
        if sight.kind == "away":
            self.want(not self.track.is_open, "open though its child is away")
        if sight.kind == "runs":
            late = self.now >= (self.runs_since or 0.0) + 10.0
            self.want(not (late and self.track.is_open), "open though its child goes on running")
            trial = self.track.is_open and self.track.wake_at() < core.NEVER
            self.want(not self.track.is_open or trial, "runs on trial, and nobody looks")
            if "closed" in orders:
                calm = self.now - self.closed_at >= 60.0
                self.want(late or calm, "closed at once, though it was not long ago")
        if "closed" in orders:
            self.closed_at = self.now

    def recovers(self) -> None:
        """Whatever has happened: once the child runs, its circuit is closed."""
        self.look(RUNS)
        self.now += 10.0
        self.look(RUNS)
        self.want(not self.track.is_open, "open though its child runs")
        self.now += 301.0
        self.track, _ = core.look(self.track, RUNS, self.now, self.chance.random)
        self.want(self.track == core.CALM, "something is left when the window has drained")

    def want(self, claim: bool, what: str) -> None:
        """Raise unless ``claim`` holds."""
        if not claim:
            raise BrokenPromise(f"seed {self.seed}: {what}: {self.track}")


def run_many(seeds: range) -> int:
    """All schedules of ``seeds``; how many there were."""
    for seed in seeds:
        Schedule(seed).run()
    return len(seeds)


def main() -> int:
    """Run, and say how many were without a broken promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--procs", type=int, default=2)
    options = parser.parse_args()
    end, step = options.first + options.schedules, 10_000
    blocks = [range(at, min(at + step, end)) for at in range(options.first, end, step)]
    began = time.perf_counter()
    with multiprocessing.Pool(options.procs) as pool:
        done = sum(pool.imap_unordered(run_many, blocks))
    took_s = time.perf_counter() - began
    print(f"{done} schedules of {LOOKS} looks, none broke a promise, {took_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
