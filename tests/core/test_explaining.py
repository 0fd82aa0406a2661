"""Why a worker is as it is: each reason of the gate, each beyond it, each for a child that is not
there; with its numbers, and what comes next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core import runbooks
from fsmv2.supervisor.core.absences import explain_absence
from fsmv2.supervisor.core.explaining import explain
from fsmv2.supervisor.core.facts import (
    Cause,
    Facts,
    Failed,
    Failing,
    Fault,
    Flight,
    Missing,
    Quarantined,
    Seen,
    Sibling,
)
from fsmv2.supervisor.core.gate import Conditions, gate
from fsmv2.supervisor.core.phase import Phase
from fsmv2.supervisor.core.restarts import RestartBudget

FLIGHT = Flight(name="Push", attempt_id=7, offered_s=3.2, running_s=3.0, timeout_s=30.0)
FAULT = Fault(
    step="next_action", text="KeyError: 'x'", slow=False, failures=3, since_s=9.0, retry_in_s=1.5
)
SEEN = Seen(
    age_s=12.4, stale_s=10.0, dead_s=20.0, interval_s=1.0, failures=2, probe_restarts=0,
    next_in_s=0.5,
)  # fmt: skip


def failing(
    name: str, failures: int, attempts: int | None, retry_in_s: float, error: str
) -> Failing:
    """An action type that has failed."""
    return Failing(
        name=name, failures=failures, attempts=attempts, retry_in_s=retry_in_s, error=error
    )


def facts(now: dict[str, Any] | None = None, **fields: Any) -> Facts:
    """Facts of a worker on its way up."""
    defaults: dict[str, Any] = {
        "path": "site/pump", "worker_type": "pump", "state": "opening", "phase": Phase.STARTING,
        "desired_state": "running", "reason": "not open yet", "since_s": 4.0,
    }  # fmt: skip
    return Facts(**{**defaults, "now": Conditions(**(now or {})), **fields})


# The gate's table (tests/core/test_gate.py): what is so, the facts behind it, the rule that is
# named, what the text holds, when the next step is.
GATE: list[tuple[dict[str, Any], dict[str, Any], str, str, float | None]] = [
    (
        {"in_flight": "Push"},
        {"flight": FLIGHT},
        "action_in_flight",
        "Push (#7) has run for 3.0 s of at most 30.0 s",
        27.0,
    ),
    (
        {"in_flight": "Push"},
        {"flight": msgspec.structs.replace(FLIGHT, running_s=None)},
        "action_in_flight",
        "Push (#7) has waited for a proc for 3.2 s",
        None,
    ),
    (
        {"in_flight": "Push"},
        {"flight": msgspec.structs.replace(FLIGHT, progress="half way")},
        "action_in_flight",
        "and says: half way",
        27.0,
    ),
    (
        {"in_flight": "Push"},
        {
            "flight": msgspec.structs.replace(FLIGHT, running_s=None),
            "quarantined": Quarantined(
                verdict="crashed:SIGSEGV", deaths=5, since_s=40.0, retry_in_s=12.0
            ),
        },
        "quarantined",
        "died 5 times as crashed:SIGSEGV",
        12.0,
    ),
    ({"in_flight": "Push", "backoff_s": 1.0}, {"flight": FLIGHT}, "action_in_flight", "Push", 27.0),
    (
        {"in_flight": "Push", "infrastructure_open": "disk"},
        {"flight": FLIGHT},
        "action_in_flight",
        "Push",
        27.0,
    ),
    ({"in_flight": "Push", "stopping": True}, {"stop": "x"}, "action_in_flight", "Push", None),
    (
        {"stopping": True, "children_left": 3},
        {"stop": "it leaves", "children_to_stop": (Sibling("site/pump/a", "closing"),)},
        "children_to_stop",
        "3 children to stop: site/pump/a (closing) and 2 more",
        None,
    ),
    ({"backoff_s": 1.5}, {"fault": FAULT}, "worker_code_failed", "3 times in a row: KeyError", 1.5),
    ({"backoff_s": 1.5}, {}, "worker_code_failed", "its code has failed", 1.5),
    (
        {"backoff_s": 1.5},
        {"fault": msgspec.structs.replace(FAULT, slow=True, text="slow")},
        "worker_code_failed",
        "next_action has taken too long, 3 times in a row",
        1.5,
    ),
    (
        {"infrastructure_open": "cpu at 99%"},
        {},
        "infrastructure_open",
        "breaker is open: cpu at 99%",
        None,
    ),
    ({"never_derived": True}, {}, "never_derived", "has not been derived yet", None),
    (
        {"held_by": ("db", "bus")},
        {"holders": (Sibling("site/db", "starting"), Sibling("site/bus", "absent"))},
        "held_by",
        "site/db (starting), site/bus (absent)",
        None,
    ),
    ({"held_by": ("db",)}, {}, "held_by", "do not run: db", None),
    (
        {"never_observed": True},
        {"seen": SEEN},
        "never_observed",
        "due for 12.4 s, 2 failed in a row",
        0.5,
    ),
    (
        {"stale_s": 12.4},
        {"seen": SEEN},
        "observation_stale",
        "paused: observation 12.4 s old, limit 10.0 s, 2 failed in a row",
        0.5,
    ),
    (
        {"stale_s": 33.3, "degraded": True},
        {"seen": msgspec.structs.replace(SEEN, probe_restarts=4, next_in_s=None)},
        "observation_stale",
        "degraded: observation 33.3 s old, limit 10.0 s, 2 failed in a row, restarted 4 times",
        None,
    ),
    (
        {"awaiting_observation": True},
        {"seen": SEEN},
        "awaiting_observation",
        "newer than its last action",
        0.5,
    ),
    (
        {"circuit_open": "db has failed (fresh: it cannot be observed)"},
        {"failed_child": "site/db", "retry_in_s": 1.5},
        "circuit_open",
        "its circuit is open: db has failed (fresh: it cannot be observed)",
        1.5,
    ),
]


@pytest.mark.parametrize(("now", "fields", "rule", "text", "next_in_s"), GATE)
def test_each_reason_of_the_gate_is_explained(
    now: dict[str, Any], fields: dict[str, Any], rule: str, text: str, next_in_s: float | None
) -> None:
    """Rule, words with the live number, what comes next and when, and the page to read."""
    found = explain(facts(now, **fields))

    assert gate(Conditions(**now)).why
    assert found.why.rule == rule
    assert text in found.why.text
    assert found.why.next
    assert found.why.next_in_s == next_in_s
    page = runbooks.BY_RULE.get(rule, "")
    assert found.why.runbook == runbooks.url(page)


FAILED = Failed(
    cause="healthy",
    detail="degraded for 30 s and more",
    since_s=40.0,
    attempts=2,
    attempts_max=5,
    retry_in_s=3.5,
    unless="",
    escalated=False,
)

BEYOND: list[tuple[dict[str, Any], str, str]] = [
    ({"now": {"stopping": True}, "stop": "x", "forced_in_s": 4.0}, "stopping", "stopped: x"),
    (
        {"now": {"stopping": True}, "stop": "it is disabled", "phase": Phase.STOPPED},
        "told_to_stop",
        "it should be: it is disabled",
    ),
    (
        {"failing": (failing("Push", 2, 5, 4.0, "OSError: away"),)},
        "action_retry",
        "Push has failed 2 times in a row: OSError: away",
    ),
    (
        {"failing": (failing("Pull", 1, None, 9.0, ""), failing("Push", 5, 5, 4.0, "timed_out"))},
        "action_given_up",
        "Push is given up after 5 failures in a row, limit 5: timed_out",
    ),
    (
        {"failed": FAILED},
        "failed",
        "it counts as failed (healthy: degraded for 30 s and more), restarted 2 of 5 times",
    ),
    ({"outside": "Reset"}, "outside_action", "Reset, asked for from outside the tree"),
    (
        {"refused_children": "a: got twice", "phase": Phase.RUNNING},
        "children_refused",
        "kept: a: got twice",
    ),
    ({}, "own_decision", "nothing holds it back; its state machine stays in opening: not open yet"),
    ({"phase": Phase.RUNNING, "state": "open"}, "runs", "it runs, in state open"),
    ({"failing": (failing("Push", 2, 5, 0.0, ""),)}, "own_decision", "nothing holds it back"),
    ({"fault": FAULT}, "worker_code_failed", "KeyError"),
]


@pytest.mark.parametrize(("fields", "rule", "text"), BEYOND)
def test_what_lies_beyond_the_gate_is_explained(
    fields: dict[str, Any], rule: str, text: str
) -> None:
    found = explain(facts(**fields))

    assert gate(facts(**fields).now).why == ""
    assert found.why.rule == rule
    assert text in found.why.text
    assert found.why.next
    assert found.runs == (fields.get("phase") is Phase.RUNNING)


@pytest.mark.parametrize(
    ("fields", "follows", "next_in_s"),
    [
        ({}, "its parent restarts it", 3.5),
        ({"unless": "its restart type is temporary"}, "its restart type is temporary", None),
        ({"escalated": True}, "a person has to help", None),
    ],
)
def test_what_follows_for_a_failed_worker_is_told(
    fields: dict[str, Any], follows: str, next_in_s: float | None
) -> None:
    found = explain(facts(failed=msgspec.structs.replace(FAILED, **fields)))

    assert follows in found.why.next
    assert found.why.next_in_s == next_in_s
    assert found.why.since_s == 40.0
    assert found.why.runbook == "/runbooks/circuit-open.md"


def test_a_template_that_fails_leads_to_its_own_page() -> None:
    broken = msgspec.structs.replace(FAULT, text="TemplateError: no IP")
    found = explain(facts({"backoff_s": 1.5}, fault=broken), "https://wiki.example/")

    assert found.why.runbook == "https://wiki.example/template-errors.md"


def test_all_reasons_are_told_and_the_one_that_counts_first() -> None:
    """What would be next is no surprise later."""
    now = {"backoff_s": 1.5, "infrastructure_open": "disk", "never_observed": True}
    found = explain(facts(now, fault=FAULT, seen=SEEN))

    assert found.why.rule == "worker_code_failed"
    assert [cause.rule for cause in found.also] == ["infrastructure_open", "never_observed"]


# The beginning of the gate's reason, and the rules that may explain it.
SAYS = {
    "Push is in flight": {"action_in_flight"},
    "waiting for the first": {"never_observed"},
    "waiting for an obs": {"awaiting_observation"},
    "its code failed": {"worker_code_failed"},
    "infrastructure": {"infrastructure_open"},
    "no desired state": {"never_derived"},
    "waiting for a to run": {"held_by"},
    "waiting for a, b to run": {"held_by"},
    "paused": {"observation_stale"},
    "degraded": {"observation_stale"},
    "": {"stopping", "own_decision"},
}
SECONDS = st.none() | st.floats(0, 100)
CONDITIONS = st.builds(
    Conditions,
    stopping=st.booleans(),
    in_flight=st.none() | st.just("Push"),
    children_left=st.integers(0, 3),
    infrastructure_open=st.none() | st.just("no procs"),
    backoff_s=SECONDS,
    never_derived=st.booleans(),
    held_by=st.sampled_from([(), ("a",), ("a", "b")]),
    stale_s=SECONDS,
    degraded=st.booleans(),
    never_observed=st.booleans(),
    awaiting_observation=st.booleans(),
)


@given(CONDITIONS)
def test_the_explanation_is_the_gates_own_reason(now: Conditions) -> None:
    """Whatever is so at once: of many reasons, both name the same one."""
    why = gate(now).why
    found = explain(msgspec.structs.replace(facts(), now=now))
    rules = next((rules for text, rules in SAYS.items() if text and why.startswith(text)), None)
    if rules is None:
        rules = {"children_to_stop"} if why else SAYS[""] | {"worker_code_failed"}

    assert found.why.rule in rules
    assert len({cause.rule for cause in (found.why, *found.also)}) == 1 + len(found.also)


# --- children that are not there ------------------------------------------------------------


WAITS = Cause(rule="infrastructure_open", text="no procs", next="all go on", next_in_s=2.0)
ABSENT: list[tuple[dict[str, Any], str, str, float | None]] = [
    ({"parent_stops": "got SIGTERM"}, "parent_stops", "site leaves: got SIGTERM", None),
    ({"refused": "a: twice"}, "refused", "cannot be: a: twice", None),
    ({"is_done": True, "restart": "temporary"}, "done", "restart: temporary", None),
    (
        {"given_up": True, "retry_in_s": 250.0},
        "given_up",
        "has spent its 5 restarts in 300 s",
        250.0,
    ),
    ({"given_up": True, "budget": RestartBudget(0, 60)}, "given_up", "0 restarts in 60 s", None),
    (
        {"constructor_failures": 2, "error": "OSError: no", "retry_in_s": 1.0, "since_s": 3.0},
        "constructor_failed",
        "failed 2 times in a row: OSError: no",
        1.0,
    ),
    (
        {"along_with": "a", "along": (Sibling("site/b", "closing"),), "retry_in_s": 2.0},
        "restarted_along",
        "along with a; still up: site/b (closing)",
        2.0,
    ),
    ({"restarts": 3, "retry_in_s": 4.0}, "restart_wait", "used 3 of its 5 restarts in 300 s", 4.0),
    ({"parent_waits": WAITS}, "parent_waits", "makes no children now: no procs", 2.0),
    ({}, "to_be_made", "nothing stands against it", None),
]


@pytest.mark.parametrize(("fields", "rule", "text", "next_in_s"), ABSENT)
def test_a_child_that_is_not_there_is_explained(
    fields: dict[str, Any], rule: str, text: str, next_in_s: float | None
) -> None:
    found = explain_absence(Missing(path="site/x", worker_type="pump", parent="site", **fields))

    assert found.why.rule == rule
    assert text in found.why.text
    assert found.why.next_in_s == next_in_s
    assert (found.state, found.runs, found.path) == ("absent", False, "site/x")


def test_what_is_below_a_missing_child_is_explained_by_it() -> None:
    missing = Missing(path="site/x", worker_type="pump", parent="site", given_up=True)
    found = explain_absence(missing, "site/x/y/z")

    assert found.path == "site/x/y/z"
    assert found.reason == "site/x is not there, and so nothing below it"
    assert found.why.rule == "given_up"


@pytest.mark.parametrize(
    ("trouble", "page", "follows"),
    [
        ("memory at 97%, limit 95%", "memory-pressure", "all go on when it closes"),
        ("disk:/data at 99%, limit 98%", "disk-full", "all go on when it closes"),
        ("no proc can be started", "procs-cannot-start", "all go on when it closes"),
        ("cpu at 99%, limit 90%", "circuit-open", "all go on when it closes"),
        ("held open by an operator", "circuit-open", "or with fsmv2 breaker auto"),
    ],
)
def test_the_machines_trouble_has_the_runbook_of_what_is_wrong(
    trouble: str, page: str, follows: str
) -> None:
    why = explain(facts({"infrastructure_open": trouble})).why
    assert why.runbook == f"/runbooks/{page}.md"
    assert follows in why.next
