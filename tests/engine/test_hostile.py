"""What odd, broken or hostile worker code, specs and templates may cost: their own node, nothing
else. Each docstring tells what once went wrong here."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import msgspec
import pytest
from harness import (
    Bench,
    Look,
    Off,
    On,
    Plant,
    Pump,
    PumpOff,
    Quiet,
    SwitchOff,
    SwitchOn,
    child,
    worker_type,
)
from hypothesis import Phase as HypothesisPhase
from hypothesis import given, settings
from test_histories import histories, replay, told

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.redact import redact, secrets_in
from fsmv2.supervisor.core.action import Action, ActionContext
from fsmv2.supervisor.core.configrender import render_config
from fsmv2.supervisor.core.errors import SpecError, TemplateError
from fsmv2.supervisor.core.events import (
    ActionRefused,
    ChildrenRefused,
    ObservationStale,
    WorkerAdded,
    WorkerFaulted,
    WorkerRemoved,
)
from fsmv2.supervisor.core.freshness import ObservationRules
from fsmv2.supervisor.core.fsm import (
    Act,
    Decision,
    Go,
    Phase,
    Remove,
    Restart,
    Snapshot,
    State,
    Stay,
)
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.queue import KeyedQueue
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec, check_children
from fsmv2.supervisor.core.template import render_template
from fsmv2.supervisor.core.variables import VariableBundle

# --- 1. What takes the whole root down --------------------------------------------------------


def deciding_once(decision: Decision) -> Any:
    """A worker type that takes ``decision`` once, as soon as it runs."""
    taken: list[bool] = []

    class Running(On):
        def next(self, snap: Snapshot) -> Decision:
            if taken:
                return Stay("on")
            taken.append(True)
            return decision

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Running, "asked to run")

    return worker_type("deciding", initial=Start)


def test_a_dependency_may_restart() -> None:
    """KeyError in diff_children: start_order() names a dependency that is not present."""
    bench = Bench(
        child("db", "deciding"), child("app", "quiet", "db"),
        workers=[deciding_once(Restart("leaking"))],
    )  # fmt: skip
    bench.settle()
    assert bench.tree() == {"db": "running", "app": "running"}
    assert bench.node("db").generation == 2


def test_a_dependency_may_change_its_type() -> None:
    """The same KeyError."""
    bench = Bench(child("db"), child("app", "quiet", "db"))
    bench.settle()
    bench.redeclare(child("db", "parent"), child("app", "quiet", "db"))
    bench.settle()
    assert bench.tree() == {"db": "running", "app": "running"}


def test_a_dependency_that_is_done_does_not_break_the_next_reload() -> None:
    """The same KeyError."""
    bench = Bench(
        child("db", "deciding", restart="transient"), child("app", "quiet", "db"),
        workers=[deciding_once(Remove("migrated"))],
    )  # fmt: skip
    bench.settle()
    bench.redeclare(
        child("db", "deciding", restart="transient"), child("app", "quiet", "db", config={"n": 2})
    )
    bench.settle()
    assert "app" in bench.tree()


def test_a_dependency_whose_constructor_raises_holds_its_dependents_back() -> None:
    """KeyError in _keep_start_order; behind it, map_states lets a child start when what it
    depends on does not exist."""

    def init(self: Any) -> None:
        raise OSError("no licence")

    bench = Bench(
        child("db", "fragile"), child("app", "quiet", "db"), child("z"),
        workers=[worker_type("fragile", __init__=init)],
    )  # fmt: skip
    bench.settle()
    assert bench.tree() == {"app": "stopped", "z": "running"}


@settings(max_examples=60, phases=[HypothesisPhase.generate])
@given(histories(with_needs=True))
def test_histories_with_dependencies_decide_the_same_too(history: list[tuple[str, Any]]) -> None:
    """Like tests/engine/test_histories.py, with dependencies among the children."""
    incremental, full = replay(history, full=False), replay(history, full=True)
    assert incremental.tree() == full.tree()
    assert [repr(event) for event in incremental.events] == [repr(event) for event in full.events]


def test_a_long_chain_of_dependencies_is_no_recursion() -> None:
    """RecursionError in start_order.place, not contained; CHILDREN_MAX is 10,000."""
    count = 1200
    chain = [child(f"c{i}", "quiet", *([f"c{i + 1}"] if i < count - 1 else [])) for i in
             range(count)]  # fmt: skip
    bench = Bench(*chain)
    bench.tick()
    assert len(bench.tree()) == count


NONSENSE: dict[str, dict[str, Any]] = {
    "name is a list": {"name": ["b"]},
    "worker_type is a list": {"worker_type": ["quiet"]},
    "timeout is None": {"shutdown_timeout_s": None},
    "timeout is text": {"shutdown_timeout_s": "5"},
    "depends_on is None": {"depends_on": None},
    "state_mapping is None": {"state_mapping": None},
    "state_mapping holds a number": {"state_mapping": {"running": 5}},
    "user_spec is a dict": {"user_spec": {"config": {}}},
    "user_spec is None": {"user_spec": None},
    "location is None": {"location": None},
    "enabled is None": {"enabled": None},
}


@pytest.mark.parametrize("fields", NONSENSE.values(), ids=NONSENSE)
def test_a_child_spec_with_nonsense_in_it_costs_its_parent_only(fields: dict[str, Any]) -> None:
    """TypeError or AttributeError from check_children, give_variables or map_states: worker code
    builds ChildSpecs, msgspec checks no types in constructors. Refused, siblings live."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState("running", children=(
            ChildSpec(**{"name": "b", "worker_type": "quiet", **fields}),
        ))  # fmt: skip

    bench = Bench(
        child("bad", "wild"), child("z"), workers=[worker_type("wild", derive_desired_state=derive)]
    )
    bench.settle()
    assert bench.tree()["z"] == "running"
    assert "bad/b" not in bench.tree()
    assert bench.heard(ChildrenRefused) or bench.heard(WorkerFaulted)


