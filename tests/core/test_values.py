"""Secrets, action types, the worker factory, the root's worker."""

from __future__ import annotations

import json
import pickle
import pprint
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.action import (
    Action,
    ActionContext,
    ActionError,
    ActionFailed,
    ActionResult,
    DeathCertificate,
    action_reference,
    check_action_type,
    value_type,
)
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.fsm import (
    ChildInfo,
    ChildrenView,
    Desired,
    Go,
    Identity,
    Phase,
    Snapshot,
    State,
    Stay,
    decide,
)
from fsmv2.supervisor.core.rootworker import Degraded, RootWorker, Running, Stopped
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.worker import Worker, WorkerFactory

TEXT = "hunter2-hunter2"

# --- secrets --------------------------------------------------------------------------------

SHOWN = {
    "repr": repr,
    "str": str,
    "format": format,
    "padded": lambda s: f"{s:>40}",
    "percent": lambda s: "%s %r" % (s, s),  # noqa: UP031
    "f-string": lambda s: f"{s} {s!r} {s!s} {s!a}",
    "template": lambda s: string.Template("$s").substitute(s=s),
    "inside": lambda s: repr({"k": [s], "t": (s,)}),
    "pprint": lambda s: pprint.pformat([s]),
    "error": lambda s: str(ValueError(s)),
    "struct": lambda s: repr(Login("me", s)),
}


class Login(msgspec.Struct):
    user: str
    password: Secret


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_a_secret_is_never_shown(show: Any) -> None:
    """However it is turned into text, the text is not in it."""
    shown = show(Secret(TEXT))
    assert TEXT not in shown
    assert "Secret" in shown


@pytest.mark.parametrize(
    "dump",
    [pickle.dumps, json.dumps, msgspec.json.encode, msgspec.yaml.encode, msgspec.msgpack.encode],
    ids=["pickle", "json", "msgspec.json", "msgspec.yaml", "msgpack"],
)
def test_a_secret_is_never_dumped(dump: Any) -> None:
    """Every encoder but the wire's refuses, and the refusal does not quote it."""
    with pytest.raises((TypeError, msgspec.MsgspecError)) as caught:
        dump(Secret(TEXT))
    assert TEXT not in str(caught.value)


@given(st.text("abc", max_size=3), st.text("abc", max_size=3))
def test_secrets_compare_and_hash_by_value(a: str, b: str) -> None:
    """So that a config with a secret can be compared."""
    assert (Secret(a) == Secret(b)) is (a == b)
    assert (hash(Secret(a)) == hash(Secret(b))) is (a == b)
    assert Secret(a) != a
    assert bool(Secret(a)) is bool(a)
    assert Secret(a).reveal() == a


@pytest.mark.parametrize("raw", [None, 5, b"x", Secret("x")])
def test_only_text_can_be_a_secret(raw: Any) -> None:
    """The error names the type, not the value."""
    with pytest.raises(TypeError, match="want str"):
        Secret(raw)


# --- actions --------------------------------------------------------------------------------


class Fine(Action, frozen=True):
    timeout_s = 2.5
    host: str = ""

    def execute(self, ctx: ActionContext) -> tuple[int, str]: ...


class Untyped(Action, frozen=True):
    def execute(self, ctx):  # type: ignore[no-untyped-def]
        ...


class Misspelt(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> Raeding: ...  # type: ignore[name-defined] # noqa: F821


def test_a_usable_action_type() -> None:
    """What it is called for a proc, and what its value is decoded as."""
    check_action_type(Fine)
    assert action_reference(Fine) == f"{__name__}:Fine"
    assert value_type(Fine) == tuple[int, str]
    assert value_type(Untyped) is Any


@pytest.mark.parametrize(
    "bad", [0, -1.0, float("nan"), float("inf"), "5", None, True, 86_401, 1e-9], ids=repr
)
def test_an_unusable_timeout_is_refused(bad: Any) -> None:
    """An action without a real deadline could hold a proc for ever."""
    kind = type("Bad", (Action,), {"timeout_s": bad, "__module__": __name__}, frozen=True)
    with pytest.raises(SpecError, match=r"cannot use action Bad: timeout_s is .*want seconds"):
        check_action_type(kind)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "1", None, False], ids=repr)
def test_an_unusable_grace_is_refused(bad: Any) -> None:
    """The same holds for the time it may take to clean up."""
    kind = type("Bad", (Action,), {"grace_s": bad, "__module__": __name__}, frozen=True)
    with pytest.raises(SpecError, match="grace_s is"):
        check_action_type(kind)


def test_an_action_made_inside_a_function_is_refused() -> None:
    """No other process could import it."""

    class Local(Action, frozen=True):
        pass

    with pytest.raises(SpecError, match="defined inside a function"):
        check_action_type(Local)


def test_an_annotation_that_names_nothing_is_refused() -> None:
    """Before the action runs, not when its value cannot be decoded."""
    with pytest.raises(SpecError, match=r"return annotation of Misspelt\.execute.*Raeding"):
        check_action_type(Misspelt)


def test_an_action_is_immutable_data() -> None:
    """Equal by value, so that decisions can be compared."""
    assert Fine("a") == Fine("a")
    assert Fine("a") != Fine("b")
    with pytest.raises(AttributeError):
        Fine("a").host = "b"  # type: ignore[misc]


def test_an_action_that_was_not_written_says_so() -> None:
    """A forgotten method is named."""
    with pytest.raises(NotImplementedError, match=r"Action\.execute"):
        Action().execute(None)  # type: ignore[arg-type]


