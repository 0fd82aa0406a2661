"""Guarantees 6 and 8 to 11: nothing blocks, bulkheads, recycling, storms, quarantine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import deadly_actions as deadly
import pool_actions as acts
import pytest
from driving import driven

from fsmv2.supervisor import ActionPool
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.quarantine import QuarantineRules
from fsmv2.supervisor.core.recycling import Recycling
from fsmv2.supervisor.pool import spill

pytestmark = pytest.mark.proc


# --- never blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("action", [deadly.PrintAll(), deadly.ReportAll()], ids=["out", "messages"])
def test_proc_that_floods_ends_at_its_deadline_and_others_go_on(action: deadly.Action) -> None:
    with driven() as made:
        flood = made.submit(action, timeout_s=600.0)
        others = [made.submit(deadly.WhoAmI(), key=f"k{number % 3}") for number in range(200)]

        assert all(made.result(other).succeeded for other in others)
        is_printed = isinstance(action, deadly.PrintAll)
        kind, enough = (events.ProcOutput, 100) if is_printed else (events.ActionLogged, 1_001)
        made.drive_for(1.0)
        made.until(lambda: len(made.heard(kind)) >= enough, "it floods")
        made.let_expire(flood)
        result = made.result(flood)

        assert result.status == "timed_out"
        assert result.certificate is not None
        if is_printed:
            lines = made.heard(events.ProcOutput)
            assert 100 <= len(lines) < 5_000
            assert all(line.attempt_id == flood for line in lines)
            assert result.certificate.log_tail[-1].startswith("line")
            assert len(result.certificate.log_tail) == 20
        else:
            assert len(made.heard(events.ActionLogged)) > 1_000


def test_result_of_100_mb_comes_through_a_file_and_is_loaded_by_whoever_wants_it() -> None:
    with driven() as made:
        result = made.run(deadly.Large(100 << 20))
        scratch = [
            name
            for name in os.listdir(made.pool.run_folder)
            if os.listdir(os.path.join(made.pool.run_folder, name))
        ]

        assert result.succeeded
        assert not isinstance(result.value, bytes), "the root's thread has not read it"
        loaded = spill.load(result)
        assert loaded.value == bytes(100 << 20)
        assert scratch == [], "the file has no name any more"
        assert spill.load(made.run(deadly.Large(3))) == made.results[2]


def test_dropped_large_result_leaves_no_file_open() -> None:
    with driven() as made:
        made.wait_ready()
        made.run(deadly.Large(4 << 20))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            made.results.clear()
            made.run(deadly.Large(4 << 20))
        made.results.clear()
        assert len(os.listdir("/proc/self/fd")) <= before


def test_result_over_the_cap_is_a_failure_that_says_the_cap() -> None:
    with driven(result_bytes_max=2 << 20) as made:
        result = made.run(deadly.Large(3 << 20))

        assert result.status == "failed"
        assert result.error is not None
        assert f"want at most {2 << 20} bytes" in result.error.message
        assert made.run(deadly.Large(1 << 20)).succeeded


def test_payload_over_the_cap_is_refused_at_once() -> None:
    with driven() as made:
        result = made.results[made.submit(acts.Carry(b"x" * (2 << 20)))]

        assert result.status == "refused"
        assert result.error is not None
        assert result.error.type == "PayloadTooLarge"


def test_submit_cancel_and_kill_do_not_wait_for_a_stopped_proc() -> None:
    """Its pipe is full of what it does not read."""
    with driven({"actions": 1}, spares=0, queue=10_000) as made:
        made.wait_ready()
        proc = made.pool.nursery.procs[0]
        os.kill(proc.pid, signal.SIGSTOP)
        big = [made.submit(acts.Carry(b"x" * 900_000), timeout_s=300.0) for _ in range(5)]
        small = [made.submit(deadly.WhoAmI()) for _ in range(1_000)]

        assert all(made.pool.cancel(attempt) for attempt in small[::2])
        made.pool.step()
        assert sum(attempt in made.results for attempt in small) == 500
        made.pool.cancel(big[0], "operator")
        made.until(lambda: len(made.results) == 1_005, "all results")
        assert made.results[big[0]].status == "cancelled"
        assert all(made.results[attempt].succeeded for attempt in (*big[1:], *small[1::2]))


# --- bulkheads ------------------------------------------------------------------------------


def test_a_lane_whose_procs_hang_does_not_delay_another() -> None:
    lanes = {"actions": 1, "observations": 1, "uploads": 1}
    with driven(lanes) as made:
        hung = [
            made.submit(deadly.SleepForever(), lane=lane, timeout_s=600.0)
            for lane in ("actions", "uploads")
        ]
        behind = made.submit(deadly.WhoAmI())
        seen = [made.submit(deadly.WhoAmI(), lane="observations") for _ in range(50)]

        assert all(made.result(attempt).succeeded for attempt in seen)
        assert behind not in made.results
        for attempt in hung:
            made.pool.cancel(attempt, "operator")
        assert made.result(behind).succeeded


def test_a_lane_that_does_not_exist_is_refused_by_name() -> None:
    with driven({"actions": 1, "uploads": 1}) as made:
        for name in ("upload", "quarantine"):
            result = made.results[made.submit(deadly.WhoAmI(), lane=name)]
            assert result.status == "refused"
            assert result.error is not None
            assert f"got lane '{name}', want one of actions, uploads" in result.error.message


def test_no_more_attempts_of_a_type_run_at_a_time_than_it_allows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven({"actions": 3}) as made:
        limited = [made.submit(deadly.OneAtATime(str(path)), key=f"k{n}") for n in range(6)]
        others = [made.submit(deadly.WhoAmI()) for _ in range(20)]

        assert all(made.result(attempt).succeeded for attempt in others)
        assert all(made.result(attempt).succeeded for attempt in limited)
    assert path.read_text() == "begin\nend\n" * 6


# --- recycling ------------------------------------------------------------------------------


def test_a_proc_is_recycled_after_its_actions_and_that_is_no_crash() -> None:
    with driven(recycling=Recycling(actions=10)) as made:
        pids = [made.run(deadly.WhoAmI()).value for _ in range(100)]
        made.until(lambda: len(made.heard(events.ProcEnded)) >= 9, "recycled ones are gone")

        assert len(set(pids)) >= 10
        assert max(pids.count(pid) for pid in set(pids)) <= 10
        ended = made.heard(events.ProcEnded)
        assert {(one.verdict, one.expected) for one in ended} == {("recycled", True)}
        assert all("actions" in (one.reason or "") for one in ended)


def test_a_proc_is_recycled_by_age_while_idle_and_by_what_memory_it_keeps() -> None:
    with driven(recycling=Recycling(seconds=0.3)) as made:
        made.until(lambda: len(made.heard(events.ProcEnded)) >= 4, "recycled by age")
        assert all((one.reason or "").endswith(" s") for one in made.heard(events.ProcEnded))
        assert made.run(deadly.WhoAmI()).succeeded
    with driven(recycling=Recycling(memory_bytes=1 << 20)) as made:
        assert made.run(deadly.WhoAmI()).succeeded
        made.until(lambda: made.heard(events.ProcEnded), "recycled by memory")
        assert "bytes resident" in (made.heard(events.ProcEnded)[0].reason or "")


# --- storms and quarantine ------------------------------------------------------------------


def test_a_storm_of_deaths_starts_procs_at_the_governed_rate_and_says_so_once() -> None:
    # So few a second that a slow machine could make more, too.
    began = time.monotonic()
    with driven({"actions": 4}, starts_per_s=5.0) as made:
        made.wait_ready()
        dying = [made.submit(deadly.ExitAtOnce(1)) for _ in range(45)]
        made.until(lambda: all(one in made.results for one in dying), "all dead")
        seconds = time.monotonic() - began

        starts = len(made.heard(events.ProcStarted))
        # What is granted at once: those wanted from the start, and 20 beyond them.
        assert starts <= 5 + 20 + 5.0 * seconds
        told = made.heard(events.StartsThrottled)
        assert 1 <= len(told) < 20
        assert all(one.per_s == 5.0 and one.waiting >= 1 for one in told)
        assert made.run(deadly.WhoAmI()).succeeded


def test_a_type_that_dies_the_same_way_again_and_again_is_kept_apart(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    rules = QuarantineRules(after=3, base_s=0.2, max_s=0.4)
    with driven(quarantine=rules) as made:
        deaths = [made.run(deadly.Flip(str(switch))) for _ in range(3)]
        assert [one.verdict for one in deaths] == ["crashed:SIGSEGV"] * 3
        (kept,) = made.heard(events.ActionTypeQuarantined)
        assert (kept.action_type, kept.verdict, kept.deaths) == ("Flip", "crashed:SIGSEGV", 3)

        waiting = [made.submit(deadly.Flip(str(switch))) for _ in range(4)]
        others = [made.submit(deadly.WhoAmI()) for _ in range(50)]
        assert all(made.result(one).succeeded for one in others), "the pool stays up"
        assert all(made.result(one).status == "crashed" for one in waiting), "each was tried"

        switch.unlink()
        assert made.run(deadly.Flip(str(switch))).value == "well"
        (released,) = made.heard(events.ActionTypeReleased)
        assert released.reason == "an attempt succeeded"
        lane = made.pool.lanes["quarantine"]
        assert (lane.size, lane.members) == (0, {}), "its proc, which ran that one, is not kept"
        made.until(lambda: len(made.pool.nursery.procs) == 3, "as many procs as before")
        together = [made.submit(deadly.Flip(str(switch))) for _ in range(50)]
        assert all(made.result(one).succeeded for one in together)


def test_quarantined_attempts_run_one_at_a_time_on_a_proc_of_their_own(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    with driven(quarantine=QuarantineRules(after=2, base_s=0.1, max_s=0.1)) as made:
        for _ in range(2):
            made.run(deadly.Flip(str(switch)))
        lane = made.pool.lanes["quarantine"]
        waiting = [made.submit(deadly.Flip(str(switch))) for _ in range(5)]
        most = 0

        def all_done() -> bool:
            nonlocal most
            at_work = [p for p in made.pool.nursery.procs if p.attempt is not None]
            most = max(most, len(at_work))
            assert all(proc.lane == lane.name for proc in at_work)
            return all(one in made.results for one in waiting)

        made.until(all_done, "each was tried")
        assert most == 1


def test_an_operator_releases_a_quarantined_type(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    with driven(quarantine=QuarantineRules(after=2, base_s=3600.0, max_s=3600.0)) as made:
        for _ in range(2):
            made.run(deadly.Flip(str(switch)))
        waiting = made.submit(deadly.Flip(str(switch)))
        made.drive_for(0.3)
        assert waiting not in made.results

        switch.unlink()
        assert not made.pool.release("WhoAmI")
        assert made.pool.release("Flip")

        assert made.result(waiting).value == "well"
        (released,) = made.heard(events.ActionTypeReleased)
        assert released.reason == "an operator released it"
        assert (made.pool.lanes["quarantine"].size, made.pool.nursery.wanted) == (0, 3)


def test_deaths_from_outside_and_cancels_never_quarantine_a_type() -> None:
    with driven(quarantine=QuarantineRules(after=2)) as made:
        for _ in range(4):
            made.run(deadly.Die(signal.SIGKILL))
            attempt = made.submit(deadly.SleepForever(), timeout_s=600.0)
            made.until(lambda a=attempt: made.pool.in_flight(a).proc is not None, "at work")  # type: ignore[misc]
            made.pool.cancel(attempt, "operator")
            made.result(attempt)
        assert made.heard(events.ActionTypeQuarantined) == []


def test_queue_that_is_full_refuses_and_says_how_full_it_is() -> None:
    with driven({"actions": 1}, spares=0, queue=3) as made:
        made.wait_ready()
        made.submit(deadly.SleepForever(), timeout_s=600.0)
        waiting = [made.submit(deadly.WhoAmI()) for _ in range(3)]
        refused = made.results[made.submit(deadly.WhoAmI())]

        assert refused.status == "refused"
        assert refused.error is not None
        assert refused.error.type == "QueueFull"
        assert "got 3 waiting, want at most 3" in refused.error.message
        assert not any(one in made.results for one in waiting)
        urgent = made.submit(deadly.WhoAmI(), urgent=True)
        assert urgent not in made.results, "a stop is never refused because of starts"


def test_a_library_pool_shows_what_is_in_quarantine_and_releases_it(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    rules = QuarantineRules(after=2, base_s=3600.0, max_s=3600.0)
    with ActionPool(procs=1, quarantine=rules) as pool:
        for _ in range(2):
            assert pool.run(deadly.Flip(str(switch))).status == "crashed"
        waiting = pool.submit(deadly.Flip(str(switch)))
        assert pool.run(deadly.WhoAmI()).succeeded
        shown = pool.statistics()["quarantined"]["Flip"]
        assert (shown["verdict"], shown["deaths"], shown["held"]) == ("crashed:SIGSEGV", 2, 1)
        assert 0 < shown["retry_in_s"] <= 3600.0

        switch.unlink()
        assert not pool.release("WhoAmI")
        assert pool.release("Flip")

        assert waiting.result(60).value == "well"
        assert pool.statistics()["quarantined"] == {}