@pytest.mark.parametrize("children", [5, "ab", None, {"a": 1}], ids=repr)
def test_children_that_are_no_sequence_of_specs_cost_their_parent_only(children: Any) -> None:
    """TypeError from len(specs) and others: check_children is called outside of containment."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState("running", children=children)

    bench = Bench(
        child("bad", "wild"), child("z"), workers=[worker_type("wild", derive_desired_state=derive)]
    )
    bench.settle()
    assert bench.tree()["z"] == "running"


def test_a_variable_can_be_a_secret() -> None:
    """TypeError from copy.deepcopy in for_child: Secret has __reduce__ but no __deepcopy__."""
    spec = child("a", variables=VariableBundle(user={"TOKEN": Secret("hunter22")}))
    bench = Bench(spec, child("z"))
    bench.settle()
    assert bench.tree() == {"a": "running", "z": "running"}
    assert bench.node("a").variables.user["TOKEN"] == Secret("hunter22")


def test_a_variable_that_cannot_be_copied_costs_its_parent_only() -> None:
    """TypeError from copy.deepcopy in for_child, outside of containment."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        lock = VariableBundle(user={"lock": threading.Lock()})
        return DesiredState("running", children=(child("b", variables=lock),))

    bench = Bench(
        child("bad", "wild"), child("z"), workers=[worker_type("wild", derive_desired_state=derive)]
    )
    bench.settle()
    assert bench.tree()["z"] == "running"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open \udcff.txt", "cannot open \\udcff.txt"),
        ("x" * 5_000_000, "x" * 999 + "…"),
        ("\udcff" * 5_000, "\\udcff" * 166 + "\\ud…"),
    ],
)
def test_a_reason_that_no_reader_could_be_sent_is_made_one(text: str, shown: str) -> None:
    """UnicodeEncodeError and FrameError ended the root, from the publisher and the store."""

    class Wordy(State):
        phase = Phase.STOPPED

        def next(self, snap: Snapshot) -> Decision:
            return Stay(text)

    bench = Bench(child("a", "wordy"), workers=[worker_type("wordy", initial=Wordy)])
    bench.settle()
    assert bench.node("a").reason == shown


