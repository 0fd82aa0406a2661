"""Actions from outside the tree: a bounded queue per worker, one at a time, never beside the
worker's own; scenarios 91, 92, 104 as the decisions have them."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Bench, Look, Plant, Pump, SwitchOff, SwitchOn, child, worker_type

from fsmv2.supervisor import Settings, Supervisor
from fsmv2.supervisor.core.action import Action, ActionContext, ActionPolicy
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.core.events import ResultDropped
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Snapshot, State
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.core.workevents import OutsideActionEnded
from fsmv2.supervisor.tree.outside import Ticket


class Poke(Action, frozen=True):
    n: int = 0

    def execute(self, ctx: ActionContext) -> int: ...


def on(**options: Any) -> Bench:
    """A bench whose pump "p" runs."""
    bench = Bench(child("p", "pump"), **options)
    Plant(bench)
    bench.settle()
    assert bench.tree() == {"p": "running"}
    return bench


def pokes(bench: Bench) -> list[int]:
    return [one.action.n for one in bench.attempts(Poke)]  # type: ignore[attr-defined]


def test_actions_from_outside_run_one_at_a_time_in_their_order() -> None:
    """Scenario 91: the second waits for the first, whatever the first's end; each ticket has its
    own result, and its callback is called once."""
    bench = on()
    ended: list[Ticket] = []
    tickets = [bench.engine.submit_outside("root/p", Poke(n), ended.append) for n in range(3)]
    bench.run(5)
    assert pokes(bench) == [0]
    for n, status in enumerate(("succeeded", "failed", "timed_out")):
        bench.pool.complete(bench.open_attempt(Poke), f"r{n}", status=status)  # type: ignore[arg-type]
        bench.run(1)
    assert pokes(bench) == [0, 1, 2]
    assert ended == tickets
    assert [ticket.result and ticket.result.status for ticket in tickets] == [
        "succeeded", "failed", "timed_out",
    ]  # fmt: skip
    assert tickets[0].result is not None
    assert tickets[0].result.value == "r0"
    told = bench.heard(OutsideActionEnded, "p")
    assert [event.ticket for event in told] == [ticket.number for ticket in tickets]
    assert [event.certificate is not None for event in told] == [False, False, True]
    assert [event.loudness() for event in told] == ["debug", "warning", "warning"]
    assert bench.pool.overlaps == []


def test_the_first_is_offered_at_once_and_not_at_the_next_tick() -> None:
    """Whoever asks does not wait for the tick's interval."""
    bench = on()
    bench.engine.submit_outside("root/p", Poke())
    assert bench.open_attempt(Poke).at == bench.now


def test_a_full_queue_refuses_with_its_reason_and_blocks_nothing() -> None:
    """Scenario 92: what is over the bound is refused at once; later there is room again."""
    bench = on(outside_max=3)
    tickets = [bench.engine.submit_outside("root/p", Poke(n)) for n in range(6)]
    refused = [ticket.number for ticket in tickets if ticket.result is not None]
    assert refused == [ticket.number for ticket in tickets[4:]]  # one runs, three wait
    result = tickets[4].result
    assert result is not None
    assert result.status == "refused"
    assert (
        str(result.error)
        == "QueueFull: cannot run it for root/p: 3 wait already, want at most that"
    )
    bench.pool.complete(bench.open_attempt(Poke), "done")
    bench.run(1)
    assert bench.engine.submit_outside("root/p", Poke(9)).result is None


@pytest.mark.parametrize("path", ["root/x", "p", "", "root/p/x", "other/p", "root//p"])
def test_an_unknown_path_is_refused_by_name(path: str) -> None:
    """Nothing is submitted, the caller hears why."""
    bench = on()
    ended: list[Ticket] = []
    ticket = bench.engine.submit_outside(path, Poke(), ended.append)
    assert ended == [ticket]
    assert ticket.result is not None
    assert str(ticket.result.error).startswith(
        f"UnknownPath: cannot run it for {path}: there is no"
    )
    assert bench.attempts(Poke) == []


