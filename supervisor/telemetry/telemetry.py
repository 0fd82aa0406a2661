"""The one sink of events: log, metrics, API, counts for the summary.

Knows: everybody who wants to hear of an event.
Does not know: where events come from.
Invariants: events are collected during a tick and told after it; a listener that raises is not
asked again and never harms the tree; one event is one log line, and what is evidence of deaths
follows those of its tick.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from fsmv2.supervisor.core import events, runbooks, workevents
from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.core.events import Event, level_of
from fsmv2.supervisor.telemetry.evidence import read_dump
from fsmv2.supervisor.telemetry.loglines import cut_line
from fsmv2.supervisor.telemetry.logs import LogSink, fields_of
from fsmv2.supervisor.telemetry.metrics import Metrics

RECENT_MAX = 50
EVENT_BODY_BYTES_MAX = 32 * 1024
_LOUD = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Death(msgspec.Struct, frozen=True):
    """One attempt that did not end by itself, for the summary."""

    path: str
    action_type: str
    status: str
    certificate: DeathCertificate | None


@lru_cache(maxsize=256)
def _page_of(kind: type[Event]) -> str:
    return runbooks.BY_EVENT.get(kind.name(), "")


class Telemetry:
    """Call it with an event; call `flush` after each tick."""

    def __init__(
        self,
        metrics: Metrics,
        listeners: tuple[Callable[[Event], None], ...],
        base_url: str = runbooks.BASE_URL,
    ) -> None:
        self._base_url = base_url
        self._pending: list[Event] = []
        self._log = LogSink()
        self._metrics = metrics
        self._listeners = list(listeners)
        self.publish: Callable[[str, bytes], bool] | None = None
        self.sequence = 0
        self.statuses: Counter[str] = Counter()
        self.deaths: Counter[tuple[str, str, str, str]] = Counter()
        self.restarts = 0
        self.proc_deaths = 0
        self.forced_removals = 0
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT_MAX)

    def __call__(self, event: Event) -> None:
        """Take an event; it is told at the next `flush`."""
        self._pending.append(event)

    def flush(self) -> None:
        """Tell everything collected, in order."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        batch = [(event, self._more_of(event)) for event in pending]
        self._log.emit_all(batch)
        for event, more in batch:
            self._count(event)
            self._metrics.observe(event)
            self._publish(event, more)
            for listener in list(self._listeners):
                try:
                    listener(event)
                except Exception:
                    self._listeners.remove(listener)

    def _count(self, event: Event) -> None:
        match event:
            case events.ActionEnded() | workevents.OutsideActionEnded(attempt_id=int()):
                self.statuses[event.status] += 1
                if event.certificate is not None:
                    key = (event.path, event.action_type, event.status, event.verdict)
                    self.deaths[key] += 1
                self.recent.append(
                    {
                        "path": event.path,
                        "action_type": event.action_type,
                        "attempt_id": event.attempt_id,
                        "status": event.status,
                        "verdict": event.verdict,
                        "ran_s": round(event.ran_s, 4),
                        "ended_at": time.time(),
                        "error": event.error,
                    }
                )
            case events.ActionRefused():
                self.statuses["refused"] += 1
            case events.WorkerAdded(generation=generation, resumed=False) if generation > 1:
                self.restarts += 1
            case events.WorkerRemoved(forced=True):
                self.forced_removals += 1
            case events.ProcEnded(expected=False):
                self.proc_deaths += 1

    def _more_of(self, event: Event) -> dict[str, str]:
        """Where to read on, for an event that is trouble."""
        if _LOUD[level_of(event)] < _LOUD["warning"]:
            return {}
        page = _page_of(type(event))
        return {"runbook": runbooks.url(page, self._base_url)} if page else {}

    def _publish(self, event: Event, more: dict[str, str]) -> None:
        self.sequence += 1
        level = level_of(event)
        if self.publish is None or (_LOUD[level] < 1 and not isinstance(event, events.ActionEnded)):
            return
        fields = fields_of(event)
        certificate = getattr(event, "certificate", None)
        if certificate is not None:
            # What is too long is cut at its end: the guilty thread comes first.
            fields["log_tail"] = certificate.log_tail
            fields["stack"] = read_dump(certificate.stack).text if certificate.stack else None
        body = cut_line(
            {
                "seq": self.sequence,
                "ts": time.time(),
                "level": level,
                "event": event.name(),
                **fields,
                **more,
            },
            EVENT_BODY_BYTES_MAX,
        )
        self.publish("event", body.rstrip())
