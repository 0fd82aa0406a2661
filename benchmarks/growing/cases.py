"""What is measured of the tree, without procs: CPU seconds, the least of some runs.

Knows: the engine, the pure functions below it, a pool that swallows what it is given.
Does not know: limits, tables.
Invariants: the clock of the engine is the caller's; the garbage collector rests while a time is
taken. Nothing in here waits, so CPU time is what a quiet machine would show, and the least of some
runs is told: others on the machine can only make a run longer.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from fsmv2.supervisor.core import template
from fsmv2.supervisor.core.reconcile import Present, diff_children
from fsmv2.supervisor.core.rootworker import RootWorker
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.tree import reconciling, steps
from fsmv2.supervisor.tree.engine import Engine
from growing.plant import WORKERS, LeafConfig, children

SPREAD_S = 2.0
# Nodes with the root: 1 + a + ab + abc.
WIDTHS = {10: (1, 2, 3), 100: (3, 4, 7), 1_000: (9, 10, 10), 10_000: (9, 30, 36)}
CUBE = (10, 10, 10)
TEXT_SMALL = "tcp://{{ host }}:{{ port }}"
TEXT_1_KB = "".join(
    f"key{n}: tcp://{{{{ host }}}}:{{{{ port }}}}/line/{n:04d}\n" for n in range(24)
)
NAMES = {"host": "plant", "port": 502}


class Swallow:
    """The pool port of somebody who never answers."""

    def __init__(self) -> None:
        self.count = 0

    def submit(self, action: object, **_: Any) -> int:
        self.count += 1
        return self.count

    def cancel(self, attempt_id: int, cause: str = "") -> bool:
        return True

    def tell_of_stop(self, attempt_id: int) -> None:
        pass

    def in_flight(self, attempt_id: int) -> None:
        return None


class Tree:
    """An engine whose clock is moved by hand."""

    def __init__(self, specs: tuple[ChildSpec, ...]) -> None:
        self.now = 1000.0
        self.engine = Engine(
            name="bench",
            children=specs,
            factory=WorkerFactory(WORKERS),
            pool=Swallow(),
            emit=lambda event: None,
            now=self.now,
            wall=1.7e9,
        )

    def tick(self, *, full: bool = False) -> None:
        self.now += 1e-4
        self.engine.tick(self.now, 1.7e9, full=full)

    def reconcile(self) -> None:
        """The root's steps up to its children's: they are made, and do nothing yet."""
        root, context = self.engine.root, self.engine.context
        health = steps.check_health(root, context)
        steps.derive(root, context, health)
        reconciling.reconcile(root, context, health)

    def settle(self) -> None:
        """Tick until nothing is due."""
        while self.engine.root.dirty or self.engine.root.dirty_below:
            self.now += 0.1
            self.tick()

    def declare(self, specs: tuple[ChildSpec, ...]) -> None:
        """Give the root other children, as a reload would."""
        worker = self.engine.root.worker
        assert isinstance(worker, RootWorker)
        worker._children = specs
        self.engine.root.derive_needed = True
        self.engine.root.mark_dirty()


def least_s(
    run: Callable[[], object],
    times: int,
    prepare: Callable[[], object] = int,
    for_s: float = 0.0,
) -> float:
    """The least time of ``run``; ``prepare`` runs before each, outside of the time. So many times,
    and for ``for_s`` seconds at least: ten runs of a millisecond all meet the same moment of a
    machine that others share."""
    least = float("inf")
    until = time.monotonic() + for_s
    while times > 0 or time.monotonic() < until:
        times -= 1
        prepare()
        gc.collect(0)
        gc.disable()
        began = time.thread_time()
        run()
        least = min(least, time.thread_time() - began)
        gc.enable()
    return least


def settled(widths: tuple[int, ...]) -> Tree:
    """A tree in which all run and nothing is due."""
    tree = Tree(children(widths))
    tree.settle()
    assert all(node.phase == "running" for node in tree.engine.nodes())
    return tree


def ticks(widths: tuple[int, ...], times: int) -> dict[str, float]:
    """Steady, full, and with one changed leaf."""
    tree = settled(widths)
    nodes = list(tree.engine.nodes())
    steady = least_s(tree.tick, 10 * times)
    full = least_s(lambda: tree.tick(full=True), times, for_s=SPREAD_S)
    tree.settle()
    return {
        "nodes": len(nodes),
        "steady_s": steady,
        "full_s": full,
        "full_per_node_s": full / len(nodes),
        "one_leaf_s": least_s(tree.tick, 10 * times, nodes[-1].mark_dirty),
    }


def health(count: int, times: int) -> dict[str, float]:
    """Step 1 of a parent, one of whose children has changed, or has failed."""
    tree = settled((count,))
    root, context = tree.engine.root, tree.engine.context
    context.now = tree.now
    child = list(root.children.values())[count // 2]

    def change() -> None:
        root.suspects[child.spec.name] = None

    def step_s() -> float:
        return least_s(lambda: steps.check_health(root, context), 10 * times, change)

    changed_s = step_s()
    child.is_lost = True
    failed_s = step_s()
    assert root.care is not None
    assert root.care.is_open
    found = {"changed_s": changed_s, "failed_s": failed_s}
    for share in (0.1, 1.0):
        for other in list(root.children.values())[: int(share * count)]:
            if not other.is_lost:
                other.is_lost = True
                root.suspects[other.spec.name] = None
        found[f"failed_{share:.0%}_s"] = step_s()
    return found


def changed_leaves(
    widths: tuple[int, ...], counts: tuple[int, ...], times: int
) -> dict[int, float]:
    """A tick's time against how many leaves have changed."""
    tree = settled(widths)
    leaves = [node for node in tree.engine.nodes() if not node.children]

    def change(count: int) -> None:
        for leaf in leaves[:: max(1, len(leaves) // count)][:count]:
            leaf.mark_dirty()

    return {count: least_s(tree.tick, times, lambda n=count: change(n)) for count in counts}  # type: ignore[misc]


def reconciles(count: int, times: int) -> dict[str, float]:
    """Children of one parent come, change and go: the tick that does it, with all it leads to.
    ``add`` is the parent's pass alone, which makes the children; ``first_tick`` includes that each
    of them derives and decides, and so does ``update``; ``remove`` is all ticks until the last
    child is gone."""
    names = ("add_s", "first_tick_s", "update_s", "remove_s")
    found = dict.fromkeys(names, float("inf"))
    specs = children((count,))
    other = tuple(
        ChildSpec(spec.name, "leaf", UserSpec({"host": "other", "port": 1})) for spec in specs
    )
    for _ in range(times):
        tree = settled(())
        tree.declare(specs)
        found["add_s"] = min(found["add_s"], least_s(tree.reconcile, 1))
        assert len(tree.engine.root.children) == count
        tree = settled(())
        tree.declare(specs)
        found["first_tick_s"] = min(found["first_tick_s"], least_s(tree.tick, 1))
        assert len(tree.engine.root.children) == count
        tree.settle()
        tree.declare(other)
        found["update_s"] = min(found["update_s"], least_s(tree.tick, 1))
        tree.settle()
        tree.declare(())
        found["remove_s"] = min(found["remove_s"], least_s(tree.settle, 1))
        assert not tree.engine.root.children
    present = {spec.name: Present(spec) for spec in specs}
    found["unchanged_s"] = least_s(lambda: diff_children(present, specs), 10 * times)
    return found


def pure(times: int) -> dict[str, float]:
    """Templates and variables; one call each, of a loop of 100."""

    def each(run: Callable[[], object]) -> float:
        return least_s(lambda: [run() for _ in range(100)], times) / 100

    five = {f"name{n}": f"value{n}" for n in range(5)}
    bundle = VariableBundle(user=five)
    # As many templates as children: a text compiles once, a name differs in each.
    specs = [
        UserSpec({"host": "h-{{ name0 }}", "port": n}, bundle.with_internal({"id": f"r/{n}"}))
        for n in range(100)
    ]
    return {
        "derive_s": least_s(lambda: [spec.decode(LeafConfig) for spec in specs], times) / 100,
        "compile_s": least_s(
            lambda: template.render_template(TEXT_1_KB, NAMES), times, template._compile.cache_clear
        ),
        "render_1_kb_s": each(lambda: template.render_template(TEXT_1_KB, NAMES)),
        "render_small_s": each(lambda: template.render_template(TEXT_SMALL, NAMES)),
        "flatten_5_s": each(bundle.flatten),
        "merge_5_s": each(lambda: bundle.for_child(bundle, {})),
    }


def bytes_per_node(widths: tuple[int, ...]) -> float:
    """Python's memory of a settled tree, specs and configs included."""
    gc.collect()
    tracemalloc.start()
    tree = settled(widths)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / sum(1 for _ in tree.engine.nodes())
