"""Dispatching and pipelining with real procs: each attempt runs once, in order, and in time."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lane_actions as acts
import pytest
from driving import Driven, driven

from fsmv2.ipc.linux import register_for_barriers
from fsmv2.supervisor import Action
from fsmv2.supervisor.pool.procs import ProcHandle

pytestmark = [
    pytest.mark.proc,
    pytest.mark.skipif(
        not register_for_barriers(),
        reason="this kernel has no expedited membarrier: nothing waits in pipes",
    ),
]

PATIENCE_S = 60.0


def wait_for(claim: Callable[[], object], what: str) -> None:
    """Wait without driving the pool: the root is busy elsewhere."""
    give_up = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.002)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def make_short(made: Driven, action: Action) -> None:
    """Run an action until its type is known to be short: some runs, more on a busy machine."""
    made.wait_ready()
    kind = made.pool.kinds[type(action)]
    give_up = time.monotonic() + PATIENCE_S
    while not kind.may_wait_in_pipe or kind.mean_ran_s > 0.0003:
        assert time.monotonic() < give_up, f"never short: {kind.mean_ran_s} s"
        assert made.run(action).succeeded


def settled(made: Driven, attempts: list[int]) -> bool:
    return all(one in made.results for one in attempts)


def test_each_of_5000_short_actions_runs_once_and_has_its_own_result(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven(queue=5_000) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        marks = {made.submit(acts.Note(str(path), str(n))): str(n) for n in range(5_000)}
        made.until(lambda: len(made.results) >= 5_000 and settled(made, [*marks]), "all results")
        got = {attempt: made.results[attempt].value for attempt in marks}
        assert got == marks
        assert made.pool.ledger.dropped == 0
        assert len(made.pool.ledger) == 0
    assert Counter(lines(path)) == dict.fromkeys(marks.values(), 1)


def test_attempts_of_one_key_run_in_order_and_never_two_at_once(tmp_path: Path) -> None:
    with driven({"actions": 3}, queue=5_000) as made:
        make_short(made, acts.Both(str(tmp_path / "warm"), "w"))
        attempts = []
        for number in range(300):
            for key in "abcd":
                action = acts.Both(str(tmp_path / key), str(number))
                attempts.append(made.submit(action, key=key))
            attempts.append(made.submit(acts.Both(str(tmp_path / "none"), str(number))))
        made.until(lambda: settled(made, attempts), "all results")
    for key in "abcd":
        assert lines(tmp_path / key) == [f"{sign}{n}" for n in range(300) for sign in "+-"]
    assert len(lines(tmp_path / "none")) == 600


def test_short_ones_behind_a_hung_one_finish_long_before_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven() as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        hung = made.submit(acts.Note(str(path), "hung", acts.FOREVER_S))
        others = [made.submit(acts.Note(str(path), str(n))) for n in range(200)]

        made.until(lambda: settled(made, others), "the others")
        assert hung not in made.results
        made.pool.cancel(hung, "operator")
        assert made.result(hung).status == "cancelled"
    assert Counter(lines(path)) == dict.fromkeys(["hung", *map(str, range(200))], 1)


def test_short_ones_finish_elsewhere_while_their_proc_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven(spares=0) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        lane = made.pool.lanes["actions"]
        stopped = lane.idle[0]
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            attempts = [made.submit(acts.Note(str(path), str(n))) for n in range(200)]
            made.until(lambda: sum(one in made.results for one in attempts) >= 199, "199 of 200")
            held = stopped.attempt
            assert held is not None
            assert held.id not in made.results
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert made.result(held.id).succeeded
        # The orders that were taken back are still in its pipe: it must pass them over.
        assert all(made.run(acts.Note(str(tmp_path / "after"), "a")).succeeded for _ in range(10))
    assert Counter(lines(path)) == dict.fromkeys(map(str, range(200)), 1)


def hang_with_15_behind(made: Driven, path: Path) -> tuple[ProcHandle, int, list[int]]:
    """One proc has begun to hang, and the root has not looked since: 15 wait in its pipe."""
    first = made.submit(acts.Note(str(path), "first"))
    hung = made.submit(acts.Note(str(path), "hung", acts.FOREVER_S))
    others = [made.submit(acts.Note(str(path), str(n))) for n in range(40)]
    (proc,) = made.pool.lanes["actions"].members
    while first not in made.results:
        made.pool.step(1.0)
    wait_for(lambda: "hung" in lines(path), "the hung one has begun")
    assert proc.attempt is not None
    assert proc.attempt.id == hung
    assert len(proc.behind) == 15
    return proc, hung, others


def test_a_killed_proc_costs_the_attempt_it_had_begun_and_none_of_15_behind_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with driven({"actions": 1}, pipeline=16) as made:
        for round_number in range(5):
            make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
            path = tmp_path / f"log{round_number}"
            proc, hung, others = hang_with_15_behind(made, path)
            os.kill(proc.pid, signal.SIGKILL)
            made.until(lambda ids=(hung, *others): settled(made, ids), "all")  # type: ignore[misc]
            assert made.results[hung].status == "crashed"
            assert all(made.results[one].succeeded for one in others)
            expected = ["first", "hung", *map(str, range(40))]
            assert Counter(lines(path)) == dict.fromkeys(expected, 1)


def test_procs_killed_at_any_moment_cost_one_attempt_each_and_nothing_runs_twice(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with driven({"actions": 2}, spares=2, queue=10_000, starts_per_s=1_000.0) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        attempts: dict[int, str] = {}
        kills = 0
        while kills < 30:
            # Not more than the queue takes, however long a busy machine takes to start procs.
            for _ in range(100 if len(attempts) < len(made.results) + 5_000 else 0):
                mark = str(len(attempts))
                attempts[made.submit(acts.Note(str(path), mark))] = mark
            made.pool.step()
            for proc in [p for p in made.pool.lanes["actions"].members if p.attempt is not None]:
                os.kill(proc.pid, signal.SIGKILL)
                kills += 1
                break
            made.pool.step(0.01)
        made.until(lambda: settled(made, [*attempts]), "all results")
        crashed = {mark for one, mark in attempts.items() if not made.results[one].succeeded}
        assert len(crashed) <= kills
    runs = Counter(lines(path))
    assert max(runs.values()) == 1
    assert {mark for mark in attempts.values() if not runs[mark]} <= crashed


def test_orders_that_are_taken_back_again_and_again_run_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven({"actions": 3}, queue=20_000) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        taken_back = 0
        take_back = made.pool.dispatcher.take_back

        def counted(proc: ProcHandle) -> object:
            nonlocal taken_back
            before = len(proc.behind)
            lane = take_back(proc)
            taken_back += before - len(proc.behind)
            return lane

        made.pool.dispatcher.take_back = counted  # type: ignore[method-assign, assignment]
        attempts: dict[int, str] = {}
        give_up = time.monotonic() + PATIENCE_S
        while taken_back < 500:
            assert time.monotonic() < give_up, f"only {taken_back} were taken back"
            make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
            for number in range(300):
                # Longer than anybody may keep others waiting, and rare: the type stays short.
                seconds = 0.008 if number % 50 == 10 else 0.0
                mark = str(len(attempts))
                attempts[made.submit(acts.Note(str(path), mark, seconds))] = mark
            made.until(lambda: settled(made, [*attempts]), "all results")
        assert {made.results[one].status for one in attempts} == {"succeeded"}
        assert made.pool.ledger.dropped == 0
    assert Counter(lines(path)) == dict.fromkeys(attempts.values(), 1)


def test_attempts_cancelled_while_they_wait_in_a_pipe_never_run(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven({"actions": 1}, pipeline=16) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        _proc, hung, others = hang_with_15_behind(made, path)
        assert all(made.pool.cancel(one) for one in others)
        assert {made.results[one].status for one in others} == {"cancelled"}
        made.pool.cancel(hung, "operator")
        assert made.result(hung).status == "cancelled"
        assert made.run(acts.Note(str(path), "after")).succeeded
    assert lines(path) == ["first", "hung", "after"]


def test_each_has_a_result_when_the_pool_is_closed_with_orders_in_its_pipes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with driven({"actions": 1}, pipeline=16) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        _proc, hung, others = hang_with_15_behind(made, path)
        made.pool.close()
        assert {made.results[one].status for one in (hung, *others)} == {"cancelled"}
        assert len(made.pool.ledger) == 0
    assert lines(path) == ["first", "hung"]


def test_urgent_attempts_go_before_calm_ones_but_not_before_those_of_their_key(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with driven({"actions": 1}, pipeline=1) as made:
        made.wait_ready()
        attempts = [made.submit(acts.Note(str(path), "first", 0.1))]
        for mark, key, urgent in [
            ("calm-a1", "a", False),
            ("calm", "", False),
            ("urgent", "", True),
            ("calm-b1", "b", False),
            ("urgent-a2", "a", True),
        ]:
            action = acts.Note(str(path), mark)
            attempts.append(made.submit(action, key=key, urgent=urgent))
        made.until(lambda: settled(made, attempts), "all results")
    # An urgent one makes its whole key urgent: what stands before it goes first.
    assert lines(path) == ["first", "urgent", "calm-a1", "urgent-a2", "calm", "calm-b1"]


def test_an_urgent_attempt_waits_for_what_is_in_the_pipes_and_for_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with driven({"actions": 1}, pipeline=16, queue=5_000) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        calm = [made.submit(acts.Note(str(path), str(n))) for n in range(1_000)]
        urgent = made.submit(acts.Note(str(path), "urgent"), urgent=True)
        made.until(lambda: settled(made, [urgent, *calm]), "all results")
    assert lines(path).index("urgent") <= 16


def test_no_more_short_ones_of_a_type_are_with_procs_than_it_allows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven({"actions": 4}, queue=2_000) as made:
        make_short(made, acts.AtMostTwo(str(tmp_path / "warm"), "w"))
        make_short(made, acts.Note(str(tmp_path / "warm2"), "w"))
        attempts = []
        for number in range(300):
            attempts.append(made.submit(acts.AtMostTwo(str(path), str(number))))
            attempts.append(made.submit(acts.Note(str(tmp_path / "others"), str(number))))
        kind = made.pool.kinds[acts.AtMostTwo]

        def all_done() -> bool:
            assert kind.running <= 2
            return settled(made, attempts)

        made.until(all_done, "all results")
        assert kind.running == 0
    at_once = most = 0
    for line in lines(path):
        at_once += 1 if line[0] == "+" else -1
        most = max(most, at_once)
    assert most <= 2
    assert len(lines(path)) == 600
    assert Counter(lines(tmp_path / "others")) == dict.fromkeys(map(str, range(300)), 1)


def test_a_full_queue_refuses_what_is_too_much_and_runs_the_rest_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven({"actions": 1}, pipeline=16, queue=50) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        marks = {made.submit(acts.Note(str(path), str(n))): str(n) for n in range(500)}
        refused = [one for one in marks if one in made.results]
        assert {made.results[one].status for one in refused} == {"refused"}
        # As many as wait, and those with the proc: itself and half its pipe or all of it.
        assert 50 < len(marks) - len(refused) <= 50 + 16
        made.until(lambda: settled(made, [*marks]), "all results")
    expected = [mark for one, mark in marks.items() if one not in refused]
    assert Counter(lines(path)) == dict.fromkeys(expected, 1)


def test_a_lane_that_hangs_with_full_pipes_does_not_delay_another(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with driven({"actions": 2, "uploads": 2}) as made:
        make_short(made, acts.Note(str(tmp_path / "warm"), "w"))
        hung = [
            made.submit(acts.Note(str(path), f"hung{n}", acts.FOREVER_S), lane="uploads")
            for n in range(2)
        ]
        stuck = [made.submit(acts.Note(str(path), f"s{n}"), lane="uploads") for n in range(100)]
        others = [made.submit(acts.Note(str(path), f"o{n}")) for n in range(500)]

        made.until(lambda: settled(made, others), "the other lane's results")
        assert not any(one in made.results for one in (*hung, *stuck))
        for one in hung:
            made.pool.cancel(one, "operator")
        made.until(lambda: settled(made, stuck), "the stuck ones")
    assert max(Counter(lines(path)).values()) == 1
