"""Workers for the tests of breakers: each does what `MOOD` says of its name, or of one incarnation.

Knows: the worker contract. Does not know: breakers.
Invariants: a mood is read in `next_action` alone, each interval, so that a change shows at once.
"""

from __future__ import annotations

from typing import Any

from harness import Bench, Coming, Off, Quiet, SwitchOn, worker_type

from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import ChildSpec

MOOD: dict[str, str] = {}


class Good(State):
    phase = Phase.RUNNING


class Bad(State):
    phase = Phase.DEGRADED


def _next_action(self: Any, snap: Snapshot) -> Decision:
    who = snap.identity
    mood = MOOD.get(f"{who.name}#{who.generation}") or MOOD.get(who.name, "good")
    waited_s = snap.time_in_state_s
    if mood == "raise":
        raise ValueError("no such valve")
    if snap.desired.stop_asked:
        return Go(Off, "asked to stop") if snap.state.phase is not Phase.STOPPED else Stay("off")
    if mood == "act":
        return Act(SwitchOn(), "works")
    wanted: type[State] = {"good": Good, "bad": Bad, "coming": Coming}[mood]
    if type(snap.state) is wanted:
        return Stay(f"{mood} for {waited_s:.0f} s")
    return Go(wanted, mood)


def _derive(self: Any, spec: Any) -> Any:
    self.derived = getattr(self, "derived", 0) + 1
    return Quiet.derive_desired_state(self, spec)


FICKLE = worker_type(
    "fickle", next_action=_next_action, derive_desired_state=_derive, initial=Off, stopping=Off
)
SOON = worker_type("soon", FICKLE, unhealthy_after_s=2.0)


def bench_of(*children: ChildSpec, **options: Any) -> Bench:
    """A bench whose breakers restart; all are in a good mood."""
    MOOD.clear()
    workers = [FICKLE, SOON, *options.pop("workers", ())]
    return Bench(*children, workers=workers, **{"restart_failed": True, **options})
