"""One communicator that is driven by hand: the real decisions and the real actions, a relay, and a
clock that is moved. The engine is not in here; it has its own tests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fsmv2.communicator import Communicator, CommunicatorConfig, spool
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import decode_content
from fsmv2.ipc.codec import decode, encode
from fsmv2.supervisor import Act, Action, ActionResult, Go, Secret, Snapshot, State
from fsmv2.supervisor.core.action import action_name, value_type
from fsmv2.supervisor.core.fsm import Desired, Identity, decide

STEP_S = 0.25


class Line:
    """One communicator, driven by hand: decide, act at once, move the clock."""

    def __init__(self, relay: Relay, folder: Path, context: Any) -> None:
        self.config = CommunicatorConfig(
            relay.url,
            auth_token=Secret(DEMO_TOKEN),
            outbox=str(folder / "out"),
            inbox=str(folder / "in"),
            lively_s=0.0,  # the clock here is moved by hand
        )
        self.folder = folder
        self.context = context
        self.worker = Communicator()
        self.state: type[State] = Communicator.initial
        self.passed_s = 0.0
        self.step_s = STEP_S
        self.trail = [self.state.state_name()]
        self.tries: list[tuple[float, str]] = []
        self.reasons: list[str] = []
        self._results: dict[type[Action], ActionResult] = {}
        self._ends: dict[type[Action], float] = {}
        self._successes: dict[type[Action], tuple[ActionResult, float]] = {}
        self._failures: dict[type[Action], int] = {}
        self._started_at = time.time()

    @property
    def wall_s(self) -> float:
        return self._started_at + self.passed_s

    def run(self, seconds: float) -> None:
        """Let that many seconds pass, looking at the worker four times in each."""
        until = self.passed_s + seconds
        while self.passed_s < until:
            self.look()
            self.passed_s += self.step_s

    def look(self) -> None:
        snap = Snapshot(
            identity=Identity("line", "root/line", "communicator", 1),
            state=self.state(),
            desired=Desired("running", self.config),
            results=self._results,
            result_ends=self._ends,
            successes=self._successes,
            failures=self._failures,
            monotonic=self.passed_s,
            wall=self.wall_s,
        )
        decision = decide(self.worker, snap)
        self.reasons.append(decision.reason)
        if isinstance(decision, Go):
            self.state = decision.state
            self.trail.append(self.state.state_name())
        elif isinstance(decision, Act):
            self.act(decision.action)

    def act(self, action: Action) -> None:
        """Run the action as a proc would: over the codec there and back."""
        kind = type(action)
        arrived = decode(encode(action), kind)
        value = decode(encode(arrived.execute(self.context)), value_type(kind))
        name = action_name(kind)
        self.tries.append((self.passed_s, name))
        self._ends[kind] = self.passed_s
        self._successes.pop(kind, None)
        self._failures.pop(kind, None)
        self._results[kind] = ActionResult(
            status="succeeded", action_type=name, attempt_id=len(self.tries), value=value
        )

    def kill(self, kind: type[Action], status: Any) -> None:
        """An attempt more of ``kind`` has just ended so, before it did anything."""
        last = self._results.get(kind)
        if last is not None and last.succeeded:
            self._successes[kind] = (last, self._ends[kind])
        self._results[kind] = ActionResult(
            status=status, action_type=action_name(kind), attempt_id=len(self.tries) + 1_000
        )
        self._ends[kind] = self.passed_s
        if status != "cancelled":
            self._failures[kind] = self._failures.get(kind, 0) + 1

    def post(self, payload: Any) -> None:
        spool.post(self.folder / "out", email="a@x", message_type="status", payload=payload)

    def received(self) -> list[Any]:
        return [
            decode_content(message.content)[1]
            for path in spool.inbox_files(self.folder / "in")
            for message in spool.read_messages(path)
        ]
