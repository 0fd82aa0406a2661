"""Why a declared child is not there: from facts to an explanation.

Knows: the rules, in the order in which they win; their words, what comes next and when.
Does not know: nodes, who makes a child; `explain` reads the facts.
Invariants: those of `explaining`: there is always a cause, each with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from fsmv2.supervisor.core import runbooks
from fsmv2.supervisor.core.explaining import causes_of, listed
from fsmv2.supervisor.core.facts import Cause, Explanation, Missing

ABSENT = "absent"


def explain_absence(
    missing: Missing, path: str = "", base_url: str = runbooks.BASE_URL
) -> Explanation:
    """The explanation of a child that is not there; ``path`` is what was asked for, where that is
    further below."""
    why, also = causes_of(missing, RULES, base_url)
    return Explanation(
        path=path or missing.path,
        worker_type="" if path else missing.worker_type,
        runs=False,
        state=ABSENT,
        phase=ABSENT,
        desired_state="",
        reason=f"{missing.path} is not there, and so nothing below it" if path else why.text,
        since_s=why.since_s,
        restarts=max(0, missing.generation - 1),
        why=why,
        also=also,
    )


def _parent_stops(missing: Missing) -> Cause | None:
    if not missing.parent_stops:
        return None
    return Cause(
        rule="parent_stops",
        text=f"its parent {missing.parent} leaves: {missing.parent_stops}",
        next="it is made when its parent is there again",
        waits_for=(missing.parent,),
    )


def _refused(missing: Missing) -> Cause | None:
    if not missing.refused:
        return None
    return Cause(
        rule="refused",
        text=f"{missing.parent} declares it, but its children cannot be: {missing.refused}",
        next="they are looked at again when the parent declares others",
        waits_for=(missing.parent,),
    )


def _done(missing: Missing) -> Cause | None:
    if not missing.is_done:
        return None
    return Cause(
        rule="done",
        text=f"it has ended, and with restart: {missing.restart} it is not started again",
        next="it is made anew when its spec changes",
    )


def _given_up(missing: Missing) -> Cause | None:
    if not missing.given_up:
        return None
    return Cause(
        rule="given_up",
        text=f"it is given up: {missing.parent} has spent its {_budget(missing)}",
        numbers=_counted(missing),
        next="it is made anew when its spec changes"
        + ("" if missing.retry_in_s is None else ", or when the window has drained"),
        next_in_s=missing.retry_in_s,
    )


def _constructor_failed(missing: Missing) -> Cause | None:
    if not missing.constructor_failures:
        return None
    return Cause(
        rule="constructor_failed",
        text=f"its constructor has failed {missing.constructor_failures} times in a row: "
        f"{missing.error}",
        numbers={"failures": missing.constructor_failures},
        since_s=missing.since_s,
        next="it is called again",
        next_in_s=missing.retry_in_s,
        waits_for=("constructor",),
    )


def _restarted_along(missing: Missing) -> Cause | None:
    if not missing.along_with:
        return None
    left = f"; still up: {listed(missing.along)}" if missing.along else ""
    return Cause(
        rule="restarted_along",
        text=f"it is restarted along with {missing.along_with}{left}",
        next="all of them start, in start order, when all are down",
        next_in_s=missing.retry_in_s,
        waits_for=tuple(each.path for each in missing.along),
    )


def _restart_wait(missing: Missing) -> Cause | None:
    if not missing.retry_in_s or missing.constructor_failures or missing.given_up:
        return None
    return Cause(
        rule="restart_wait",
        text=f"it has ended and waits to be restarted: {missing.parent} has used "
        f"{missing.restarts} of its {_budget(missing)}",
        numbers=_counted(missing),
        next="it is made anew",
        next_in_s=missing.retry_in_s,
    )


def _budget(missing: Missing) -> str:
    return f"{missing.budget.restarts} restarts in {missing.budget.window_s:g} s"


def _counted(missing: Missing) -> dict[str, float]:
    budget = missing.budget
    return {
        "restarts": missing.restarts,
        "restarts_max": budget.restarts,
        "window_s": budget.window_s,
    }


def _parent_waits(missing: Missing) -> Cause | None:
    if missing.parent_waits is None:
        return None
    waits = missing.parent_waits
    return Cause(
        rule="parent_waits",
        text=f"its parent {missing.parent} makes no children now: {waits.text}",
        numbers=waits.numbers,
        next=f"{missing.parent}: {waits.next}",
        next_in_s=waits.next_in_s,
        waits_for=(missing.parent,),
        runbook=runbooks.BY_RULE.get(waits.rule, ""),
    )


def _to_be_made(missing: Missing) -> Cause | None:
    return Cause(
        rule="to_be_made",
        text=f"nothing stands against it: {missing.parent} makes it when it is looked at next",
        next="it is made",
        waits_for=(missing.parent,),
    )


# In the order in which they win; the last one applies where no other does.
RULES: tuple[Callable[[Missing], Cause | None], ...] = (
    _parent_stops,
    _refused,
    _done,
    _given_up,
    _constructor_failed,
    _restarted_along,
    _restart_wait,
    _parent_waits,
    _to_be_made,
)