class Oops(Exception):
    pass


def test_an_error_that_no_reader_could_be_sent_is_made_one() -> None:
    """UnicodeEncodeError ended the root: the text of an error may hold half a surrogate pair."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        raise Oops("half a \udcff")

    bench = Bench(child("a", "wild"), workers=[worker_type("wild", derive_desired_state=derive)])
    bench.settle()
    fault = bench.heard(WorkerFaulted)[0]
    assert fault.error == "Oops: half a \\udcff"
    bench.node("a").reason.encode()


@pytest.mark.parametrize("word", ["run\udcff", "x" * 201, "two\nlines", " "])
def test_a_state_that_is_no_word_is_refused(word: str) -> None:
    """UnicodeEncodeError ended the root, and a frame has an end."""
    with pytest.raises(SpecError, match="want a word"):
        DesiredState(word)
    with pytest.raises(SpecError, match="no word"):
        check_children((child("a", state_mapping={"running": word}),), {"quiet"}, "root")


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


def test_an_error_that_cannot_be_told_is_contained() -> None:
    """RuntimeError from f"{error}" in contain(); later SystemExit too."""

    def next_action(self: Any, snap: Snapshot) -> Decision:
        raise Mute

    bench = Bench(
        child("bad", "mute"), child("z"), workers=[worker_type("mute", next_action=next_action)]
    )
    bench.settle()
    assert bench.tree()["z"] == "running"


class Picky(msgspec.Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise KeyError("negative")


@pytest.mark.parametrize(
    ("value", "kind"), [({"n": -1}, Picky), ({"enterprise": "a.b"}, Location)], ids=["own", "ours"]
)
def test_a_value_its_type_refuses_is_a_frame_error(value: Any, kind: Any) -> None:
    """decode() lets through what __post_init__ raises unless it is a ValueError or TypeError. In
    the root this is the value of an action: one odd value ends the root's loop."""
    with pytest.raises(FrameError):
        decode(encode(value), kind)


# --- 2. Wrong decisions -----------------------------------------------------------------------


