"""Action types that die the same way again and again are kept apart, and tried ever more rarely.

Knows: which verdicts count, how many equal ones in which time, the waits, who releases.
Does not know: procs, clocks, where the type's attempts wait meanwhile.
Invariants: only equal deaths in a row count, anything else in between starts the count anew; a
death that we or an outsider willed never counts; a quarantined type has at most one attempt at
work; it is released by a success or by an operator and by nothing else.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.backoff import delay_s

# Willed by somebody, so it says nothing about the action.
WILLED = frozenset({"cancelled", "killed_from_outside"})


class QuarantineRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``after`` equal deaths in a row within ``window_s`` seconds put a type into quarantine;
    then it waits ``base_s`` seconds, doubled with each further death, at most ``max_s``."""

    after: int = 5
    window_s: float = 300.0
    base_s: float = 1.0
    max_s: float = 60.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one action type. ``deaths`` are the moments of the newest equal
    deaths, at most as many as count; ``since`` is when the quarantine began, None while there is
    none; ``not_before`` is when the next attempt may begin. Moments in monotonic seconds."""

    verdict: str = ""
    deaths: tuple[float, ...] = ()
    since: float | None = None
    failures: int = 0
    not_before: float = 0.0

    @property
    def is_quarantined(self) -> bool:
        """Whether the type is kept apart."""
        return self.since is not None


CLEAN = Record()


def died(record: Record, verdict: str, now: float, spread: float, rules: QuarantineRules) -> Record:
    """The record after an attempt of the type died of ``verdict``; ``spread`` in [0, 1) spreads
    the wait."""
    if verdict in WILLED:
        return record
    if record.is_quarantined:
        failures = record.failures + 1
        wait = delay_s(failures, spread, base_s=rules.base_s, max_s=rules.max_s)
        return msgspec.structs.replace(
            record, verdict=verdict, failures=failures, not_before=now + wait
        )
    before = record.deaths if verdict == record.verdict else ()
    deaths = (*(moment for moment in before if now - moment < rules.window_s), now)
    if len(deaths) < rules.after:
        return Record(verdict=verdict, deaths=deaths)
    wait = delay_s(1, spread, base_s=rules.base_s, max_s=rules.max_s)
    return Record(verdict=verdict, deaths=deaths, since=now, failures=1, not_before=now + wait)


def survived(record: Record, succeeded: bool) -> Record:
    """The record after an attempt of the type ended by itself. A failure that is told in good
    order ends a row of deaths, but is no proof that a quarantined type works again."""
    if succeeded or not record.is_quarantined:
        return CLEAN
    return record
