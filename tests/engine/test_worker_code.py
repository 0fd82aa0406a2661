"""Worker code at its worst: whatever a constructor, a state, a word or an error is made of, it
costs its own node; scenario 36."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable
from typing import Any

import pytest
from harness import Bench, Look, On, Quiet, child, worker_type

from fsmv2.supervisor.core.events import (
    ChildrenRefused,
    StateChanged,
    WorkerAdded,
    WorkerFaulted,
    WorkerRecovered,
)
from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.workevents import WorkerSlow


class Untold(Exception):
    """Its text is code that ends the interpreter."""

    def __str__(self) -> str:
        raise SystemExit("no text")


class Interrupting(BaseException):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Word(str):
    """A text that cannot be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ValueError("compared")

    def __ne__(self, other: object) -> bool:
        raise ValueError("compared")

    def __hash__(self) -> int:
        raise ValueError("hashed")


class Exits(On):
    def __init__(self) -> None:
        raise SystemExit(2)


class Nameless(On):
    @classmethod
    def state_name(cls) -> str:
        raise ValueError("no name")


class Numbered(On):
    @classmethod
    def state_name(cls) -> str:
        return 7  # type: ignore[return-value]


def raises(error: BaseException) -> Any:
    def method(*_args: Any) -> Any:
        raise error

    return method


def goes(state: type[State]) -> Any:
    return lambda *_args: Go(state, "on")


def has(name: str, value: object) -> Any:
    """A constructor that gives its object something else than its class has."""
    return lambda self: setattr(self, name, value)


CONSTRUCTORS = {
    "raises": raises(OSError("no licence")),
    "exits": raises(SystemExit(3)),
    "interrupts": raises(KeyboardInterrupt()),
    "recurses": raises(RecursionError("deep")),
    "cannot say why": raises(Untold()),
    "begins in no state": has("initial", int),
    "begins nowhere": has("initial", None),
}


