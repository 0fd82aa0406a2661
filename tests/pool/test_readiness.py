"""When a supervisor says that it is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.supervisor.telemetry.publisher import Publisher


def readiness(**procs: int) -> tuple[bool, str]:
    """Of a supervisor whose lanes should have one proc each, and have so many."""
    engine = SimpleNamespace(stopping=None, context=SimpleNamespace(infrastructure=None))
    publisher: Any = SimpleNamespace(_engine=engine)
    lanes = {name: {"size": 1, "procs": count} for name, count in procs.items()}
    return Publisher._readiness(publisher, {"lanes": lanes})


@pytest.mark.parametrize("name", ["actions", "observations", "uploads"])
def test_a_supervisor_is_not_ready_while_a_lane_has_no_proc(name: str) -> None:
    """What is offered there would only wait."""
    lanes = {"actions": 1, "observations": 1, "uploads": 1}
    assert readiness(**lanes)[0]
    assert readiness(**{**lanes, name: 0}) == (False, f"no procs yet for {name}")


def test_a_supervisor_stays_ready_while_the_proc_for_quarantine_is_started() -> None:
    """One action type dies again and again; nobody else has to wait for that."""
    assert readiness(actions=1, observations=1, quarantine=0)[0]
