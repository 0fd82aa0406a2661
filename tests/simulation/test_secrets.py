"""A secret that an action gives back where nothing is declared: what the tree shows of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, cast

from fsmv2.supervisor.core.action import Action, ActionContext
from fsmv2.supervisor.core.events import ActionEnded
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.store.protocol import document
from fsmv2.supervisor.store.recorder import Recorder
from fsmv2.supervisor.telemetry.loglines import json_line, plain
from fsmv2.supervisor.telemetry.view import tree_pieces
from fsmv2.supervisor.testing import Simulation

if TYPE_CHECKING:
    from fsmv2.ipc.messages import Write
    from fsmv2.supervisor.pool.pool import Pool

TEXT = "correct horse battery"


class Look(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> Any: ...


class LogIn(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> dict: ...  # type: ignore[type-arg]


class Call(Action, frozen=True):
    token: Any

    def execute(self, ctx: ActionContext) -> int: ...


class Out(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(LoggedIn, "asked to run")


class LoggedIn(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        result = snap.result(LogIn)
        if result is None:
            return Act(LogIn(), f"sees {snap.status}")
        if snap.result(Call) is None:
            return Act(Call(result.value["token"]), f"has {result.value}")
        return Stay(f"in with {result.value}")


class Client(Worker):
    type_name: ClassVar[str] = "client"
    initial = stopping = Out

    def observe(self, desired: DesiredState) -> Action | None:
        return Look()


def test_a_secret_of_no_type_is_in_nothing_that_the_tree_shows() -> None:
    """Status, reasons, events, log lines, the API's documents, the store's; and it goes out again
    in a field of the next action."""
    sim = Simulation(
        [Client],
        [ChildSpec("c", "client")],
        answers={
            Look: {"session": [Secret(TEXT)]},
            LogIn: {"token": Secret(TEXT)},
            Call: lambda action: len(action.token.reveal()),
        },
    )
    sim.run(5.0)
    node = sim.node("root/c")
    assert node.results[Call].value == len(TEXT)
    assert node.reason == "in with {'token': Secret(…)}"

    pieces = tree_pieces(sim.engine, cast("Pool", sim.pool), sim.clock.now)
    tree = b"".join(pieces).decode()
    assert json.loads(tree)["children"][0]["status"] == {"session": ["Secret(…)"]}
    writes: list[Write] = []
    recorder = Recorder(writes.append, {})
    recorder.looked_at(sim.engine.nodes())
    recorder.record(sim.clock.now, sim.clock.wall, lambda: 0.0)
    stored = b"".join(write.document for write in writes).decode()
    assert "Secret(…)" in stored
    told = "\n".join(
        f"{event!r} {json_line({'event': event.name(), 'fields': plain(event)}).decode()}"
        for event in sim.events
    )

    assert TEXT not in "\n".join((tree, stored, told, sim.trace.tail(), repr(node.status)))
    assert document({"status": node.status})
    assert any(isinstance(event, ActionEnded) for event in sim.events)
