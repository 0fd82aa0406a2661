"""From two configs to what a reload would do: the plan as a document, and as text.

Knows: which keys a running supervisor takes over, how changes read, what must not be shown.
Does not know: files, processes, nodes that run.
Invariants: I12, whatever cannot be taken over is a fault, and then there is no plan; a value that
may be a credential is in no document: not under a key that looks like one's, not where the
worker's own config type has a Secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fsmv2.ipc.codec import to_builtins
from fsmv2.ipc.redact import redact
from fsmv2.supervisor.config.configfault import Fault, Places, is_secret, shown, without_login
from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core.plan import (
    KINDS,
    Change,
    DeclaredNode,
    Difference,
    differences,
    plan,
)

# Everything else shapes what was made at the start: the pool, the ops process, folders.
TAKEN_OVER = frozenset({"workers", "plugins", "location", "location_gaps", "global"}) | {
    "strategy",
    "restart_budget",
    "strict_circuit",
    "tick_interval_s",
    "log.level",
    "reload.watch",
}
CHANGES_MAX = 1_000
WHY_MAX = 20
# Of two long texts: what both have, before the first that is not the same, and from there on.
ALIKE_CHARS = 20
APART_CHARS = 40
_MARKS = {"added": "+", "updated": "~", "replaced": "!", "removed": "-", "untouched": " "}


class PlannedChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of one worker; ``why`` are the values that change."""

    path: str
    change: str
    worker_type: str
    why: tuple[str, ...] = ()


class PlanDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole plan. ``settings`` are changes outside ``workers``; ``left_out`` counts changes that
    are not listed."""

    counts: dict[str, int]
    settings: tuple[str, ...]
    changes: tuple[PlannedChange, ...]
    left_out: int = 0


def restart_faults(before: Settings, after: Settings, places: Places) -> Iterator[Fault]:
    """Each key that differs and is not taken over while the supervisor runs."""
    for difference in _setting_differences(before, after):
        if not _is_taken_over(difference.place):
            what = _words(difference).removeprefix(f"{difference.place}: ")
            message = f"cannot be reloaded ({what}): needs a restart"
            yield places.fault(difference.place, message)
    gone = [name for name in before.plugins if name not in after.plugins]
    if gone:
        text = f"cannot be reloaded ({', '.join(gone)} left out): needs a restart"
        yield places.fault("plugins", text)


def plan_document(
    before: tuple[Settings, Sequence[DeclaredNode]] | None,
    after: tuple[Settings, Sequence[DeclaredNode]],
) -> PlanDocument:
    """What turns the one config, as declared, into the other; None: nothing runs yet."""
    made = plan(() if before is None else before[1], after[1])
    found: list[Difference] = []
    if before is not None:
        found = [
            difference
            for difference in _setting_differences(before[0], after[0])
            if not difference.place.startswith("workers")
        ]
    return PlanDocument(
        counts=made.counts(),
        settings=tuple(_words(difference) for difference in found),
        changes=tuple(_planned(change) for change in made.changes),
    )


def shortened(document: PlanDocument) -> PlanDocument:
    """At most `CHANGES_MAX` changes, and none of the untouched."""
    kept = [change for change in document.changes if change.change != "untouched"][:CHANGES_MAX]
    left_out = sum(document.counts.values()) - document.counts["untouched"] - len(kept)
    return msgspec.structs.replace(document, changes=tuple(kept), left_out=left_out)


def only_counts(document: PlanDocument) -> PlanDocument:
    """Without any change or setting."""
    left_out = document.left_out + len(document.changes)
    return msgspec.structs.replace(document, settings=(), changes=(), left_out=left_out)


def plan_text(document: PlanDocument) -> str:
    """One line per worker and value that changes, and a summary."""
    lines = [f"* {text}" for text in document.settings]
    for change in document.changes:
        lines.append(f"{_MARKS[change.change]} {change.path} ({change.worker_type})")
        lines[-1] += "" if change.change == "untouched" else f" {change.change}"
        lines += [f"    {why}" for why in change.why]
    if document.left_out:
        lines.append(f"  and {document.left_out} more")
    return "\n".join([*lines, summary(document)])


def summary(document: PlanDocument) -> str:
    """The counts in one line."""
    return ", ".join(f"{document.counts[kind]} {kind}" for kind in KINDS)


def _planned(change: Change) -> PlannedChange:
    why = [_words(one, change.hidden) for one in change.differences[:WHY_MAX]]
    if len(change.differences) > WHY_MAX:
        why.append(f"and {len(change.differences) - WHY_MAX} more")
    return PlannedChange(change.path, change.kind, change.worker_type, tuple(why))


def _words(difference: Difference, hidden: tuple[str, ...] = ()) -> str:
    place = difference.place
    before, after = difference.before, difference.after
    if is_secret(place) and before is not msgspec.UNSET and after is not msgspec.UNSET:
        return f"{place}: changed"
    # Before anything is cut short: half a secret is found by nobody.
    texts = [_without_secrets(value, hidden) for value in (before, after)]
    words = [_value(value, place) for value in texts]
    if words[0] == words[1]:
        words = _where_they_part(*texts)
    told = "changed" if words[0] == words[1] else f"{words[0]} -> {words[1]}"
    return redact(f"{place}: {told}", hidden)


def _without_secrets(value: Any, hidden: tuple[str, ...]) -> Any:
    return redact(without_login(value), hidden) if isinstance(value, str) else value


def _where_they_part(before: Any, after: Any) -> list[str]:
    """Two long texts from shortly before the first character that is not the same."""
    if not (isinstance(before, str) and isinstance(after, str)):
        return ["", ""]
    pairs = enumerate(zip(before, after, strict=False))
    parts_at = (at for at, (one, other) in pairs if one != other)
    alike = next(parts_at, min(len(before), len(after)))
    start = max(0, alike - ALIKE_CHARS)
    cuts = [text[start : alike + APART_CHARS] for text in (before, after)]
    return [repr(f"{'…' if start else ''}{cut}") for cut in cuts]


def _value(value: Any, place: str) -> str:
    if value is msgspec.UNSET:
        return "nothing"
    if isinstance(value, str) and "\n" in value:
        return f"a text of {len(value)} characters"
    return shown(value, place)


def _setting_differences(before: Settings, after: Settings) -> list[Difference]:
    """With secrets as they are, so that another one is found; they are hidden where shown."""
    return differences(to_builtins(before, hide=False), to_builtins(after, hide=False))


def _is_taken_over(place: str) -> bool:
    return any(place == key or place.startswith((f"{key}.", f"{key}[")) for key in TAKEN_OVER)
