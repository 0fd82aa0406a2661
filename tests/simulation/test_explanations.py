"""Every worker of random trees in a random world can be explained, at any moment, for free."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from worlds import History, Run

from fsmv2.supervisor.core.facts import Explanation
from fsmv2.supervisor.core.gate import gate
from fsmv2.supervisor.telemetry.explain import explain_path
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.steps import conditions

BEYOND_THE_GATE = {
    "stopping", "told_to_stop", "action_retry", "action_given_up", "outside_action",
    "children_refused", "own_decision", "runs",
}  # fmt: skip
BLOCKS = [range(first, first + 10) for first in range(0, 60, 10)]


def explained(run: Run, path: str) -> Explanation:
    """The explanation at ``path`` now."""
    found = explain_path(run.sim.engine, path, run.sim.clock.now, {})
    assert isinstance(found, Explanation), found
    msgspec.json.encode(found)
    return found


def look_at_all(run: Run, rules: Counter[str]) -> None:
    """Ask for each worker, and each child that is declared and not there."""
    engine = run.sim.engine
    if engine.stopped:
        return
    for node in engine.nodes():
        found = explained(run, node.path)
        rules[found.why.rule] += 1
        assert found.why.text
        assert found.why.next
        if gate(conditions(node, engine.context)).why:
            assert found.why.rule not in BEYOND_THE_GATE, (found, node)
        for name in missing(node):
            absent = explained(run, f"{node.path}/{name}")
            rules[absent.why.rule] += 1
            assert absent.state == "absent"


def missing(node: Node) -> list[str]:
    """The children it has declared that are not there."""
    desired: Any = node.desired.children if node.desired is not None else None
    return [spec.name for spec in desired or () if spec.name not in node.children]


def play(seed: int, rules: Counter[str] | None) -> Run:
    """A history; with ``rules``, all are asked for after each tick."""
    run = History(seed).begin()
    engine: Any = run.sim.engine
    tick = engine.tick

    def tick_and_look(*args: Any, **options: Any) -> None:
        tick(*args, **options)
        if rules is not None:
            look_at_all(run, rules)

    engine.tick = tick_and_look
    run.play()
    return run


@pytest.mark.parametrize("seeds", BLOCKS, ids=str)
def test_asking_after_each_tick_changes_nothing(seeds: range) -> None:
    """And whatever the gate holds back is explained by one of the gate's reasons."""
    for seed in seeds:
        rules: Counter[str] = Counter()
        assert play(seed, rules).sim.trace.lines == play(seed, None).sim.trace.lines
        assert rules


def test_the_histories_have_nearly_every_rule_in_them() -> None:
    """Else the test above would show little."""
    rules: Counter[str] = Counter()
    for seed in range(40):
        play(seed, rules)
    assert set(rules) >= {
        "action_in_flight", "action_retry", "awaiting_observation", "children_refused",
        "children_to_stop", "held_by", "infrastructure_open", "never_observed", "own_decision",
        "restart_wait", "runs", "stopping", "told_to_stop", "worker_code_failed",
    }  # fmt: skip