class ByStatus(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Decision:
        if snap.status == "off":
            return Go(PumpOff, "seen off")
        return Act(SwitchOff(), f"seen {snap.status}")


def test_a_stop_can_go_by_what_is_observed() -> None:
    """_observe() returns while the node leaves, so a stopping state never sees that it is done:
    it acts a hundred times a second and is dropped by force."""
    kind = worker_type("careful", Pump, stopping=ByStatus)
    bench = Bench(child("p", "careful"), workers=[kind])
    plant = Plant(bench)
    bench.settle()
    bench.redeclare()
    bench.settle(30)
    assert not plant.on
    assert [event.forced for event in bench.heard(WorkerRemoved, "p")] == [False]
    assert len(bench.attempts(SwitchOff)) <= 3


def test_a_stop_action_that_fails_does_not_spin() -> None:
    """_offer() skips the whole retry wait while stopping: 80 attempts a second."""
    bench = Bench(child("p", "pump"))
    Plant(bench)
    bench.settle()
    bench.pool.answers[SwitchOff] = lambda _action: OSError("broken")
    bench.redeclare(child("p", "pump", enabled=False))
    bench.settle(10)
    assert 2 <= len(bench.attempts(SwitchOff)) <= 40


def test_a_stops_own_action_has_the_stops_time() -> None:
    """bound_stop() cancels it after 5 s too, and begins it anew, until the force: the short wait
    is meant for what was in flight when the stop was asked for."""
    bench = Bench(child("p", "pump", shutdown_timeout_s=60.0))
    Plant(bench)
    bench.settle()
    bench.pool.answers.pop(SwitchOff)
    bench.redeclare()
    bench.run(20)
    closing = bench.attempts(SwitchOff)[0]
    assert closing.cancelled is None
    bench.pool.complete(closing, "done")
    bench.run(2, until=lambda: bench.find("p") is None)
    assert len(bench.attempts(SwitchOff)) == 1


def test_a_stop_action_that_hangs_is_ended_at_the_same_moment_by_both_ticks() -> None:
    """bound_stop() comes before _decide(): what is offered in a look is bounded only by the next
    look, and the incremental tick may have none before the force."""
    history = [
        ("declare", (child("a", "pump", shutdown_timeout_s=1.0),)),
        ("hang", SwitchOff),
        ("declare", ()),
    ]
    incremental, full = replay(history, full=False), replay(history, full=True)
    assert told(incremental) == told(full)


def test_an_overdue_observation_is_begun_at_the_same_moment_by_both_ticks() -> None:
    """tick() calls _wake_due() before drain(): a wake that the inbox asks for at a moment that has
    passed waits for the tick after. Harmless, but not what the full tick does; swap the two."""
    history = [("wait", 24), ("hang", Look), ("wait", 16), ("heal", None)]
    incremental, full = replay(history, full=False), replay(history, full=True)
    assert [one.at for one in incremental.attempts(Look)] == [one.at for one in full.attempts(Look)]


def test_removed_together_dependents_stop_before_what_they_depend_on() -> None:
    """I8 holds for a stop of the parent, not for a reload: all Remove operations ask at once."""
    bench = Bench(child("db"), child("app", "pump", "db"))
    Plant(bench)
    bench.settle()
    bench.pool.answers.pop(SwitchOff)
    bench.redeclare()
    bench.run(2)
    assert bench.tree() == {"db": "running", "app": "stopping"}
    bench.pool.complete(bench.open_attempt(SwitchOff), "done")
    bench.settle()
    assert bench.order_of(WorkerRemoved) == ["app", "db"]


def test_a_childs_constructor_does_not_stop_its_parent_from_deciding() -> None:
    """contain(parent, …): the parent backs off for its child's fault, and each new try fails
    before the parent is asked, so it never decides again."""

    def init(self: Any) -> None:
        raise OSError("no licence")

    def line() -> ChildSpec:
        return child("line", "parent", config={"children": (child("bad", "fragile"),)})

    bench = Bench(line(), child("z"), workers=[worker_type("fragile", __init__=init)])
    bench.settle(120)
    assert bench.tree() == {"line": "running", "z": "running"}


def test_a_corrected_spec_is_derived_at_the_next_tick() -> None:
    """Behaviour spec, ProtocolConverter step 8 and scenario 61: a new spec ends the backoff that
    the old one caused. Now it waits up to 30 s."""

    class Line(Quiet):
        type_name = "line"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            if spec.config["bad"]:  # type: ignore[index]
                raise ValueError("bad config")
            return DesiredState("running")

    bench = Bench(child("line", "line", config={"bad": True}), workers=[Line])
    bench.settle(60)
    bench.redeclare(child("line", "line", config={"bad": False}))
    bench.run(1.0)
    assert bench.tree() == {"line": "running"}


@pytest.mark.parametrize("interval_s", [10.0, 30.0])
def test_a_slowly_observed_worker_is_not_paused_between_observations(interval_s: float) -> None:
    """observe_interval_s may be up to 3600, but what is older than 10 s counts as stale. Refuse
    it at registration (scenario 88), or measure staleness in intervals."""
    kind = worker_type("slow", Pump, observe_interval_s=interval_s)
    bench = Bench(child("p", "slow"), workers=[kind])
    Plant(bench).on = True
    bench.settle(200)
    assert bench.heard(ObservationStale) == []


def test_a_cancelled_observation_is_begun_again() -> None:
    """_take_observation() returns on "cancelled" without waking the node: an observation that an
    operator kills comes back with the resync."""
    bench = Bench(child("p", "pump"))
    bench.settle(1)
    bench.pool.complete(bench.open_attempt(Look), status="cancelled")
    bench.settle(5)
    assert len(bench.attempts(Look)) >= 2


def test_restarts_have_a_budget() -> None:
    """I7: a worker that always asks for a restart gets one every few ticks, without backoff and
    without end."""

    class Running(On):
        def next(self, snap: Snapshot) -> Decision:
            return Restart("again")

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Running, "asked to run")

    bench = Bench(child("r", "restless"), workers=[worker_type("restless", initial=Start)])
    bench.settle(100)
    assert len(bench.heard(WorkerAdded, "r")) == 6  # the first start, and the budget