@pytest.mark.parametrize("init", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
@pytest.mark.parametrize("full", [False, True], ids=["incremental", "full"])
def test_a_constructor_that_fails_costs_its_own_child_only(init: Any, full: bool) -> None:
    """It is told once and tried less and less; its siblings run; healed, it comes up."""
    kind = worker_type("broken", __init__=init)
    bench = Bench(child("a"), child("bad", "broken"), child("z"), workers=[kind], full=full)
    bench.settle(60)
    assert bench.tree() == {"a": "running", "z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert (fault.path, fault.step) == ("root/bad", "constructor")
    kind.__init__ = Quiet.__init__  # type: ignore[method-assign]
    bench.settle(60)
    assert bench.tree()["bad"] == "running"
    [healed] = bench.heard(WorkerRecovered)
    assert 4 <= healed.failures <= 9


@pytest.mark.parametrize(
    "make", [lambda *_: "text", lambda *_: None, lambda *_: 3], ids=["text", "None", "number"]
)
def test_a_class_that_makes_something_else_costs_its_own_child_only(
    make: Callable[..., object],
) -> None:
    kind = worker_type("broken", __new__=make)
    bench = Bench(child("bad", "broken"), child("z"), workers=[kind])
    bench.settle()
    assert bench.tree() == {"z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert fault.step == "constructor"


@pytest.mark.parametrize("step", ["derive_desired_state", "observe", "next_action"])
@pytest.mark.parametrize("error", [Untold(), Interrupting()], ids=["exits", "interrupts"])
def test_an_error_whose_text_ends_the_interpreter_is_contained(
    step: str, error: BaseException
) -> None:
    """What names a fault is worker code too, and may raise as much as the rest of it."""
    kind = worker_type("mute", **{step: raises(error)})
    bench = Bench(child("bad", "mute"), child("z"), workers=[kind])
    bench.settle()
    assert bench.tree() == {"bad": "stopped", "z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert fault.error == f"{type(error).__name__}: <its text could not be made>"


@pytest.mark.parametrize("state", [Exits, Nameless, Numbered])
def test_a_state_that_cannot_be_made_or_named_is_not_entered(state: type[State]) -> None:
    """Its worker stays where it is; nothing asks for that name outside of the containment."""
    kind = worker_type("broken", next_action=goes(state))
    bench = Bench(child("bad", "broken"), child("z"), workers=[kind])
    bench.settle()
    assert bench.tree() == {"bad": "stopped", "z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert fault.step == "next_action"
    assert bench.heard(StateChanged, "bad") == []


def test_a_worker_whose_way_out_is_no_state_is_dropped_in_its_time() -> None:
    """The stop goes on without it, and says what was wrong."""
    kind = worker_type("stuck", __init__=has("stopping", int))
    bench = Bench(child("bad", "stuck", shutdown_timeout_s=2.0), child("z"), workers=[kind])
    bench.settle()
    bench.engine.stop("asked")
    bench.run(5, until=lambda: bench.engine.stopped)
    [fault] = bench.heard(WorkerFaulted)
    assert fault.error == "WorkerFault: cannot enter <class 'int'>: want a State class"


def test_a_reason_and_a_word_are_taken_as_plain_text() -> None:
    """Not with the code that a subclass of str brings: no log and no store could write it."""

    class Up(State):
        phase = Phase.STOPPED

        def next(self, snap: Snapshot) -> Decision:
            return Go(Saying, Word("up"))

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState(Word("running"), children=(child("c"),))

    kind = worker_type("wordy", derive_desired_state=derive, initial=Up)
    bench = Bench(child("w", "wordy"), child("z"), workers=[kind])
    bench.settle()
    assert bench.tree() == {"w": "running", "w/c": "running", "z": "running"}
    node = bench.node("w")
    assert type(node.reason) is type(node.desired_word) is str
    assert (node.reason, node.desired_word) == ("saying", "running")


class Saying(On):
    def next(self, snap: Snapshot) -> Decision:
        return Stay(Word("saying"))


# --- scenario 36 ----------------------------------------------------------------------------


def siblings_of_one_that_takes(costs_s: float) -> tuple[list[tuple[float, str, str]], Bench]:
    """When each sibling of a new child came to which state."""
    spent = [0.0]

    def init(self: Any) -> None:
        spent[0] += costs_s

    kind = worker_type("slow", __init__=init)
    bench = Bench(child("a", "pump"), child("z"), workers=[kind], clock=lambda: spent[0])
    bench.pool.answers[Look] = lambda _action: "on"
    bench.settle()
    bench.redeclare(child("a", "pump"), child("new", "slow"), child("y"), child("z"))
    bench.settle(120)
    told = [
        (moment, event.path, event.to_state)
        for moment, event in zip(bench.moments, bench.events, strict=True)
        if isinstance(event, StateChanged) and event.path != "root/new"
    ]
    return told, bench


def test_a_constructor_of_two_seconds_delays_none_of_its_siblings_ticks() -> None:
    """Scenario 36; the decision: worker code runs in the root's thread, so that one tick takes as
    long as the call. It is called once, told with its time, and waits; its siblings come up and are
    observed at the very ticks at which they would without it."""
    quick, _ = siblings_of_one_that_takes(0.0)
    told, bench = siblings_of_one_that_takes(2.0)
    assert told == quick
    assert bench.tree() == {"a": "running", "new": "running", "y": "running", "z": "running"}
    assert len(bench.heard(WorkerAdded, "new")) == 1
    [slow] = bench.heard(WorkerSlow)
    assert (slow.path, slow.step, slow.took_s) == ("root/new", "constructor", 2.0)


# --- what a declaration is made of ----------------------------------------------------------


class Mapping(dict[str, Any]):
    def items(self) -> Any:
        raise ValueError("listed")

    def __eq__(self, other: object) -> bool:
        raise ValueError("compared")

    __hash__ = None  # type: ignore[assignment]


class Value:
    """Something that a config may hold, which cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit("compared")

    __hash__ = None  # type: ignore[assignment]


def hostile_child() -> ChildSpec:
    return ChildSpec(
        Word("b"),
        Word("quiet"),
        UserSpec(Mapping({"n": Value()})),
        state_mapping=Mapping({Keyed("running"): Word("running")}),
        depends_on=(Word("a"),),
        restart=Word("permanent"),  # type: ignore[arg-type]
    )


class Keyed(Word):
    """One that has a hash, or no mapping could hold it."""

    __slots__ = ()
    __hash__ = str.__hash__


@pytest.mark.parametrize("full", [False, True], ids=["incremental", "full"])
def test_a_declaration_that_cannot_be_compared_costs_its_own_node_only(full: bool) -> None:
    """Whatever its texts, its mappings and its config's values are made of; and it is taken."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState("running", children=(child("a"), hostile_child()))

    kind = worker_type("wild", derive_desired_state=derive)
    bench = Bench(child("w", "wild"), child("z"), workers=[kind], full=full)
    bench.settle()
    for number in range(3):
        bench.redeclare(child("w", "wild", config={"n": number}), child("z"))
        bench.settle(60)
    up = {"w": "running", "w/a": "running", "w/b": "running", "z": "running"}
    assert bench.tree() == up
    assert len(bench.heard(WorkerAdded, "w/b")) == 1


VARIABLES = {
    "value": {"n": Word("x")},
    "in a list": {"n": [Word("x")]},
    "key": {"n": {Keyed("x"): 1}},
}


@pytest.mark.parametrize("user", VARIABLES.values(), ids=VARIABLES)
def test_a_variable_that_compares_by_code_of_its_own_is_refused(user: dict[str, Any]) -> None:
    def derive(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState("running", children=(child("b", variables=VariableBundle(user=user)),))

    kind = worker_type("wild", derive_desired_state=derive)
    bench = Bench(child("w", "wild"), child("z"), workers=[kind])
    bench.settle()
    assert bench.tree() == {"w": "running", "z": "running"}
    assert len(bench.heard(ChildrenRefused)) == 1


class Level(enum.StrEnum):
    HIGH = "high"


NEW_YEAR = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Rate(enum.IntEnum):
    FAST = 3


def test_an_enumerations_members_are_variables_like_others() -> None:
    user = {"level": Level.HIGH, "rate": Rate.FAST, "at": NEW_YEAR}
    bench = Bench(child("a", variables=VariableBundle(user=user), config={"n": "{{ level }}"}))
    bench.settle()
    assert bench.tree() == {"a": "running"}
