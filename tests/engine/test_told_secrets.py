"""What worker code says of its config where it fails or decides: without the secrets in it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from harness import Bench, Off, On, Quiet, child, worker_type

from fsmv2.supervisor.core.events import WorkerFaulted, WorkerRecovered
from fsmv2.supervisor.core.fsm import Decision, Go, Snapshot, Stay
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.words import ERROR_CHARS_MAX, REASON_CHARS_MAX

TEXT = "correct horse battery"


class Config(msgspec.Struct, frozen=True):
    token: Secret
    host: str = "plc"


def derive(self: Any, spec: UserSpec) -> DesiredState:
    return DesiredState("running", config=spec.decode(Config))


def quotes(words: str) -> Any:
    """A step that fails, and says with what."""

    def step(self: Any, given: Any) -> Any:
        config = given.decode(Config) if isinstance(given, UserSpec) else given.config
        raise ValueError(f"{words}{config.token.reveal()} at {config.host}")

    return step


@pytest.mark.parametrize("step", ["derive_desired_state", "observe", "next_action"])
@pytest.mark.parametrize(
    "words", ["cannot log in with ", "x" * (ERROR_CHARS_MAX - 20)], ids=["short", "cut"]
)
def test_an_error_that_quotes_a_secret_is_told_without_it(step: str, words: str) -> None:
    """Also where the config has never been derived, and where the text is cut in its middle."""
    kind = worker_type("leaky", **{"derive_desired_state": derive, step: quotes(words)})
    bench = Bench(child("a", "leaky", config={"token": TEXT}), workers=[kind])
    bench.settle()
    [fault] = bench.heard(WorkerFaulted)
    assert fault.step == step
    assert "Secret(" in fault.traceback
    for told in (fault.error, fault.traceback, bench.node("a").reason):
        assert TEXT[:8] not in told


@pytest.mark.parametrize(
    "bundle",
    [VariableBundle(user={"PASSWORD": TEXT}), VariableBundle(user={"LOGIN": [Secret(TEXT)]})],
    ids=["by its name", "by its type"],
)
def test_an_error_that_quotes_a_secret_variable_is_told_without_it(bundle: VariableBundle) -> None:
    def next_action(self: Any, snap: Snapshot) -> Decision:
        raise ValueError(f"cannot use {TEXT}")

    kind = worker_type("leaky", next_action=next_action)
    bench = Bench(child("a", "leaky", variables=bundle), workers=[kind])
    bench.settle()
    [fault] = bench.heard(WorkerFaulted)
    assert fault.error == "ValueError: cannot use Secret(…)"


class Odd:
    """A config whose own code ends the interpreter when it is searched."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


def test_a_config_that_cannot_be_searched_for_secrets_costs_its_own_node_only() -> None:
    def odd(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState("running", config=Odd())

    def next_action(self: Any, snap: Snapshot) -> Decision:
        raise ValueError("fails")

    kind = worker_type("odd", derive_desired_state=odd, next_action=next_action, config_type=Odd)
    bench = Bench(child("a", "odd"), child("z"), workers=[kind])
    bench.settle()
    assert bench.tree() == {"a": "stopped", "z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert fault.error == "ValueError: fails"


@pytest.mark.parametrize("before", ["with ", "x" * (REASON_CHARS_MAX - 9)], ids=["short", "cut"])
def test_a_reason_that_quotes_a_secret_of_the_config_is_shown_without_it(before: str) -> None:
    class In(On):
        def next(self, snap: Snapshot) -> Decision:
            return Stay(f"{before}{snap.config.token.reveal()}")

    class Out(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(In, f"{before}{snap.config.token.reveal()}")

    kind = worker_type("leaky", derive_desired_state=derive, initial=Out)
    bench = Bench(child("a", "leaky", config={"token": TEXT}), workers=[kind])
    bench.settle()
    assert bench.tree() == {"a": "running"}
    said = [*(str(event) for event in bench.events), bench.node("a").reason]
    assert not [text for text in said if TEXT[:4] in text]


def test_a_config_without_a_secret_is_not_searched_when_a_worker_decides() -> None:
    """The hot path: nothing is kept that a decision's reason would be held against."""
    bench = Bench(child("a"), child("b", config={"host": "plc"}))
    bench.settle()
    assert [bench.node(name).hide for name in "ab"] == [None, None]


def test_a_worker_that_stops_while_its_code_raises_is_not_told_as_recovered() -> None:
    """The framework takes it down and calls none of its code; up again it has to show itself."""
    broken = [True]

    def next_action(self: Any, snap: Snapshot) -> Decision:
        if broken[0]:
            raise ValueError("no")
        return Quiet.next_action(self, snap)

    kind = worker_type("broken", next_action=next_action)
    bench = Bench(child("a", "broken"), workers=[kind])
    bench.settle()
    bench.redeclare(child("a", "broken", enabled=False))
    bench.settle(60)
    assert bench.tree() == {"a": "stopped"}
    assert bench.heard(WorkerRecovered) == []
    broken[0] = False
    bench.redeclare(child("a", "broken"))
    bench.settle()
    assert bench.tree() == {"a": "running"}
    [healed] = bench.heard(WorkerRecovered)
    assert healed.downtime_s > 60
