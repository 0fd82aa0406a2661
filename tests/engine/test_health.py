"""Step 1: what a node may do now."""

from __future__ import annotations

import itertools
from typing import Any

from harness import Bench, Look, Off, child

from fsmv2.supervisor.core.action import AS_DECLARED
from fsmv2.supervisor.core.gate import gate
from fsmv2.supervisor.tree import steps
from fsmv2.supervisor.tree.node import NEVER, InFlight, Node

# What may be otherwise about a node that runs undisturbed; seconds are from now.
OTHERWISE: tuple[tuple[str, Any], ...] = (
    ("state", Off()),
    ("attempt", InFlight(1, Look, 0.0, AS_DECLARED)),
    ("fault_until", 5.0),
    ("desired", None),
    ("held_by", ("other",)),
    ("is_lost", True),
    ("stop_from_parent", True),
    ("observe_at", NEVER),
    ("observed_at", None),
    ("observed_at", 0.0),
    ("observed_at", -1.0),
    ("observed_at", -100.0),
    ("acted_at", 0.0),
    ("acted_at", -1.0),
    ("acted_at", -100.0),
    ("fault_step", "observe"),
    ("fault_text", "slow"),
)
MOMENTS = ("observed_at", "acted_at", "fault_until")


def test_the_short_way_to_the_gate_says_what_the_long_one_does() -> None:
    """Whatever three things are otherwise."""
    bench = Bench(child("a"))
    bench.run(5.0)
    short_ways = 0
    for node in bench.engine.nodes():  # one with a child, and one without
        usual = {name: getattr(node, name) for name, _ in OTHERWISE}
        for some in itertools.combinations_with_replacement(OTHERWISE, 3):
            set_otherwise(node, {**usual, **dict(some)}, some, bench.engine.context.now)
            for trouble in (None, "no procs"):
                bench.engine.context.infrastructure = trouble
                found = steps.check_health(node, bench.engine.context)
                long_way = gate(steps.conditions(node, bench.engine.context))
                assert found == long_way, (node, trouble, some)
                short_ways += found is steps.ALL_CLEAR
        set_otherwise(node, usual, (), 0.0)
    assert short_ways > 10


def set_otherwise(node: Node, fields: dict[str, Any], some: Any, now: float) -> None:
    for name, value in fields.items():
        is_moment = name in MOMENTS and value is not None and (name, value) in some
        setattr(node, name, now + value if is_moment else value)
