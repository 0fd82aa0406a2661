"""Why a worker is as it is, read off a tree: those that are there, and children that are not."""

from __future__ import annotations

from typing import Any

import msgspec
from fickle import MOOD, bench_of
from harness import Bench, Look, Off, Plant, SwitchOn, child, worker_type

from fsmv2.ipc.messages import CommandAnswered, ExplainWorker
from fsmv2.supervisor.commandline.shown import tree_text
from fsmv2.supervisor.core.action import ActionError
from fsmv2.supervisor.core.facts import Explanation
from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Remove, Restart, Snapshot, State, Stay
from fsmv2.supervisor.core.restarts import RestartBudget
from fsmv2.supervisor.core.rootworker import RootWorker
from fsmv2.supervisor.core.spec import DesiredState, UserSpec
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.telemetry.explain import SHOWN_MAX, Explainer, NoSuchWorker, explain_path
from fsmv2.supervisor.telemetry.view import tree_pieces

NOTHING: dict[str, Any] = {}


def ask(bench: Bench, path: str, quarantined: dict[str, Any] | None = None) -> Explanation:
    """The explanation of the worker at ``path`` below the root."""
    found = explain_path(bench.engine, f"root/{path}".rstrip("/"), bench.now, quarantined or {})
    assert isinstance(found, Explanation), found
    return found


def refused(bench: Bench, path: str) -> NoSuchWorker:
    """What is said of a path where nothing is."""
    found = explain_path(bench.engine, path, bench.now, NOTHING)
    assert isinstance(found, NoSuchWorker), found
    return found


# --- workers that are there -----------------------------------------------------------------


def test_a_worker_that_runs_is_explained_by_its_own_reason() -> None:
    bench = Bench(child("a"))
    bench.settle()
    found = ask(bench, "a")

    assert found.runs
    assert (found.why.rule, found.also) == ("runs", ())
    assert (found.state, found.phase, found.desired_state) == ("on", "running", "running")
    assert found.why.runbook == ""
    assert found.why.next_in_s is not None


