"""A deterministic bench for the engine: a pool the test answers for, a clock it moves.

Knows: the engine's public calls, the pool port.
Does not know: processes, wall time.
Invariants: nothing happens by itself: an attempt ends when the test (or an answer the test has
set for its type) ends it; ticks run at the moments the engine asks for, and at no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fsmv2.supervisor.core.action import (
    Action,
    ActionContext,
    ActionError,
    ActionResult,
    DeathCertificate,
    Retry,
    Status,
    action_name,
)
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.rootworker import RootWorker
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import Worker, WorkerFactory
from fsmv2.supervisor.tree.engine import SPACING_S, Engine
from fsmv2.supervisor.tree.node import Node

E = TypeVar("E", bound=Event)

START = 1000.0  # monotonic
WALL = 1_700_000_000.0  # epoch
INTERVAL_S = 0.125  # a binary fraction, so that moments add up exactly
TICKS_MAX = 20_000


class Attempt:
    """One submitted action, and how it ended if it has."""

    def __init__(
        self,
        attempt_id: int,
        action: Action,
        key: str,
        lane: str,
        urgent: bool,
        at: float,
        timeout_s: float | None,
    ) -> None:
        self.id = attempt_id
        self.action = action
        self.key = key
        self.lane = lane
        self.urgent = urgent
        self.at = at
        self.timeout_s = timeout_s
        self.proc = self.progress = None  # no proc is ever seen to run it
        self.cancelled: str | None = None
        self.told_of_stop = 0
        self.result: ActionResult | None = None

    def __repr__(self) -> str:
        state = self.result.status if self.result is not None else "open"
        return f"<{self.id} {action_name(type(self.action))} {self.key} {state}>"


class FakePool:
    """The pool port. Every attempt stays open until it is completed.

    ``answers`` maps an action type to a function from the action to its value (an exception
    instance means failed); such attempts are completed before the next tick. A cancelled
    attempt gets its result at once, unless ``deaf`` (a proc that does not die).
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.attempts: list[Attempt] = []
        self.open: dict[int, Attempt] = {}
        self.answers: dict[type[Action], Callable[[Any], Any]] = {}
        self.deaf = False
        self.overlaps: list[Attempt] = []

    def submit(
        self,
        action: Action,
        *,
        key: str = "",
        lane: str = "actions",
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> int:
        number, now = len(self.attempts) + 1, self._bench.now
        attempt = Attempt(number, action, key, lane, urgent, now, timeout_s)
        if any(other.key == key and other.lane == lane for other in self.open.values()):
            self.overlaps.append(attempt)
        self.attempts.append(attempt)
        self.open[attempt.id] = attempt
        return attempt.id

    def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
        attempt = self.open.get(attempt_id)
        if attempt is None:
            return False
        attempt.cancelled = cause
        if not self.deaf:
            self.complete(attempt, status="cancelled")
        return True

    def tell_of_stop(self, attempt_id: int) -> None:
        if (attempt := self.open.get(attempt_id)) is not None:
            attempt.told_of_stop += 1

    def in_flight(self, attempt_id: int) -> Attempt | None:
        return self.open.get(attempt_id)

    def complete(
        self, attempt: Attempt, value: Any = None, *, status: Status = "succeeded"
    ) -> None:
        """Give ``attempt`` its one result; it is in the engine's inbox afterwards."""
        del self.open[attempt.id]
        error = None
        if status in ("failed", "refused"):
            error = value if isinstance(value, ActionError) else ActionError("Error", str(value))
            value = None
        attempt.result = ActionResult(
            status=status,
            action_type=action_name(type(attempt.action)),
            attempt_id=attempt.id,
            value=value,
            error=error,
            certificate=DeathCertificate(verdict=status)
            if status in ("timed_out", "crashed")
            else None,
            ended_at=WALL + self._bench.now - START,
        )
        self._bench.engine.deliver(attempt.id, attempt.result)

    def refuse(self, attempt: Attempt, kind: str) -> None:
        """What a pool says that cannot take it."""
        self.complete(attempt, ActionError(kind, "full"), status="refused")

    def answer_open(self) -> None:
        """Complete what the test has set an answer for."""
        for attempt in list(self.open.values()):
            answer = self.answers.get(type(attempt.action))
            if answer is None:
                continue
            value = answer(attempt.action)
            if isinstance(value, Exception):
                self.complete(attempt, ActionError(type(value).__name__, str(value)),
                              status="failed")  # fmt: skip
            else:
                self.complete(attempt, value)


class Bench:
    """An engine with a fake pool, a manual clock and a list of events. Its children's breakers only
    tell, unless ``restart_failed``."""

    def __init__(
        self,
        *children: ChildSpec,
        workers: Sequence[type[Worker]] = (),
        variables: VariableBundle | None = None,
        location: Location | None = None,
        full: bool = False,
        **options: Any,
    ) -> None:
        self.now = START
        self._ticked = float("-inf")
        self.full = full
        self.events: list[Event] = []
        self.moments: list[float] = []
        self.pool = FakePool(self)
        self.factory = WorkerFactory([Quiet, Parent, Pump, *workers])
        self.engine = Engine(
            name="root",
            children=children,
            factory=self.factory,
            pool=self.pool,
            emit=self._hear,
            now=self.now,
            wall=WALL,
            variables=variables,
            location=location,
            interval_s=INTERVAL_S,
            **{"seed": 7, "restart_failed": False, **options},
        )

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.moments.append(self.now)

    # --- time -------------------------------------------------------------------------------

    def tick(self, *, full: bool | None = None) -> None:
        """One tick at the present moment (a little later if there was one at it already), after
        the set answers have been given."""
        self.pool.answer_open()
        if self.now <= self._ticked:
            self.now = self._ticked + SPACING_S
        self._ticked = self.now
        wall = WALL + self.now - START
        self.engine.tick(self.now, wall, full=self.full if full is None else full)

    def run(self, seconds: float = 0.0, *, until: Callable[[], bool] | None = None) -> None:
        """Tick whenever the engine asks for it, until ``seconds`` have passed (then the clock
        stands there) or ``until`` holds (then it stands at that tick)."""
        end = self.now + seconds
        for _ in range(TICKS_MAX):
            if until is not None and until():
                return
            self.pool.answer_open()
            moment = self.engine.next_moment()
            if moment is None or moment > end:
                assert until is None, f"did not happen within {seconds} s: {self.engine.root}"
                self.now = end
                return
            self.now = max(self.now, moment)
            self.tick()
        raise AssertionError(f"over {TICKS_MAX} ticks in {seconds} s: something spins")

    def settle(self, seconds: float = 5.0) -> None:
        """Long enough for everybody to get where they are going."""
        self.run(seconds)

    # --- the tree ---------------------------------------------------------------------------

    def find(self, path: str) -> Node | None:
        """The node at ``path`` (below the root, without its name), if there is one."""
        node: Node | None = self.engine.root
        for name in path.split("/") if path else ():
            node = node.children.get(name) if node is not None else None
        return node

    def node(self, path: str) -> Node:
        node = self.find(path)
        assert node is not None, f"no node {path} in {self.tree()}"
        return node

    def tree(self) -> dict[str, str]:
        """Each path below the root and its phase."""
        return {
            node.path.removeprefix("root/"): str(node.phase)
            for node in self.engine.nodes()
            if node.parent is not None
        }

    def redeclare(self, *children: ChildSpec) -> None:
        """What a reload does: the root declares other children from the next tick on."""
        root = self.engine.root
        root.worker = RootWorker(children)
        root.derive_needed = True
        root.mark_dirty()

    # --- what happened ----------------------------------------------------------------------

    def heard(self, kind: type[E], path: str | None = None) -> list[E]:
        """The events of one type so far, in order; of one node if ``path`` is given."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and (path is None or getattr(event, "path", None) == f"root/{path}")
        ]

    def order_of(self, kind: type[Event], **fields: Any) -> list[str]:
        """The paths of such events, in order."""
        return [
            event.path.removeprefix("root/")  # type: ignore[attr-defined]
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def attempts(self, kind: type[Action], path: str | None = None) -> list[Attempt]:
        """All attempts at an action type so far."""
        return [
            attempt
            for attempt in self.pool.attempts
            if isinstance(attempt.action, kind)
            and (path is None or attempt.key.rstrip("?") == f"root/{path}")
        ]

    def open_attempt(self, kind: type[Action], path: str | None = None) -> Attempt:
        """The one attempt at an action type that has no result yet."""
        found = [one for one in self.attempts(kind, path) if one.id in self.pool.open]
        assert len(found) == 1, f"want one open {kind.__name__}, got {found}"
        return found[0]


# --- workers --------------------------------------------------------------------------------


class Off(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Coming, "asked to run")


class Coming(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Decision:
        return Go(On, "nothing to prepare")


class On(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Stay("on")


class Going(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Decision:
        return Go(Off, "nothing to close")


class Quiet(Worker):
    """Comes up and goes down in two steps each; touches nothing."""

    type_name = "quiet"
    initial = Off
    stopping = Going

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config = spec.config if isinstance(spec.config, dict) else {}
        return DesiredState(
            state=config.get("state", "running"),
            config=config,
            children=config.get("children", ()),
        )


class Parent(Quiet):
    """The same, under a name of its own: its config's ``children`` are its children."""

    type_name = "parent"


class Look(Action, frozen=True):
    """Observes a pump; its value is "on" or "off"."""

    timeout_s = 2.0
    host: str = ""

    def execute(self, ctx: ActionContext) -> str: ...


class SwitchOn(Action, frozen=True):
    timeout_s = 20.0
    retry = Retry(base_s=1.0, factor=2.0, max_s=4.0, jitter=0.0)

    def execute(self, ctx: ActionContext) -> str: ...


class SwitchOff(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> str: ...


class PumpOff(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(PumpStarting, "asked to run")


class PumpStarting(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Decision:
        if snap.status == "on":
            return Go(PumpOn, "seen on")
        return Act(SwitchOn(), f"seen {snap.status}")


class PumpOn(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Stay("on") if snap.status == "on" else Go(PumpStarting, f"seen {snap.status}")


class PumpStopping(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Decision:
        done = snap.result(SwitchOff)
        if done is not None and done.succeeded:
            return Go(PumpOff, "switched off")
        return Act(SwitchOff(), "asked to stop")


class Pump(Worker):
    """Observed each second; one action to switch on, one to switch off."""

    type_name = "pump"
    initial = PumpOff
    stopping = PumpStopping

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        return DesiredState(state="running", config=spec.config)

    def observe(self, desired: DesiredState) -> Action | None:
        return Look()


class Plant:
    """The world behind pumps: what is switched on is seen on."""

    def __init__(self, bench: Bench) -> None:
        self.on = False
        bench.pool.answers |= {
            Look: lambda _action: "on" if self.on else "off",
            SwitchOn: lambda _action: self._switch(True),
            SwitchOff: lambda _action: self._switch(False),
        }

    def _switch(self, on: bool) -> str:
        self.on = on
        return "done"


def worker_type(name: str, base: type[Worker] = Quiet, **methods: Any) -> type[Worker]:
    """A worker type of its own that differs from ``base`` in some methods or settings."""
    return type(name.title().replace("-", ""), (base,), {"type_name": name, **methods})


def child(name: str, kind: str = "quiet", *needs: str, **fields: Any) -> ChildSpec:
    """A child spec; ``config`` and ``variables`` go into its user spec."""
    user_spec = UserSpec(fields.pop("config", {}), fields.pop("variables", VariableBundle()))
    return ChildSpec(name, kind, user_spec, depends_on=needs, **fields)