def test_a_result_never_raises_until_it_is_asked_to() -> None:
    """The whole story is in the result, and in the error of those who prefer one."""
    good = ActionResult(status="succeeded", action_type="Fine", attempt_id=1, value=(1, "a"))
    assert good.succeeded
    assert good.value_or_raise() == (1, "a")
    bad = ActionResult(
        status="failed", action_type="Fine", attempt_id=2, ran_s=0.5,
        error=ActionError("ValueError", "no"),
    )  # fmt: skip
    with pytest.raises(ActionFailed, match=r"Fine failed after 0\.500 s: ValueError: no") as caught:
        bad.value_or_raise()
    assert caught.value.result is bad


def test_a_results_verdict_is_its_certificates() -> None:
    """Else its status."""
    dead = ActionResult(
        status="crashed", action_type="Fine", attempt_id=1,
        certificate=DeathCertificate(verdict="crashed:SIGSEGV"),
    )  # fmt: skip
    assert dead.verdict == "crashed:SIGSEGV"
    assert ActionResult(status="failed", action_type="F", attempt_id=1).verdict == "failed"


# --- the factory ----------------------------------------------------------------------------


class Off(State):
    phase = Phase.STOPPED


class On(State):
    phase = Phase.RUNNING


class NoPhase(State):
    pass


class Lamp(Worker):
    type_name = "lamp"
    initial = stopping = Off


def test_a_type_created_twice_gives_two_workers() -> None:
    """Nothing is shared between nodes."""
    factory = WorkerFactory([Lamp])
    first, second = factory.create("lamp"), factory.create("lamp")
    assert first is not second
    assert type(first) is type(second) is factory.type_of("lamp") is Lamp
    assert "lamp" in factory
    assert factory.type_names == {"lamp"}


def test_an_unknown_type_is_told_with_the_known_ones() -> None:
    """A typing mistake is found at a glance."""
    with pytest.raises(SpecError, match="unknown worker type 'lmap', want one of lamp"):
        WorkerFactory([Lamp]).create("lmap")
    with pytest.raises(SpecError, match="none registered"):
        WorkerFactory().create("lamp")


def test_a_name_that_is_taken_is_refused_and_the_first_stays() -> None:
    """Unless the second is meant to replace it."""
    other = type("Other", (Lamp,), {})
    factory = WorkerFactory([Lamp])
    with pytest.raises(SpecError, match=r"Lamp has that name already"):
        factory.register(other)
    assert factory.type_of("lamp") is Lamp
    factory.register(other, replace=True)
    assert factory.type_of("lamp") is other


def test_two_factories_know_nothing_of_each_other() -> None:
    """There is no global registry."""
    assert "lamp" in WorkerFactory([Lamp])
    assert "lamp" not in WorkerFactory()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type_name": "a/b"}, "cannot use type_name 'a/b'"),
        ({"type_name": None}, "cannot use type_name None"),
        ({"initial": None}, "initial is None, want a State class"),
        ({"initial": Off()}, "want a State class"),
        ({"initial": On}, "initial is of phase running, want stopped"),
        ({"stopping": On}, "stopping is of phase running, want stopping or stopped"),
        ({"stopping": NoPhase}, "state NoPhase has no phase"),
        ({"observe_interval_s": 0}, "observe_interval_s is 0"),
        ({"observe_interval_s": float("nan")}, "observe_interval_s is nan"),
        ({"observe_interval_s": 3601}, "at most 3600"),
    ],
)
def test_an_unusable_worker_class_is_refused_when_it_is_registered(
    fields: dict[str, Any], told: str
) -> None:
    """With the class and the field named, long before a tree runs on it."""
    with pytest.raises(SpecError, match="cannot register worker") as caught:
        WorkerFactory([type("Broken", (Lamp,), fields)])
    assert told in str(caught.value)
    assert "Broken" in str(caught.value)


@pytest.mark.parametrize("name", ["type_name", "initial", "stopping"])
def test_a_worker_class_that_lacks_something_is_told_what(name: str) -> None:
    """All three must be set."""
    fields = {"type_name": "x", "initial": Off, "stopping": Off}
    del fields[name]
    with pytest.raises(SpecError, match=f"it has no {name}"):
        WorkerFactory([type("Partial", (Worker,), fields)])


@pytest.mark.parametrize("thing", [None, 5, Lamp(), int, "lamp"])
def test_what_is_no_worker_class_is_refused(thing: Any) -> None:
    """Instances neither."""
    with pytest.raises(SpecError, match="want a subclass of Worker"):
        WorkerFactory([thing])


# --- the root's worker ----------------------------------------------------------------------


def root_decides(state: type[State], *phases: Phase) -> Any:
    infos = tuple(ChildInfo(f"c{i}", "p", "t", "s", p, "r") for i, p in enumerate(phases))
    snapshot = Snapshot(
        identity=Identity("root", "root", "root", 1),
        state=state(),
        desired=Desired("running", None),
        children=ChildrenView(infos),
    )
    return decide(RootWorker(), snapshot)


def test_the_root_runs_and_shows_its_childrens_troubles() -> None:
    """Degraded while one child is, running otherwise; its reason counts them."""
    up, poor = Phase.RUNNING, Phase.DEGRADED
    assert root_decides(Stopped) == Go(Running, "supervising 0 workers")
    assert root_decides(Running) == Stay("no workers")
    assert root_decides(Running, up, poor) == Go(Degraded, "1 running, 1 degraded")
    assert root_decides(Degraded, up, poor, poor) == Stay("1 running, 2 degraded")
    assert root_decides(Degraded, up, Phase.STOPPED) == Go(Running, "1 stopped, 1 running")