def test_an_action_in_flight_is_told_with_its_number_and_how_long_it_waits() -> None:
    bench = Bench(child("a", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(5.0, until=lambda: bool(bench.attempts(SwitchOn)))
    attempt = bench.open_attempt(SwitchOn)
    bench.now += 2.0
    found = ask(bench, "a")

    assert found.why.rule == "action_in_flight"
    assert f"SwitchOn (#{attempt.id}) has waited for a proc for 2.0 s" in found.why.text
    assert found.why.waits_for == ("SwitchOn",)
    pool: Any = bench.pool
    tree = msgspec.json.decode(b"".join(tree_pieces(bench.engine, pool, bench.now)))
    assert f"[#{attempt.id} SwitchOn waits 2.0 s]" in tree_text(tree)


def test_an_action_in_quarantine_is_told_with_its_next_attempt() -> None:
    bench = Bench(child("a", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(5.0, until=lambda: bool(bench.attempts(SwitchOn)))
    record = {"verdict": "exited:3", "deaths": 6, "quarantined_s": 9.0, "retry_in_s": 7.0}

    for name in ("SwitchOn", f"{SwitchOn.__module__}:SwitchOn"):
        found = ask(bench, "a", {name: record})
        assert found.why.rule == "quarantined"
        assert found.why.numbers == {"deaths": 6, "retry_in_s": 7.0}
        assert found.why.runbook == "/runbooks/quarantine.md"
    assert ask(bench, "a", {"Other": record}).why.rule == "action_in_flight"


def test_an_action_that_failed_is_told_with_its_error_and_next_attempt() -> None:
    bench = Bench(child("a", "pump"))
    bench.pool.answers |= {Look: lambda _a: "off", SwitchOn: lambda _a: OSError("no route")}
    bench.run(5.0, until=lambda: ask(bench, "a").why.rule == "action_retry")
    found = ask(bench, "a")

    assert "SwitchOn has failed 1 time in a row: OSError: no route" in found.why.text
    assert 0 < (found.why.next_in_s or 0) < 2
    assert found.why.runbook == "/runbooks/actions-time-out.md"


def test_an_old_observation_is_told_with_its_age_and_limit() -> None:
    bench = Bench(child("a", "pump"))
    Plant(bench)
    bench.settle()
    bench.pool.answers[Look] = lambda _action: OSError("away")
    bench.run(14.0)
    found = ask(bench, "a")
    age_s = bench.now - (bench.node("a").observed_at or 0.0)

    assert found.why.rule == "observation_stale"
    assert f"observation {age_s:.1f} s old, limit 10.0 s" in found.why.text
    assert "failed in a row" in found.why.text
    assert found.why.runbook == "/runbooks/observation-lost.md"


def test_ages_go_on_between_two_looks() -> None:
    """A tick may be half a minute ago: the moment of the question counts."""
    bench = Bench(child("a", "pump"))
    Plant(bench)
    bench.settle()
    assert ask(bench, "a").why.rule == "runs"
    bench.now += 11.5
    assert ask(bench, "a").why.rule == "observation_stale"
    assert bench.engine.context.now < bench.now


def test_a_worker_held_back_names_whom_it_waits_for() -> None:
    bench = Bench(child("db", enabled=False), child("app", "quiet", "db"))
    bench.settle()
    found = ask(bench, "app")

    assert found.why.rule == "held_by"
    assert found.why.waits_for == ("root/db",)
    assert "root/db (off)" in found.why.text
    other = ask(bench, "db")
    assert other.why.rule == "told_to_stop"
    assert "it is disabled (enabled: false)" in other.why.text


def test_a_worker_that_should_be_stopped_says_who_wants_it() -> None:
    kids = (child("kid"), child("mapped", state_mapping={"idle": "stopped"}))
    line = child("line", "parent", config={"state": "idle", "children": kids})
    bench = Bench(line, child("own", config={"state": "stopped"}))
    bench.settle()

    assert "its own desired state is 'stopped'" in ask(bench, "own").why.text
    mapped = ask(bench, "line/mapped").why.text
    assert "root/line wants 'idle', which its state_mapping turns to 'stopped'" in mapped
    bench.redeclare(msgspec.structs.replace(line, enabled=False))
    bench.settle()
    assert "its parent root/line stops" in ask(bench, "line/kid").why.text


def test_a_parent_that_stops_names_the_children_it_waits_for() -> None:
    class Slow(State):
        phase = Phase.STOPPING

        def next(self, snap: Snapshot) -> Decision:
            return Go(Off, "at last") if snap.time_in_state_s > 4 else Stay("not yet")

    slow = worker_type("slow", stopping=Slow)
    kids = tuple(child(f"k{n:02}", "slow") for n in range(SHOWN_MAX + 3))
    bench = Bench(child("line", "parent", config={"children": kids}), workers=[slow])
    bench.settle()
    bench.redeclare()
    bench.run(1.0)
    found = ask(bench, "line")

    assert found.why.rule == "children_to_stop"
    assert len(found.why.waits_for) == SHOWN_MAX
    assert found.why.numbers == {"children": SHOWN_MAX + 3}
    assert "and 3 more" in found.why.text
    assert "no longer declared" in found.why.text
    assert ask(bench, "line/k00").why.rule == "stopping"


def test_code_that_fails_is_told_with_step_error_and_next_look() -> None:
    def broken(self: Worker, spec: UserSpec) -> DesiredState:
        raise KeyError("address")

    bench = Bench(child("a", "bad"), workers=[worker_type("bad", derive_desired_state=broken)])
    bench.run(4.0)
    found = ask(bench, "a")

    assert found.why.rule == "worker_code_failed"
    assert "derive_desired_state has failed" in found.why.text
    assert "KeyError: 'address'" in found.why.text
    assert found.why.next_in_s is not None
    assert found.why.runbook == "/runbooks/worker-code-fails.md"
    assert [cause.rule for cause in found.also] == ["never_derived", "failed"]
    below = ask(bench, "a/b")
    assert below.why.rule == "parent_waits"
    assert "makes no children now: derive_desired_state has failed" in below.why.text


def test_trouble_of_the_machine_is_told_of_each_worker() -> None:
    bench = Bench(child("a"))
    bench.settle()
    bench.engine.set_infrastructure("no proc can be started")
    bench.run(1.0)
    for path in ("", "a"):
        found = ask(bench, path)
        assert found.why.rule == "infrastructure_open"
        assert "no proc can be started" in found.why.text


# --- children that are not there ------------------------------------------------------------


def ending(decision: Decision) -> type[Worker]:
    """A worker that ends by itself as soon as it is asked."""

    class Ends(Off):
        def next(self, snap: Snapshot) -> Decision:
            return decision

    return worker_type("ends", initial=Ends)


def test_a_child_that_is_done_is_told_so() -> None:
    bench = Bench(child("a", "ends", restart="transient"), workers=[ending(Remove("all sent"))])
    bench.settle()
    found = ask(bench, "a")

    assert (found.state, found.runs, found.worker_type) == ("absent", False, "ends")
    assert found.why.rule == "done"


def test_a_child_that_waits_for_its_restart_is_told_with_the_budget() -> None:
    bench = Bench(child("a", "ends"), workers=[ending(Restart("broken"))])
    bench.run(60.0, until=lambda: bench.find("a") is None and ask(bench, "a").why.rule != "done")
    bench.run(60.0, until=lambda: bench.find("a") is None and bool(ask(bench, "a").why.numbers))
    found = ask(bench, "a")

    assert found.why.rule == "restart_wait"
    assert found.why.numbers["restarts_max"] == 5
    assert 0 < (found.why.next_in_s or 0) <= 60
    assert found.why.runbook == "/runbooks/restart-budget-spent.md"


def test_a_child_given_up_is_told_with_the_moment_it_is_tried_again() -> None:
    bench = Bench(child("a", "ends"), workers=[ending(Restart("broken"))])
    bench.engine.root.worker = RootWorker(
        (child("a", "ends"),), "one_for_one", RestartBudget(1, 300)
    )
    bench.run(30.0)
    found = ask(bench, "a")

    assert found.why.rule == "given_up"
    assert "1 restarts in 300 s" in found.why.text
    assert 250 < (found.why.next_in_s or 0) <= 300


def test_a_child_that_never_comes_back_has_no_moment() -> None:
    bench = Bench(child("a", "ends"), workers=[ending(Restart("broken"))])
    bench.engine.root.worker = RootWorker((child("a", "ends"),), "one_for_one", RestartBudget(0, 5))
    bench.settle()
    found = ask(bench, "a")

    assert (found.why.rule, found.why.next_in_s) == ("given_up", None)
    assert msgspec.json.decode(msgspec.json.encode(found))["why"]["next_in_s"] is None


def test_a_child_whose_constructor_fails_is_told_with_the_error() -> None:
    def broken(self: Worker) -> None:
        raise OSError("no such licence")

    bench = Bench(child("a", "bad"), workers=[worker_type("bad", __init__=broken)])
    bench.run(2.0)
    found = ask(bench, "a")

    assert found.why.rule == "constructor_failed"
    assert "OSError: no such licence" in found.why.text
    assert found.why.since_s is not None
    deeper = ask(bench, "a/b/c")
    assert (deeper.path, deeper.state) == ("root/a/b/c", "absent")
    assert deeper.reason == "root/a is not there, and so nothing below it"
    assert deeper.why.rule == "constructor_failed"


def test_a_child_of_a_refused_declaration_is_told_what_is_wrong() -> None:
    bench = Bench(child("line", "parent", config={"children": (child("x", "unheard-of"),)}))
    bench.settle()

    assert ask(bench, "line").why.rule == "children_refused"
    found = ask(bench, "line/x")
    assert found.why.rule == "refused"
    assert "unheard-of" in found.why.text


def test_siblings_restarted_along_name_who_is_still_up() -> None:
    class Slow(State):
        phase = Phase.STOPPING

        def next(self, snap: Snapshot) -> Decision:
            return Go(Off, "at last") if snap.time_in_state_s > 3 else Stay("not yet")

    class Once(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Restart("broken") if snap.identity.generation == 1 else Go(Off, "well")

    kinds = [worker_type("slow", stopping=Slow), worker_type("once", initial=Once)]
    children = (child("a", "once"), child("b", "slow"))
    bench = Bench(*children, workers=kinds)
    bench.engine.root.worker = RootWorker(children, "one_for_all")
    bench.run(2.0, until=lambda: bench.find("a") is None)
    bench.run(1.0)
    found = ask(bench, "a")

    assert found.why.rule == "restarted_along"
    assert found.why.waits_for == ("root/b",)


def test_children_of_a_parent_that_leaves_are_not_made() -> None:
    kids = (child("x", "ends"),)
    bench = Bench(
        child("line", "parent", config={"children": kids}), workers=[ending(Restart("broken"))]
    )
    bench.run(60.0, until=lambda: bench.find("line") is not None and not bench.node("line").children
              and bool(bench.node("line").later))  # fmt: skip
    bench.node("line").leaving = "no longer declared"

    assert ask(bench, "line/x").why.rule == "parent_stops"


# --- paths ----------------------------------------------------------------------------------


def test_a_path_where_nothing_should_be_names_the_nearest_worker() -> None:
    bench = Bench(child("a"), child("b"))
    bench.settle()

    assert refused(bench, "root/c").children == ("a", "b")
    assert "want one of a, b" in refused(bench, "root/c").error
    assert refused(bench, "root/a/x/y").nearest == "root/a"
    assert "it has no children" in refused(bench, "root/a/x").error
    for path in ("", "roots", "other/a", "root//a", "root/a/", "\udcff"):
        found = refused(bench, path)
        assert len(found.error) < 500
        msgspec.json.encode(found)


def test_an_answer_is_a_document_that_fits_a_frame() -> None:
    """The largest there can be: long names, many of them, long errors."""
    names = [f"{'n' * 40}{n:04}" for n in range(2_000)]
    bench = Bench(
        *(child(name, enabled=False) for name in names),
        child("app", "quiet", *names),
        child("bad", "loud"),
        workers=[worker_type("loud", __init__=_fail_loudly)],
    )
    bench.run(1.0)
    answers: list[CommandAnswered] = []

    class Pool:
        kinds = type("Kinds", (), {"quarantined": staticmethod(dict)})

    explainer = Explainer(bench.engine, Pool())  # type: ignore[arg-type]
    for path in ("root/app", "root/bad", "root/nobody"):
        explainer.answer(ExplainWorker(3, path), answers.append)

    assert [answer.outcome for answer in answers] == ["done", "done", "no_such_worker"]
    assert {answer.number for answer in answers} == {3}
    assert all(len(answer.document) < 8_000 for answer in answers)
    assert "and 1980 more" in msgspec.json.decode(answers[0].document)["why"]["text"]


def _fail_loudly(self: Worker) -> None:
    raise ValueError("x" * 100_000)


def test_a_refusal_of_the_pool_is_no_failure_of_the_action() -> None:
    bench = Bench(child("a", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(5.0, until=lambda: bool(bench.attempts(SwitchOn)))
    bench.pool.complete(
        bench.open_attempt(SwitchOn), ActionError("QueueFull", "full"), status="refused"
    )
    bench.tick()

    assert ask(bench, "a").why.rule in ("own_decision", "awaiting_observation")


def test_a_parent_names_its_children_that_do_not_run() -> None:
    class Long(State):
        phase = Phase.DEGRADED

        def next(self, snap: Snapshot) -> Decision:
            return Stay("still at it")

    class Begin(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Long, "asked to run")

    kinds = [
        ending(Remove("done")),
        worker_type("long", initial=Begin),
    ]
    done = child("x", "ends", restart="temporary")
    bench = Bench(child("a"), child("b", "long"), done, child("c", "quiet", "b"), workers=kinds)
    bench.settle()
    found = ask(bench, "")

    assert found.why.rule == "own_decision"
    assert found.why.waits_for == ("root/b", "root/c")
    assert "2 do not run: root/b (long), root/c (off)" in found.why.text


def test_a_parent_with_a_failed_child_is_told_which_and_when_it_is_tried_again() -> None:
    bench = Bench(child("c", "loud"), workers=[worker_type("loud", __init__=_fail_loudly)])
    bench.settle()
    found = ask(bench, "")

    assert found.why.rule == "circuit_open"
    assert found.why.waits_for == ("root/c",)
    assert "c has failed (exists: ValueError" in found.why.text
    assert found.why.next_in_s is not None
    assert found.why.runbook == "/runbooks/circuit-open.md"


def test_a_failed_child_is_told_as_one_by_its_own_explanation() -> None:
    bench = bench_of(child("c", "soon"))
    MOOD["c"] = "bad"
    bench.run(
        3.0, until=lambda: bench.engine.root.care is not None and bench.engine.root.care.is_open
    )
    found = ask(bench, "c")

    assert found.why.rule == "failed"
    assert "it counts as failed (healthy: degraded for 2 s" in found.why.text
    assert found.why.next_in_s is not None
    assert found.why.next_in_s <= 1.0


def test_the_tree_names_children_that_are_not_there_and_why() -> None:
    """So does its text, with the command that says more."""
    bad = child("line", "parent", config={"children": (child("x", "unheard-of"),)})
    children = (
        bad,
        child("done", "ends", restart="temporary"),
        child("lost", "ends"),
        child("loud", "loud"),
    )
    kinds = [ending(Restart("broken")), worker_type("loud", __init__=_fail_loudly)]
    bench = Bench(*children, workers=kinds)
    bench.engine.root.worker = RootWorker(children, "one_for_one", RestartBudget(0, 300))
    bench.settle()
    pool: Any = bench.pool
    tree = msgspec.json.decode(b"".join(tree_pieces(bench.engine, pool, bench.now)))

    assert {each["name"]: each["why"] for each in tree["absent"]} == {
        "done": "done", "lost": "given_up", "loud": "waiting"
    }  # fmt: skip
    (line,) = tree["children"]
    assert line["absent"] == [{"name": "x", "worker_type": "unheard-of", "why": "refused"}]
    shown = tree_text(tree).splitlines()
    assert [row.split()[0] for row in shown] == ["NAME", "root", "├─", "│", "├─", "├─", "└─"]
    assert "x  unheard-of  absent" in shown[3]
    assert shown[3].endswith(" refused, see fsmv2 explain root/line/x")
    assert shown[5].endswith("given up, see fsmv2 explain root/lost")
