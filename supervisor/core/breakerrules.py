"""Why a worker does not run, as far as breakers hold it back: rows of `explaining.RULES`.

Knows: the rules of breakers, their words.
Does not know: the other rules, and in which order they win.
Invariants: those of `explaining`.
"""

from __future__ import annotations

from fsmv2.supervisor.core.facts import Cause, Facts

# How the trouble of a machine begins to be told, and what helps.
_PAGES = {
    "memory": "memory-pressure",
    "swap": "memory-pressure",
    "pressure.memory": "memory-pressure",
    "disk": "disk-full",
    "inodes": "disk-full",
    "no proc": "procs-cannot-start",
    "pids": "procs-cannot-start",
    "pool.": "procs-cannot-start",
}


def infrastructure_open(facts: Facts) -> Cause | None:
    """The machine is in trouble."""
    trouble = facts.now.infrastructure_open
    if trouble is None or facts.now.stopping:
        return None
    return Cause(
        rule="infrastructure_open",
        text=f"the infrastructure breaker is open: {trouble}; no worker begins anything new",
        next="all go on when it closes"
        + (", or with fsmv2 breaker auto" if trouble.startswith("held ") else ""),
        waits_for=("infrastructure breaker",),
        runbook=next((page for words, page in _PAGES.items() if trouble.startswith(words)), ""),
    )


def half_open(facts: Facts) -> Cause | None:
    """The machine was, until just now."""
    if not facts.waits_for_lease or facts.now.stopping:
        return None
    return Cause(
        rule="infrastructure_half_open",
        text="the machine was in trouble, and only a few actions at a time may begin by now",
        next="its action begins when one of those ends, or when all may begin again",
        waits_for=("infrastructure breaker",),
    )


def has_failed(facts: Facts) -> Cause | None:
    """It is itself the failed child of its parent."""
    failed = facts.failed
    if failed is None or facts.now.stopping:
        return None
    if failed.escalated:
        well = "it runs"
        if failed.cause == "panic":
            well = "what it has raised has left the window"
        follows = f"nobody restarts it any more: a person has to help; it is well when {well}"
    elif failed.unless:
        follows = f"it is not restarted: {failed.unless}"
    else:
        follows = "its parent restarts it"
    tried = f"restarted {failed.attempts} of {failed.attempts_max} times"
    return Cause(
        rule="failed",
        text=f"it counts as failed ({failed.cause}: {failed.detail}), {tried}",
        next=follows,
        numbers={"attempts": failed.attempts, "attempts_max": failed.attempts_max},
        since_s=failed.since_s,
        next_in_s=None if failed.escalated or failed.unless else failed.retry_in_s,
        waits_for=("its own recovery",),
    )


def circuit_open(facts: Facts) -> Cause | None:
    """A child has failed."""
    open_for = facts.now.circuit_open
    if open_for is None or facts.now.stopping:
        return None
    who = facts.failed_child
    return Cause(
        rule="circuit_open",
        text=f"its circuit is open: {open_for}; it begins nothing new",
        next="it goes on when that child runs" + (f"; see fsmv2 explain {who}" if who else ""),
        next_in_s=facts.retry_in_s,
        waits_for=(who or "its failed child",),
    )
