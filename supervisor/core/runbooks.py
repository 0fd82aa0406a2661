"""Which runbook helps with what: the pages of ops/runbooks, and who links to them.

Knows: the pages' names and symptoms, the events and the rules of `explaining` they belong to.
Does not know: what is in a page, where pages are kept.
Invariants: every event of level error and every rule that is trouble has a page; tests follow each
link.
"""

from __future__ import annotations

# The supervisor serves its pages itself, so that a link leads to those of its own version.
BASE_URL = "/runbooks/"

# Page to symptom, in the order of the index.
PAGES = {
    "circuit-open": "A breaker stays open, or an escalation is required.",
    "procs-cannot-start": "No proc can be started; nothing new is begun.",
    "memory-pressure": "Memory is short, or actions end with `out_of_memory`.",
    "disk-full": "A disk has no space or no inodes left.",
    "actions-time-out": "Actions end with `timed_out` or `hung_in_c`, or stay in flight for long.",
    "quarantine": "An action type is in quarantine.",
    "observation-lost": "A worker is paused or degraded because it is not observed.",
    "readings-lost": "Readings of the machine are missing.",
    "worker-code-fails": "A worker's own code raises, returns nonsense or takes too long.",
    "template-errors": "A worker's config has a template that cannot be rendered.",
    "children-refused": "A worker declares children that cannot be.",
    "restart-budget-spent": "A child is restarted too often; it is given up, or its parent ends.",
    "reconcile-slow": "A tick takes over 100 ms.",
    "tick-propagation-slow": "A tick takes over 50 ms in a deep tree.",
    "reload-refused": "A reload is refused.",
    "store-degraded": "The store's file is damaged, or nothing is saved.",
    "log-lines-dropped": "Log lines are missing.",
    "relay-unreachable": "A communicator cannot reach its relay, gets errors or no answer from it.",
    "relay-refuses-token": "A communicator's login is refused and parked, or its token in use.",
}

# Name of an event to its page.
BY_EVENT = {
    "worker_faulted": "worker-code-fails",
    "worker_slow": "worker-code-fails",
    "panic_breaker_opened": "worker-code-fails",
    "circuit_opened": "circuit-open",
    "circuit_still_open": "circuit-open",
    "child_restarted": "circuit-open",
    "escalation_near": "circuit-open",
    "escalation_required": "circuit-open",
    "children_refused": "children-refused",
    "restart_budget_exceeded": "restart-budget-spent",
    "observation_failed": "observation-lost",
    "observation_stale": "observation-lost",
    "observation_lost": "observation-lost",
    "action_given_up": "actions-time-out",
    "action_type_quarantined": "quarantine",
    "infrastructure_opened": "circuit-open",
    "infrastructure_still_open": "circuit-open",
    "infrastructure_reopened": "circuit-open",
    "memory_relieved": "memory-pressure",
    "readings_lost": "readings-lost",
    "excess_forgotten": "readings-lost",
    "pool_stuck": "procs-cannot-start",
    "starts_throttled": "procs-cannot-start",
    "start_method_changed": "procs-cannot-start",
    "preload_excluded": "procs-cannot-start",
    "tick_slow": "reconcile-slow",
    "reload_refused": "reload-refused",
    "store_damaged": "store-degraded",
    "store_degraded": "store-degraded",
}

# Rule of `explaining` to its page; a rule that is no trouble has none.
BY_RULE = {
    "quarantined": "quarantine",
    "action_in_flight": "actions-time-out",
    "children_to_stop": "actions-time-out",
    "worker_code_failed": "worker-code-fails",
    "infrastructure_open": "circuit-open",
    "infrastructure_half_open": "circuit-open",
    "failed": "circuit-open",
    "circuit_open": "circuit-open",
    "never_observed": "observation-lost",
    "observation_stale": "observation-lost",
    "awaiting_observation": "observation-lost",
    "action_given_up": "actions-time-out",
    "action_retry": "actions-time-out",
    "children_refused": "children-refused",
    "refused": "children-refused",
    "given_up": "restart-budget-spent",
    "constructor_failed": "worker-code-fails",
    "restart_wait": "restart-budget-spent",
    "restarted_along": "restart-budget-spent",
}


def url(page: str, base: str = BASE_URL) -> str:
    """Where ``page`` can be read; empty for no page."""
    return f"{base}{page}.md" if page else ""


def based(link: str, base: str) -> str:
    """``link``, below ``base`` if it leads to one of these pages. A worker type's class says where
    its runbook is before anybody knows where the pages are served."""
    return base + link.removeprefix(BASE_URL) if link.startswith(BASE_URL) else link


def page_of(link: str) -> str:
    """The page that ``link``, made by `url`, leads to."""
    return link.rpartition("/")[2].removesuffix(".md")