def test_an_action_no_proc_could_run_is_refused_to_whoever_asks() -> None:
    """It costs the worker nothing: it is not the worker's mistake."""

    class Local(Poke, frozen=True):
        pass

    bench = on()
    ticket = bench.engine.submit_outside("root/p", Local())
    assert ticket.result is not None
    assert "defined inside a function" in str(ticket.result.error)
    assert bench.node("p").fault_count == 0


def test_it_waits_for_the_workers_own_action_and_the_worker_for_it() -> None:
    """Never two at once of one worker, and between two from outside the worker has its turn."""
    bench = Bench(child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.settle(1)
    own = bench.open_attempt(SwitchOn)
    for n in range(3):
        bench.engine.submit_outside("root/p", Poke(n))
    bench.run(5)
    assert bench.attempts(Poke) == []
    bench.pool.complete(own, "done")
    bench.run(5)
    assert pokes(bench) == [0]
    assert len(bench.attempts(SwitchOn)) == 1
    assert "waits for Poke from outside" in bench.node("p").reason
    bench.pool.complete(bench.open_attempt(Poke), 1)
    bench.run(5)
    assert len(bench.attempts(SwitchOn)) == 2
    assert pokes(bench) == [0]
    bench.pool.complete(bench.open_attempt(SwitchOn), "done")
    bench.run(5)
    assert pokes(bench) == [0, 1]
    assert bench.pool.overlaps == []


def test_the_world_is_looked_at_after_an_action_from_outside() -> None:
    """At once: it may have changed what the worker goes by."""
    bench = on()
    bench.run(1)
    bench.engine.submit_outside("root/p", Poke())
    bench.run(0.05)
    bench.pool.complete(bench.open_attempt(Poke), 1)
    bench.tick()
    assert bench.attempts(Look)[-1].at == bench.now


def test_a_stops_own_actions_go_first() -> None:
    """What waits from outside waits on until the worker is stopped, then runs: it is disabled, not
    gone."""
    bench = on()
    del bench.pool.answers[SwitchOff]
    for n in range(2):
        bench.engine.submit_outside("root/p", Poke(n))
    bench.redeclare(child("p", "pump", enabled=False))
    bench.run(1)
    bench.pool.complete(bench.open_attempt(Poke), 1)
    bench.run(1)
    assert pokes(bench) == [0]
    bench.pool.complete(bench.open_attempt(SwitchOff), "done")
    bench.run(1)
    assert bench.tree() == {"p": "stopped"}
    assert pokes(bench) == [0, 1]


def test_one_that_hangs_holds_a_stop_up_for_a_bounded_time_only() -> None:
    """It has half the stop's time, as the worker's own has; then it is cancelled."""
    bench = on()
    bench.redeclare(child("p", "pump", shutdown_timeout_s=6.0))
    bench.run(1)
    ticket = bench.engine.submit_outside("root/p", Poke())
    attempt, start = bench.open_attempt(Poke), bench.now
    assert attempt.told_of_stop == 0
    bench.engine.stop("asked")
    bench.run(1)
    assert (attempt.told_of_stop, attempt.cancelled) == (1, None)
    bench.run(10, until=lambda: attempt.cancelled is not None)
    assert 3.0 <= bench.now - start <= 3.3
    bench.run(10, until=lambda: bench.engine.stopped)
    assert ticket.result is not None
    assert ticket.result.status == "cancelled"
    assert len(bench.attempts(SwitchOff)) == 1


def test_one_that_hangs_has_its_whole_time_at_each_stop() -> None:
    """The deadline of a stop that was withdrawn is none of the next one's."""
    bench = on()
    bench.engine.submit_outside("root/p", Poke())
    attempt = bench.open_attempt(Poke)
    bench.redeclare(child("p", "pump", enabled=False))
    bench.run(2)
    bench.redeclare(child("p", "pump"))
    bench.run(20)
    assert attempt.cancelled is None
    again = bench.now
    bench.redeclare(child("p", "pump", enabled=False))
    bench.run(10, until=lambda: attempt.cancelled is not None)
    assert 5.0 <= bench.now - again <= 5.5


def test_a_worker_that_leaves_takes_no_more_and_refuses_what_waits() -> None:
    """Scenario 104: what was not begun when the stop came is refused, and what comes after."""
    bench = on()
    tickets = [bench.engine.submit_outside("root/p", Poke(n)) for n in range(3)]
    bench.engine.stop("asked")
    bench.run(0.2)
    late = bench.engine.submit_outside("root/p", Poke(9))
    for ticket in (*tickets[1:], late):
        assert ticket.result is not None
        assert "it leaves (" in str(ticket.result.error)
    bench.run(20, until=lambda: bench.engine.stopped)
    assert bench.attempts(Poke)[0].cancelled is not None
    assert tickets[0].result is not None
    gone = bench.engine.submit_outside("root/p", Poke())
    assert gone.result is not None
    assert "UnknownPath" in str(gone.result.error)


def test_the_result_reaches_whoever_asked_though_the_worker_is_gone() -> None:
    """Each ticket gets exactly one result, whenever the proc dies at last."""
    bench = on()
    bench.redeclare(child("p", "pump", shutdown_timeout_s=1.0))
    bench.run(1)
    ended: list[Ticket] = []
    bench.engine.submit_outside("root/p", Poke(), ended.append)
    bench.pool.deaf = True
    bench.redeclare()
    bench.run(5)
    assert bench.tree() == {}
    assert ended == []
    attempt = bench.open_attempt(Poke)
    bench.pool.complete(attempt, status="cancelled")
    bench.tick()
    assert len(ended) == 1
    assert attempt.id not in [event.attempt_id for event in bench.heard(ResultDropped)]


def test_only_a_stop_and_the_machine_hold_one_back() -> None:
    """Neither a fault nor an old observation does; the infrastructure breaker does."""

    def next_action(self: Any, snap: Snapshot) -> Decision:
        raise ValueError("no idea")

    bench = Bench(child("p", "bad"), workers=[worker_type("bad", Pump, next_action=next_action)])
    bench.run(60)
    bench.engine.set_infrastructure("disk full")
    bench.run(1)
    bench.engine.submit_outside("root/p", Poke())
    bench.run(60)
    assert not bench.attempts(Poke)
    bench.engine.set_infrastructure(None)
    bench.run(1)
    assert bench.open_attempt(Poke)


def test_policies_hold_for_actions_from_outside_too() -> None:
    """Their timeout is the config's."""
    bench = on(policies={Poke: ActionPolicy(timeout_s=3.5)})
    bench.engine.submit_outside("root/p", Poke())
    assert bench.open_attempt(Poke).timeout_s == 3.5


class Busy(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Act(SwitchOn(), "always")


class Begin(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Busy, "asked to run")


def test_a_worker_that_always_acts_and_a_full_queue_take_turns() -> None:
    """Neither starves the other."""
    bench = Bench(child("p", "busy"), workers=[worker_type("busy", initial=Begin)])
    bench.pool.answers[SwitchOn] = lambda _action: "done"
    bench.pool.answers[Poke] = lambda action: action.n
    bench.run(1)
    before = len(bench.attempts(SwitchOn))
    tickets = [bench.engine.submit_outside("root/p", Poke(n)) for n in range(20)]
    bench.run(10)
    assert [ticket.result and ticket.result.value for ticket in tickets] == list(range(20))
    assert len(bench.attempts(SwitchOn)) - before >= 20
    assert bench.pool.overlaps == []


def test_a_thousand_actions_from_outside_leave_nothing_behind() -> None:
    """No owner, no queue, no ticket is kept."""
    bench = on()
    bench.pool.answers[Poke] = lambda action: action.n
    for n in range(100):
        for k in range(10):
            bench.engine.submit_outside("root/p", Poke(n * 10 + k))
        bench.run(0.5)
    bench.run(2)
    assert pokes(bench) == list(range(1000))
    assert bench.node("p").outside is None
    assert len(bench.engine._inbox._owners) <= 1


def test_an_action_for_a_supervisor_that_does_not_run_is_refused_in_words() -> None:
    """It was an AttributeError of a field that only `run` makes."""
    supervisor = Supervisor(Settings(name="site"), WorkerFactory())
    with pytest.raises(
        FsmError, match="cannot run Poke for site/p: the supervisor does not run, want"
    ):
        supervisor.submit_outside("site/p", Poke())
