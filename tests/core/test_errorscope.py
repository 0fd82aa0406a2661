"""UX-002: every error says whom it concerns; scenario 129."""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.eventbase import Event
from fsmv2.supervisor.telemetry import logsentences

SCOPES = {"infrastructure", "worker", "config", "store", "action_type"}


def errors() -> list[type[Event]]:
    """The events that may be told as errors; the sentences import all there are."""
    assert logsentences
    return [kind for kind in Event.__subclasses__() if kind.level == "error"]


def test_every_error_event_says_its_scope_and_its_impact() -> None:
    without = []
    for kind in errors():
        fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
        if fields.get("error_scope") not in SCOPES or not fields.get("impact"):
            without.append(kind.__name__)
    assert without == []


def test_errors_of_the_machine_and_of_a_worker_differ_in_scope_and_impact() -> None:
    said = {
        kind.__name__: {f.name: f.default for f in msgspec.structs.fields(kind)}
        for kind in errors()
    }
    stuck, faulted = said["PoolStuck"], said["WorkerFaulted"]
    assert (stuck["error_scope"], stuck["impact"]) == ("infrastructure", "all_workers")
    assert (faulted["error_scope"], faulted["impact"]) == ("worker", "single_worker")