def test_declared_anew_a_worker_that_was_done_starts_again() -> None:
    """`done` is kept when the child is not declared any more (and so for ever): taken out and put
    back, it never starts."""
    spec = child("r", "deciding", restart="transient")
    bench = Bench(spec, workers=[deciding_once(Remove("job done"))])
    bench.settle()
    assert bench.tree() == {}
    bench.redeclare()
    bench.settle()
    bench.redeclare(spec)
    bench.settle()
    assert bench.tree() == {"r": "running"}


class Namesake:
    class SwitchOn(Action, frozen=True):
        def execute(self, ctx: ActionContext) -> int: ...


Namesake.SwitchOn.__qualname__ = "SwitchOn"  # as if it stood at the top of another module


def test_two_actions_of_one_name_are_two_actions() -> None:
    """results, failures and retry_at are kept by __qualname__: snapshot.result(A) gives what B
    returned when two modules have a class of the same name."""
    seen: list[Any] = []

    class Asking(State):
        phase = Phase.STARTING

        def next(self, snap: Snapshot) -> Decision:
            done = snap.result(SwitchOn)
            if done is None:
                return Act(SwitchOn(), "first")
            seen.append(snap.result(Namesake.SwitchOn))
            return Go(On, "asked")

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Asking, "asked to run")

    bench = Bench(child("a", "asking"), workers=[worker_type("asking", initial=Start)])
    bench.pool.answers[SwitchOn] = lambda _action: "done"
    bench.settle()
    assert seen == [None]


# --- 3. What people are told ------------------------------------------------------------------


@pytest.mark.parametrize("step", ["derive_desired_state", "observe", "next_action"])
def test_a_failing_node_goes_on_saying_what_failed(step: str) -> None:
    """_decide() writes the gate's "its code failed" over the text that contain() has written."""

    def method(self: Any, *_args: Any) -> Any:
        raise ValueError("no such host")

    bench = Bench(child("bad", "broken"), workers=[worker_type("broken", **{step: method})])
    bench.settle()
    bench.tick(full=True)
    assert "no such host" in bench.node("bad").reason


def test_an_observation_that_is_old_when_it_comes_is_the_same_incident() -> None:
    """_take_observation() ends the stale incident even if what it brings is stale: one warning per
    observation instead of one per incident."""
    bench = Bench(child("p", "pump"), observation=ObservationRules(dead_s=1000.0))
    for _ in range(6):
        bench.run(12)
        bench.pool.complete(bench.open_attempt(Look), "off")
        bench.run(0.1)
    assert len(bench.heard(ObservationStale)) == 1


