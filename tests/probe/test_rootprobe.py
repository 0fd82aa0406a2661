"""What a running root reads of itself: its pool's counts, the disks it depends on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fsmv2.supervisor.core.poolreadings import PoolFacts
from fsmv2.supervisor.pool.failedstarts import FailedStarts
from fsmv2.supervisor.probe.poolfacts import LOOK_MAX, pool_facts
from fsmv2.supervisor.rootprobe import own_disks


def attempt(submitted_at: float, *, runs: bool = False, held: bool = False) -> Any:
    return SimpleNamespace(submitted_at=submitted_at, proc=runs or None, is_held=held)


def pool_with(*attempts: Any) -> Any:
    pool: Any = SimpleNamespace(
        ledger=SimpleNamespace(open=dict(enumerate(attempts))),
        on_event=lambda event: None,
        random=SimpleNamespace(random=lambda: 0.5),
        refuse_waiting=lambda kind, text: None,
    )
    pool.nursery = SimpleNamespace(failed=FailedStarts(pool))
    return pool


def test_a_pool_that_is_well_has_nothing_to_say() -> None:
    assert pool_facts(pool_with(attempt(3.0, runs=True)), 0, 10.0) == PoolFacts()


def test_the_oldest_that_waits_for_a_proc_counts() -> None:
    """Not what runs, nor what is held back with its type."""
    pool = pool_with(attempt(1.0, runs=True), attempt(2.0, held=True), attempt(4.0), attempt(5.0))

    assert pool_facts(pool, 0, 10.0).queue_age_s == 6.0


def test_a_look_at_a_very_long_queue_is_bounded() -> None:
    pool = pool_with(*(attempt(1.0, runs=True) for _ in range(LOOK_MAX)), attempt(2.0))

    assert pool_facts(pool, 0, 10.0).queue_age_s == 0.0


def test_starts_that_fail_are_counted_and_how_long_none_succeeds() -> None:
    pool = pool_with()
    for moment in (1.0, 2.0, 3.0, 4.0):
        pool.nursery.failed.one_failed(moment, "no memory")
    facts = pool_facts(pool, 7, 10.0)

    assert (facts.start_failures, facts.deaths, facts.stuck_s) == (4, 7, 7.0)
    pool.nursery.failed.one_started(11.0)
    assert pool_facts(pool, 7, 12.0) == PoolFacts(start_failures=4, deaths=7)


def test_each_folder_that_the_root_needs_is_looked_at_once() -> None:
    run = "/run/x/fsmv2-site-1"
    assert own_disks(run, f"{run}/metrics", "") == ("/run/x",)
    assert own_disks(run, "/srv/metrics", "/var/lib/site.db") == (
        "/run/x",
        "/srv/metrics",
        "/var/lib",
    )
    assert own_disks(run, f"{run}/metrics", "/run/x/site.db") == ("/run/x",)
