"""Why a worker does not run: from facts to an explanation.

Theory of operation. `RULES` is a table in the order in which reasons win, the gate's before what
lies beyond it. Each rule looks at the facts and gives a `Cause`, with the numbers that made it so,
or None. The first that applies is why; the others are told too. Whoever finds another reason for a
worker to wait adds its facts to `facts.Facts`, a row to `RULES` and, if it is trouble, a page to
`runbooks.BY_RULE`. Where a worker that does not run is held back by nothing but itself, the page is
that of its type, if that has one of its own.

Knows: the rules, their words, what comes next and when.
Does not know: nodes, pools, clocks; `explain` reads the facts off them. Children that are not
there have their own table, in `absences`.
Invariants: every reason of `gate.gate` has its rule, and where the gate says no, the first cause is
one of the gate's; there is always a cause; each moment is seconds from now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from fsmv2.supervisor.core import runbooks
from fsmv2.supervisor.core.breakerrules import (
    circuit_open,
    half_open,
    has_failed,
    infrastructure_open,
)
from fsmv2.supervisor.core.counting import several
from fsmv2.supervisor.core.facts import (
    Cause,
    Explanation,
    Facts,
    Failing,
    Fault,
    Flight,
    Quarantined,
    Seen,
    Sibling,
)
from fsmv2.supervisor.core.phase import Phase


def explain(facts: Facts, base_url: str = runbooks.BASE_URL) -> Explanation:
    """The explanation of ``facts``; links to runbooks begin with ``base_url``."""
    why, also = causes_of(facts, RULES, base_url)
    return Explanation(
        path=facts.path,
        worker_type=facts.worker_type,
        runs=facts.phase is Phase.RUNNING,
        state=facts.state,
        phase=str(facts.phase),
        desired_state=facts.desired_state,
        reason=facts.reason,
        since_s=facts.since_s,
        restarts=facts.restarts,
        why=why,
        also=also,
    )


F = TypeVar("F")


def causes_of(
    facts: F, rules: Sequence[Callable[[F], Cause | None]], base_url: str
) -> tuple[Cause, tuple[Cause, ...]]:
    """The first cause of ``rules`` and the others. The last rule always applies, and says nothing
    where another does."""
    found = [cause for rule in rules[:-1] if (cause := rule(facts)) is not None]
    last = rules[-1](facts)
    linked = [_linked(cause, base_url) for cause in found or ([last] if last else [])]
    return linked[0], tuple(linked[1:])


def _linked(cause: Cause, base_url: str) -> Cause:
    page = cause.runbook or runbooks.BY_RULE.get(cause.rule, "")
    link = runbooks.based(page, base_url) if "/" in page else runbooks.url(page, base_url)
    return msgspec.structs.replace(cause, runbook=link)


def seconds(value: float) -> str:
    """``12.4 s``."""
    return f"{value:.1f} s"


def listed(siblings: Sequence[Sibling], total: int = 0) -> str:
    """``site/db (starting), site/bus (stopped) and 7 more``, where there are ``total``."""
    more = f" and {total - len(siblings)} more" if total > len(siblings) else ""
    return ", ".join(f"{each.path} ({each.state})" for each in siblings) + more


# --- the gate's rules -----------------------------------------------------------------------


def _action_in_flight(facts: Facts) -> Cause | None:
    if facts.now.in_flight is None:
        return None
    flight = facts.flight
    if flight is None:
        return Cause(
            rule="action_in_flight",
            text=f"{facts.now.in_flight} is in flight",
            next="its result is taken, and the worker decides",
            waits_for=(facts.now.in_flight,),
        )
    name = f"{flight.name} (#{flight.attempt_id})"
    if flight.running_s is None and facts.quarantined is not None:
        return _quarantined(flight, facts.quarantined)
    if flight.running_s is None:
        return Cause(
            rule="action_in_flight",
            text=f"{name} has waited for a proc for {seconds(flight.offered_s)}",
            numbers={"waited_s": flight.offered_s},
            since_s=flight.offered_s,
            next="it begins when a proc of its lane is free",
            waits_for=(flight.name,),
        )
    said = f", and says: {flight.progress}" if flight.progress else ""
    return Cause(
        rule="action_in_flight",
        text=f"{name} has run for {seconds(flight.running_s)} of at most "
        f"{seconds(flight.timeout_s)}{said}",
        numbers={"running_s": flight.running_s, "timeout_s": flight.timeout_s},
        since_s=flight.running_s,
        next="its result is taken, or it is killed at its deadline",
        next_in_s=max(0.0, flight.timeout_s - flight.running_s),
        waits_for=(flight.name,),
        runbook="" if facts.phase is Phase.RUNNING else facts.runbook,
    )


def _quarantined(flight: Flight, apart: Quarantined) -> Cause:
    return Cause(
        rule="quarantined",
        text=f"{flight.name} (#{flight.attempt_id}) is in quarantine: its type has died "
        f"{apart.deaths} times as {apart.verdict}, and runs one at a time after growing waits",
        numbers={"deaths": apart.deaths, "retry_in_s": apart.retry_in_s},
        since_s=apart.since_s,
        next="an attempt of the type may begin; a success ends the quarantine, and so does "
        f"fsmv2 release {flight.name}",
        next_in_s=apart.retry_in_s,
        waits_for=(flight.name,),
    )


def _children_to_stop(facts: Facts) -> Cause | None:
    if not (facts.now.stopping and facts.now.children_left):
        return None
    left = facts.children_to_stop
    return Cause(
        rule="children_to_stop",
        text=f"it stops ({facts.stop}) and waits for "
        f"{several(facts.now.children_left, 'child', 'children')} to stop: "
        f"{listed(left, facts.now.children_left)}",
        numbers={"children": facts.now.children_left},
        next="it stops when they have; each is dropped by force when its shutdown_timeout_s is up",
        waits_for=tuple(each.path for each in left),
    )


def _stopping(facts: Facts) -> Cause | None:
    if not facts.now.stopping:
        return None
    if facts.phase is Phase.STOPPED:
        return Cause(
            rule="told_to_stop",
            text=f"it is stopped because it should be: {facts.stop}",
            next="it starts when that changes",
        )
    return Cause(
        rule="stopping",
        text=f"it walks to stopped: {facts.stop}",
        next="it is dropped by force" if facts.forced_in_s is not None else "it reaches stopped",
        next_in_s=facts.forced_in_s,
    )


def _worker_code_failed(facts: Facts) -> Cause | None:
    fault = facts.fault
    if fault is None:
        if facts.now.backoff_s is None:
            return None
        fault = Fault(
            step="its code", text="", slow=False, failures=1, since_s=0.0,
            retry_in_s=facts.now.backoff_s,
        )  # fmt: skip
    how = "has taken too long" if fault.slow else "has failed"
    told = "" if fault.slow or not fault.text else f": {fault.text}"
    is_template = fault.text.startswith("TemplateError")
    return Cause(
        rule="worker_code_failed",
        text=f"{fault.step} {how}, {several(fault.failures, 'time')} in a row{told}",
        numbers={"failures": fault.failures},
        since_s=fault.since_s,
        next="its code is called again",
        next_in_s=fault.retry_in_s,
        waits_for=(fault.step,),
        runbook="template-errors" if is_template else "",
    )


def _never_derived(facts: Facts) -> Cause | None:
    if not facts.now.never_derived or facts.now.stopping:
        return None
    return Cause(
        rule="never_derived",
        text="its desired state has not been derived yet",
        next="it is derived in the next tick in which nothing above stands against it",
        waits_for=("derive_desired_state",),
    )


def _held_by(facts: Facts) -> Cause | None:
    if not facts.now.held_by or facts.now.stopping:
        return None
    who = listed(facts.holders, len(facts.now.held_by)) if facts.holders else ""
    who = who or ", ".join(facts.now.held_by)
    return Cause(
        rule="held_by",
        text=f"it depends on siblings that do not run: {who}",
        numbers={"siblings": len(facts.now.held_by)},
        next="it starts when they run"
        + (f"; go on with fsmv2 explain {facts.holders[0].path}" if facts.holders else ""),
        waits_for=tuple(each.path for each in facts.holders) or facts.now.held_by,
    )


def _observation(facts: Facts) -> Cause | None:
    now, seen = facts.now, facts.seen
    if now.stopping or now.never_derived:
        return None
    if now.never_observed:
        due = "" if seen is None else f", due for {seconds(seen.age_s)}{_tries(seen)}"
        return _of_observing(facts, "never_observed", f"it has not been observed yet{due}")
    if now.stale_s is None:
        return None
    limit = "" if seen is None else f", limit {seconds(seen.stale_s)}{_tries(seen)}"
    how = "degraded" if now.degraded else "paused"
    return _of_observing(
        facts, "observation_stale", f"{how}: observation {seconds(now.stale_s)} old{limit}"
    )


def _awaiting_observation(facts: Facts) -> Cause | None:
    now = facts.now
    if not now.awaiting_observation or now.stopping or now.never_observed:
        return None
    return _of_observing(
        facts, "awaiting_observation", "it waits for an observation newer than its last action"
    )


def _of_observing(facts: Facts, rule: str, text: str) -> Cause:
    seen = facts.seen
    if seen is None:
        return Cause(rule=rule, text=text, next="it is observed", waits_for=("observation",))
    after = "the observation in flight ends" if seen.next_in_s is None else "it is observed again"
    return Cause(
        rule=rule,
        text=text,
        numbers={
            "age_s": seen.age_s,
            "stale_s": seen.stale_s,
            "dead_s": seen.dead_s,
            "failures": seen.failures,
            "probe_restarts": seen.probe_restarts,
        },
        next=after,
        next_in_s=seen.next_in_s,
        waits_for=("observation",),
    )


def _tries(seen: Seen) -> str:
    failed = f", {seen.failures} failed in a row" if seen.failures else ""
    restarted = f", restarted {seen.probe_restarts} times" if seen.probe_restarts else ""
    return f"{failed}{restarted}"


# --- beyond the gate ------------------------------------------------------------------------


def _action_failed(facts: Facts) -> Cause | None:
    """The type that waits the longest, or is given up, counts."""
    if not facts.failing:
        return None
    worst = max(facts.failing, key=lambda each: (_is_given_up(each), each.retry_in_s))
    told = f": {worst.error}" if worst.error else ""
    if _is_given_up(worst):
        return Cause(
            rule="action_given_up",
            text=f"{worst.name} is given up after {worst.failures} failures in a row, limit "
            f"{worst.attempts}{told}",
            numbers={"failures": worst.failures, "attempts": worst.attempts or 0},
            next="it is offered again when the worker's state or spec changes",
            waits_for=(worst.name,),
        )
    if worst.retry_in_s <= 0:
        return None
    return Cause(
        rule="action_retry",
        text=f"{worst.name} has failed {several(worst.failures, 'time')} in a row{told}",
        numbers={"failures": worst.failures, "retry_in_s": worst.retry_in_s},
        next="it may be offered again",
        next_in_s=worst.retry_in_s,
        waits_for=(worst.name,),
    )


def _is_given_up(failing: Failing) -> bool:
    return failing.attempts is not None and failing.failures >= failing.attempts


def _outside_action(facts: Facts) -> Cause | None:
    if not facts.outside:
        return None
    return Cause(
        rule="outside_action",
        text=f"{facts.outside}, asked for from outside the tree, is at work for it",
        next="its own actions go on when that has ended",
        waits_for=(facts.outside,),
    )


def _children_refused(facts: Facts) -> Cause | None:
    if not facts.refused_children:
        return None
    return Cause(
        rule="children_refused",
        text=f"the children it declares cannot be, and those before are kept: "
        f"{facts.refused_children}",
        next="they are looked at again when it declares others",
    )


def _own_decision(facts: Facts) -> Cause | None:
    """Nothing of ours holds it: what it does is what its state machine says."""
    if facts.phase is Phase.RUNNING:
        return Cause(
            rule="runs",
            text=f"it runs, in state {facts.state}: {facts.reason}",
            next="its state machine is asked again",
            next_in_s=facts.next_look_s,
        )
    down, count = facts.children_down, facts.children_down_count
    below = f"; of its children, {count} do not run: {listed(down, count)}" if down else ""
    return Cause(
        rule="own_decision",
        text=f"nothing holds it back; its state machine stays in {facts.state}: {facts.reason}"
        f"{below}",
        numbers={"children_down": count} if down else {},
        since_s=facts.since_s,
        next="its state machine is asked again",
        next_in_s=facts.next_look_s,
        waits_for=tuple(each.path for each in down) or ("its own next_action",),
        runbook=facts.runbook,
    )


# In the order in which they win: the gate's, as `gate.gate` asks for them, then the others. The
# last one applies where no other does.
RULES: tuple[Callable[[Facts], Cause | None], ...] = (
    _action_in_flight,
    _children_to_stop,
    _stopping,
    _worker_code_failed,
    infrastructure_open,
    _never_derived,
    _held_by,
    _observation,
    _awaiting_observation,
    circuit_open,
    _action_failed,
    half_open,
    has_failed,
    _outside_action,
    _children_refused,
    _own_decision,
)