def test_a_refused_action_is_told_as_refused() -> None:
    """ActionRefused is in the events, the metrics and the log's sentences, and never emitted."""
    bench = Bench(child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.settle(1)
    bench.pool.complete(bench.open_attempt(SwitchOn), "queue full", status="refused")
    bench.tick()
    assert len(bench.heard(ActionRefused)) == 1


def test_internal_variables_are_never_written() -> None:
    """The docstring's promise: Internal stays out of every serialised form."""
    bundle = VariableBundle(user={"a": 1}).with_internal({"id": "root/a"})
    assert b"root/a" not in msgspec.json.encode(bundle)


def test_internal_variables_cannot_be_written_by_a_user() -> None:
    """Internal is set by the framework: in a config it is an unknown field."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"user": {}, "internal": {"id": "forged"}}, VariableBundle)


def test_overlapping_secrets_are_hidden_whole() -> None:
    """The shorter one is replaced first and leaves the longer one's tail."""
    assert "5678" not in redact("key=12345678", ("1234", "12345678"))


@dataclasses.dataclass
class Login:
    token: Secret


@pytest.mark.parametrize(
    "value",
    [Login(Secret("hunter22")), {Secret("hunter22")}, {Secret("hunter22"): 1},
     [[[[[[[Secret("hunter22")]]]]]]]],
    ids=["dataclass", "set", "dict key", "depth 7"],
)  # fmt: skip
def test_secrets_are_found_wherever_the_codec_would_send_them(value: Any) -> None:
    """Not in dataclasses, sets, keys or below depth 6: such a secret shows in logs and stacks."""
    assert secrets_in(value) == ("hunter22",)


# --- 4. The queue -----------------------------------------------------------------------------


def test_an_urgent_item_stays_urgent_while_its_key_is_busy() -> None:
    """release() puts the key at the end of the ordinary ones."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    queue.offer("a1", "a")
    assert queue.take() == ("a1", "a")
    queue.offer("stop a", "a", urgent=True)
    queue.offer("b1", "b")
    queue.release("a")
    assert queue.take() == ("stop a", "a")


def test_an_urgent_item_stays_urgent_behind_another_of_its_key() -> None:
    """Taking the first item of the key spends the urgency of the second."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    queue.offer("a1", "a")
    queue.offer("b1", "b")
    queue.offer("stop a", "a", urgent=True)
    assert queue.take() == ("a1", "a")
    queue.release("a")
    assert queue.take() == ("stop a", "a")


# --- 5. Templates -----------------------------------------------------------------------------

ATTACKS = {
    "doubling by ~": "{% set a = 'x' %}" + "{% set a = a ~ a %}" * 20 + "{{ a | length }}",
    "doubling by +": "{% set a = 'x' %}" + "{% set a = a + a %}" * 20 + "{{ a | length }}",
    "doubling a list": "{% set a = [1] %}" + "{% set a = a + a %}" * 20 + "{{ a | length }}",
    "squaring": "{% set a = 10 ** 6 %}" + "{% set a = a * a %}" * 14 + "{{ a > 5 }}",
    "str.format": "{{ '{:>1000000}'.format(1) | length }}",
    "str.format_map": "{{ '{a:>1000000}'.format_map({'a': 1}) | length }}",
    "attr format": "{{ ('{:>1000000}' | attr('format'))(1) | length }}",
    "bytes.ljust": "{{ 'a'.encode().ljust(1000000) | length }}",
    "bytes.replace": "{{ S.encode().replace('x'.encode(), S.encode()) | length }}",
    "int.to_bytes": "{{ (1).to_bytes(1000000, 'big') | length }}",
    "replace filter": "{{ S | replace('x', S) | length }}",
    "join filter": "{{ range(10000) | join(S) | length }}",
    "tojson indent": "{{ [1] | tojson(indent=1000000) | length }}",
    "batch fill": "{{ ([1] | batch(1000000, 'x') | first) | length }}",
    "slice count": "{{ [1] | slice(100000) | list | length }}",
    "captured block": "{% set x %}{% for i in range(1000) %}{% for j in range(1000) %}x{% endfor %}"
    "{% endfor %}{% endset %}{{ x | length }}",
    "macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% else %}xxxxxxxx"
    "{% endif %}{% endmacro %}{{ f(14) | length }}",
    "silent loops": "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
    "sum of lists": "{{ L | sum(start=[]) | length }}",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_a_template_cannot_burn_memory_or_time(text: str) -> None:
    """Each takes some 100,000 bytes or steps here, and as much as it likes with larger
    numbers, in the root's tick: the output cap does not see it."""
    with pytest.raises(TemplateError):
        render_template(text, {"S": "x" * 1000, "L": [[1] * 1000] * 300})


def test_rounding_to_a_huge_precision_is_refused_before_it_is_computed() -> None:
    """10 ** precision inside the filter: with 10**9 it hangs in C, where nothing interrupts it."""
    with pytest.raises(TemplateError, match="round"):
        render_template("{{ 1.5 | round(200000, 'ceil') }}", {})


def test_a_single_expressions_value_is_capped_like_any_output() -> None:
    """RENDERED_BYTES_MAX does not apply to a string that is one expression."""
    with pytest.raises(TemplateError):
        render_config({"a": "{{ S ~ S }}"}, VariableBundle(user={"S": "x" * 200_000}))


@pytest.mark.parametrize("text", ["{{ [missing] }}", "{{ {'a': missing} }}", "{{ [missing][:1] }}"])
def test_an_undefined_variable_inside_a_list_is_an_error(text: str) -> None:
    """It renders as "[Undefined]"; `finalize` does nothing."""
    with pytest.raises(TemplateError, match="missing"):
        render_template(text, {})
    with pytest.raises(TemplateError, match="missing"):
        render_config({"a": text}, VariableBundle())


NOT_TEMPLATE_ERRORS = {
    "deep parentheses": "{{ " + "(" * 150 + "1" + ")" * 150 + " }}",
    "21 nested loops": "{% for i in [1] %}" * 25 + "x" + "{% endfor %}" * 25,
    "120 nested ifs": "{% if 1 %}" * 120 + "x" + "{% endif %}" * 120,
}


@pytest.mark.parametrize("text", NOT_TEMPLATE_ERRORS.values(), ids=NOT_TEMPLATE_ERRORS)
def test_a_template_that_cannot_be_compiled_is_a_template_error(text: str) -> None:
    """RecursionError, SyntaxError and IndentationError get out of _compile()."""
    with pytest.raises(TemplateError):
        render_template(text, {})


@pytest.mark.parametrize("text", ["a: 2024-13-45", "a: 0001-01-01T00:00:00+23:59"])
def test_a_yaml_value_that_cannot_be_built_is_a_template_error(text: str) -> None:
    """PyYAML raises ValueError or OverflowError, msgspec passes it on."""
    try:
        render_config(text, VariableBundle())
    except TemplateError:
        return
    assert text != "a: 2024-13-45"


def test_a_yaml_value_that_holds_itself_is_refused() -> None:
    """`a: &x [*x]` gives an endless list, on which any comparison or walk recurses."""
    with pytest.raises(TemplateError):
        render_config("a: &x [*x]", VariableBundle())


def test_white_space_control_does_not_change_what_a_single_expression_is() -> None:
    """`{{- X -}}` is cut to `- X -` and does not parse."""
    assert render_config({"a": "{{- X -}}"}, VariableBundle(user={"X": 5})) == {"a": 5}


def test_a_variable_may_be_called_self() -> None:
    """_compile_expression(…)(**names) collides with the parameter; pass the dict."""
    assert render_config({"a": "{{ X }}"}, VariableBundle(user={"X": 5, "self": 1})) == {"a": 5}


@pytest.mark.parametrize("value", [["{{ X }}"], {"k": "{% if %}"}], ids=["list", "dict"])
def test_a_container_whose_texts_hold_templates_is_refused(value: Any) -> None:
    """Handed on in a child's config it would be rendered after all."""
    with pytest.raises(TemplateError):
        render_config({"a": "{{ V }}"}, VariableBundle(user={"V": value}))


def test_a_remark_left_in_the_output_is_refused_on_both_ways() -> None:
    """render_template() lets "{#" through, a single expression does not."""
    with pytest.raises(TemplateError):
        render_template("x {{ V }}", {"V": "{# no #}"})


def test_a_lazy_value_does_not_get_into_a_config() -> None:
    """`{{ L | map(…) }}` gives a generator object: used up by its first reader, never equal."""
    got = render_config({"a": "{{ L | map('string') }}"}, VariableBundle(user={"L": [1]}))
    assert got == {"a": ["1"]}
