"""Random histories of the infrastructure breaker on a fake clock, held against what it promises.

    python benchmarks/fuzz_breaker.py --schedules 1000000

Each schedule draws a limit, what the readings do (calm, high, up and down each second, missing, at
random), actions that start and end or hang, an operator's word, and the moments at which anybody
looks. `tests/core/test_breaker.py` runs a few thousand of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time

from fsmv2.supervisor.core import breaker as core
from fsmv2.supervisor.core.limits import FORGET_S, Limit, Track, follow

MODES = ("calm", "high", "flapping", "missing", "between", "random")
SECONDS = 60
FLIPS_WINDOW_S = 60.0
FLIPS_MAX = 2
SAMPLE_S = 1.0


class BrokenPromise(AssertionError):
    """A schedule in which the breaker did what it may not."""


class Schedule:
    """One random history, made from ``seed`` alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        pick = self.chance
        close = pick.choice((0.5, 0.8, 0.9))
        self.limit = Limit(open=0.9, close=close, for_s=pick.choice((0.0, 0.0, 1.0, 3.0, 5.0)))
        self.probe_s = pick.choice((2.0, 5.0, 10.0))
        self.now = pick.uniform(0.0, 1e6)
        self.start = self.now
        self.track = Track("memory", self.limit)
        self.breaker = core.Breaker(probe_s=self.probe_s)
        self.attempts = 0
        self.admitted: dict[int, float] = {}
        self.admitted_at = 0.0
        self.running: list[int] = []
        self.flips: list[float] = []
        self.well_since: float | None = self.now
        self.over_since: float | None = None
        self.seen_over = False
        self.mode = "calm"
        self.mode_until = self.now
        self.all_flapping = pick.random() < 0.2
        self.operator = pick.random() < 0.2
        self.trouble_until = self.now

    def run(self) -> None:
        """Let it pass. Raises `BrokenPromise`."""
        sample_at, end = self.now, self.now + SECONDS
        while self.now < end:
            moments = [sample_at, core.next_moment(self.breaker, self.now) or end, end]
            self.now = max(self.now, min(moments))
            if self.now >= sample_at:
                sample_at += SAMPLE_S
                self._sample()
            self._look()
            self._act()

    def _sample(self) -> None:
        pick = self.chance
        if self.now >= self.mode_until:
            self.mode = "flapping" if self.all_flapping else pick.choice(MODES)
            self.mode_until = self.now + pick.choice((3.0, 10.0, 30.0))
        match self.mode:
            case "calm":
                value: float | None = 0.1
            case "high":
                value = 1.0
            case "flapping":
                value = 1.0 if int(self.now - self.start) % 2 else 0.1
            case "missing":
                value = None
            case "between":
                value = (self.limit.open + self.limit.close) / 2 - 0.001
            case _:
                value = pick.choice((None, 0.1, 0.85, 0.95, 1.0))
        if not self.all_flapping and pick.random() < 0.02:
            self.trouble_until = self.now + pick.uniform(0.0, 5.0)
        if value is not None:
            self.seen_over = self.seen_over or value >= self.limit.open
            self.over_since = (
                (self.now if self.over_since is None else self.over_since)
                if value >= self.limit.open
                else None
            )
        else:
            self.over_since = None
        self.track = follow(self.track, value, self.now)
        if value is None or value >= self.limit.close:
            self.well_since = None
        elif self.well_since is None:
            self.well_since = self.now

    def _look(self) -> None:
        troubled = self.now < self.trouble_until
        if troubled:
            self.well_since = None
        elif self.well_since is None and self.track.value is not None:
            is_under = self.track.value < self.limit.close
            self.well_since = self.now if is_under else None
        exceeded = (("no proc",) if troubled else ()) + (
            ("memory",) if self.track.is_exceeded else ()
        )
        over = ("memory",) if self.track.is_over else ()
        before = self.breaker
        self.breaker, change = core.step(before, exceeded, over, self.now)
        self._note(before.state)
        if change == "opened":
            self._want(bool(exceeded), "opened though no limit is exceeded")
            self._want(self.seen_over or troubled, "opened though nothing was ever over")
        self._check(exceeded)

    def _act(self) -> None:
        pick, now = self.chance, self.now
        if self.operator and pick.random() < 0.05:
            forced = pick.choice(("open", "closed", None))
            self.breaker = core.force(self.breaker, forced, now + pick.uniform(0.0, 20.0), now)
        for _ in range(pick.randrange(3)):
            if not core.may_start(self.breaker, now):
                state = core.effective(self.breaker, now)
                self._want(state != "closed", "closed, and nothing may start")
                break
            state = core.effective(self.breaker, now)
            self._want(state != "open", "an action was let through while open")
            self.attempts += 1
            self.admitted_at = now
            self.breaker = core.lend(self.breaker, self.attempts, now)
            if state == "half_open":
                self.admitted[self.attempts] = now + core.LEASE_SHARE * self.breaker.probe_s
                live = sum(until > now for until in self.admitted.values())
                self._want(live <= self.breaker.quota, f"{live} run, {self.breaker.quota} may")
            self.running.append(self.attempts)
        for attempt_id in list(self.running):
            if pick.random() < 0.5:  # the others hang for ever
                self.running.remove(attempt_id)
                self.admitted.pop(attempt_id, None)
                never_began = not self.all_flapping and pick.random() < 0.03
                failed = "never began" if never_began else None
                before = self.breaker
                self.breaker, change = core.give_back(before, attempt_id, failed, now)
                self._note(before.state)
                if change == "reopened":
                    self.well_since = now if self.well_since is not None else None
        # A lease without an action: an end that is told twice, or of long ago.
        self.breaker, _ = core.give_back(self.breaker, -1, "nobody's", now)

    def _note(self, before: core.BreakerState) -> None:
        if self.breaker.state != "half_open":
            self.admitted.clear()
        if (before == "closed") == (self.breaker.state == "closed"):
            return
        self.flips = [at for at in self.flips if self.now - at < FLIPS_WINDOW_S] + [self.now]
        if self.all_flapping:
            self._want(len(self.flips) <= FLIPS_MAX, f"{len(self.flips)} flips in a minute")

    def _check(self, exceeded: tuple[str, ...]) -> None:
        breaker, now = self.breaker, self.now
        if breaker.state == "half_open":
            held_s = now - breaker.since
            self._want(held_s <= breaker.probe_s, f"half open for {held_s:.3f} s")
            oldest = min((lease.until for lease in breaker.leases), default=None)
            held = oldest is not None and oldest + breaker.probe_s < now
            self._want(not held, "a lease of long ago is still out")
            stuck_s = now - max(self.admitted_at, breaker.since)
            waits = not core.may_start(breaker, now) and breaker.forced is None
            limit_s = core.LEASE_SHARE * breaker.probe_s
            self._want(not (waits and stuck_s > limit_s), f"nothing may start for {stuck_s:.3f} s")
        if breaker.state == "closed":
            self._want(not exceeded, "closed though a limit is exceeded")
            self._want(not breaker.leases and not breaker.causes, "closed with leases or causes")
        elif self.well_since is not None:
            well_s = now - self.well_since
            self._want(
                well_s <= 2 * breaker.probe_s + SAMPLE_S, f"well for {well_s:.3f} s, not closed"
            )
        if self.over_since is not None and now - self.over_since >= self.limit.for_s:
            self._want(breaker.state == "open", "over the limit for its hold time, not open")
        if self.track.exceeded_since is not None and self.track.seen_at is not None:
            unseen_s = now - self.track.seen_at
            self._want(unseen_s <= FORGET_S + SAMPLE_S, f"exceeded, unseen for {unseen_s:.1f} s")

    def _want(self, claim: bool, text: str) -> None:
        if not claim:
            raise BrokenPromise(
                f"seed {self.seed}, {self.now - self.start:.3f} s, {self.mode}: {text}: "
                f"{self.breaker} {self.track}"
            )


def run_schedules(seeds: range) -> int:
    """Run the schedules of ``seeds``; how many."""
    for seed in seeds:
        Schedule(seed).run()
    return len(seeds)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--schedules", type=int, default=1_000_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    began, done, portion = time.monotonic(), 0, 5_000
    last = options.first + options.schedules
    portions = [
        range(seed, min(seed + portion, last)) for seed in range(options.first, last, portion)
    ]
    with multiprocessing.get_context("fork").Pool(options.jobs) as jobs:
        for count in jobs.imap_unordered(run_schedules, portions):
            done += count
            spent_s = time.monotonic() - began
            print(f"\r{done:,} schedules, {spent_s:.0f} s", end="", file=sys.stderr, flush=True)
    print(f"\n{done:,} schedules of {SECONDS} s each, no promise broken", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
