"""A reload does what its plan says, in one tick, and nothing else; and nothing grows of it."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from harness import Bench, Quiet, child
from hypothesis import assume, given
from hypothesis import strategies as st

from fsmv2.supervisor.config.configcheck import check_settings
from fsmv2.supervisor.config.configfault import ConfigError
from fsmv2.supervisor.config.settings import Settings, child_specs
from fsmv2.supervisor.core.configrender import render_config
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import WorkerAdded, WorkerFaulted, WorkerRemoved, WorkerUpdated
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.plan import Plan, plan
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.reconciling import GENERATIONS_KEPT

NAMES = ("a", "b", "c", "d")


class Leaf(Quiet):
    """Counts how often it is derived."""

    type_name = "leaf"
    derived: list[str] = []  # what all of them were asked, emptied by the tests

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        self.derived.append(spec.variables.internal["id"])
        return DesiredState("running", render_config(spec.config, spec.variables))


class Group(Leaf):
    """Its config's ``below`` are its children; each inherits its variables."""

    type_name = "group"

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config = super().derive_desired_state(spec).config
        children = tuple(
            ChildSpec(
                one["name"],
                one["type"],
                UserSpec(one["config"], VariableBundle(user=one["variables"])),
                enabled=one["enabled"],
            )
            for one in config.get("below", ())
        )
        return DesiredState("running", config, children)


FACTORY = WorkerFactory([Leaf, Group])

# --- random configs -------------------------------------------------------------------------

values = st.sampled_from([0, 1, True, 1.0, "x", "{{ X }}", "{{ global.g }}", "{{ location_path }}"])
variables = st.fixed_dictionaries({}, optional={"Y": st.integers(0, 1)})
locations = st.fixed_dictionaries({}, optional={"site": st.sampled_from("st")})


def nodes(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists of siblings, each with its own name."""
    one = st.fixed_dictionaries(
        {
            "name": st.sampled_from(NAMES),
            "type": st.sampled_from(["leaf", "group", "group"]),
            "config": st.fixed_dictionaries({"v": values}, optional={"below": below}),
            "variables": variables,
            "enabled": st.booleans(),
        }
    )
    return st.lists(one, max_size=3, unique_by=lambda node: node["name"])


below = st.recursive(st.just([]), nodes, max_leaves=4)


@st.composite
def configs(draw: st.DrawFn) -> Settings:
    """A whole config, with dependencies that may be circular (then it is refused)."""
    workers = draw(nodes(below))
    for worker in workers:
        worker["location"] = draw(locations)
        worker["shutdown_timeout_s"] = draw(st.sampled_from([5.0, 6.0]))
        others = [other["name"] for other in workers if other["name"] != worker["name"]]
        if others and draw(st.integers(0, 3)) == 0:
            worker["depends_on"] = [draw(st.sampled_from(others))]
    return msgspec.convert(
        {
            "name": "root",
            "workers": workers,
            "global": {"g": draw(st.sampled_from([1, True, 2]))},
            "location": {"enterprise": "E", **draw(locations)},
            "location_gaps": draw(st.sampled_from(["skip", "unknown_between", "unknown_all"])),
        },
        Settings,
    )


@st.composite
def edited(draw: st.DrawFn, before: Settings) -> Settings:
    """Another config, most of which is as it was."""
    fresh = draw(configs())
    keep = draw(st.sets(st.sampled_from(["workers", "global_", "location", "location_gaps"])))
    after = msgspec.structs.replace(fresh, **{name: getattr(before, name) for name in keep})
    if "workers" not in keep and draw(st.booleans()):
        known = {worker.name: worker for worker in before.workers}
        mixed = tuple(
            known.get(worker.name, worker) if draw(st.booleans()) else worker
            for worker in fresh.workers
        )
        after = msgspec.structs.replace(after, workers=mixed)
    return after


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Settings, Settings]:
    before = with_x(draw(configs()))
    return before, with_x(draw(edited(before)))


def with_x(settings: Settings) -> Settings:
    """Every worker under the root has an X of its own, so that templates render."""
    workers = tuple(
        msgspec.structs.replace(worker, variables={"X": worker.name, **worker.variables})
        for worker in settings.workers
    )
    return msgspec.structs.replace(settings, workers=workers)


def usable(settings: Settings) -> bool:
    try:
        check_settings(settings, FACTORY)
    except ConfigError:
        return False
    return True


# --- running them ---------------------------------------------------------------------------


def reload(bench: Bench, settings: Settings) -> None:
    bench.engine.reload(
        child_specs(settings),
        variables=VariableBundle(global_=settings.global_),
        location=settings.location,
        gaps=settings.location_gaps,
    )


def running(settings: Settings) -> Bench:
    bench = Bench(workers=[Leaf, Group])
    reload(bench, settings)
    bench.settle(30)
    return bench


def by_path(bench: Bench) -> dict[str, Node]:
    return {node.path: node for node in bench.engine.nodes() if node.parent is not None}


def planned(before: Settings, after: Settings) -> Plan:
    return plan(check_settings(before, FACTORY), check_settings(after, FACTORY))


def paths_of(bench: Bench, kind: Any, since: int) -> list[str]:
    return [event.path for event in bench.events[since:] if isinstance(event, kind)]


@given(pairs())
def test_what_the_plan_predicts_is_what_happens(pair: tuple[Settings, Settings]) -> None:
    """Added, updated, replaced, removed and untouched: each path has the events of its change
    and no other; what is untouched is the same object, and is not even derived."""
    before, after = pair
    assume(usable(before) and usable(after))
    bench = running(before)
    old, since = by_path(bench), len(bench.events)
    Leaf.derived.clear()

    reload(bench, after)
    bench.tick()
    at_once = {*paths_of(bench, WorkerAdded, since), *paths_of(bench, WorkerUpdated, since)}
    derived = set(Leaf.derived)
    bench.settle(60)

    told = planned(before, after)
    added, updated, replaced, removed, untouched = (
        set(told.paths(kind)) for kind in ("added", "updated", "replaced", "removed", "untouched")
    )
    assert sorted(paths_of(bench, WorkerAdded, since)) == sorted(added | replaced)
    assert sorted(paths_of(bench, WorkerRemoved, since)) == sorted(removed | replaced)
    assert set(paths_of(bench, WorkerUpdated, since)) - removed - replaced == updated
    assert paths_of(bench, WorkerFaulted, since) == []
    now = by_path(bench)
    assert now.keys() == added | updated | replaced | untouched
    for path in updated | untouched:
        assert now[path] is old[path]
    for path in replaced:
        assert now[path] is not old[path]
    # In one tick, but for what is below a worker that has to stop first.
    soon = {
        path
        for path in added | updated
        if not any(path.startswith(f"{other}/") for other in replaced)
    }
    assert soon <= at_once
    assert soon <= derived
    assert derived & untouched == set()


@given(configs())
def test_a_reload_of_the_same_config_changes_nothing(settings: Settings) -> None:
    """Not one event, not one derive of a worker."""
    settings = with_x(settings)
    assume(usable(settings))
    bench = running(settings)
    since = len(bench.events)
    Leaf.derived.clear()

    reload(bench, msgspec.convert(msgspec.to_builtins(settings), Settings))
    bench.settle(10)

    assert bench.events[since:] == []
    assert Leaf.derived == []
    assert set(planned(settings, settings).paths("untouched")) == by_path(bench).keys()


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), ([1], [True])])
def test_equal_values_of_another_type_are_a_change(old: Any, new: Any) -> None:
    """Python calls 1 and true equal; a template renders them differently."""
    bench = Bench(child("a", config={"v": old}), child("b"))
    bench.settle()
    since = len(bench.events)

    bench.engine.reload((child("a", config={"v": new}), child("b")))
    bench.settle()

    assert paths_of(bench, WorkerUpdated, since) == ["root/a"]
    assert bench.node("a").desired.config == {"v": new}  # type: ignore[union-attr]


def test_children_that_cannot_be_are_refused_whole() -> None:
    """One unknown type among good children: nothing is taken over, nothing happens."""
    bench = Bench(child("a"), location=Location(site="s"))
    bench.settle()
    before, since = by_path(bench), len(bench.events)

    with pytest.raises(SpecError, match="unknown worker type 'none'"):
        bench.engine.reload(
            (child("a", config={"v": 1}), child("b", "none")),
            variables=VariableBundle(global_={"g": 1}),
            gaps="unknown_all",
            interval_s=9.0,
        )
    bench.settle()

    assert bench.events[since:] == []
    assert by_path(bench) == before
    assert bench.engine.root.location == Location(site="s")
    assert bench.engine.context.gaps == "skip"
    assert bench.engine.interval_s != 9.0


def test_a_supervisor_that_stops_takes_no_other_config() -> None:
    bench = Bench(child("a"))
    bench.settle()
    bench.engine.stop("asked to")

    with pytest.raises(SpecError, match=r"cannot reload: the supervisor stops \(asked to\)"):
        bench.engine.reload((child("b"),))
    bench.settle()

    assert bench.engine.stopped
    assert bench.find("b") is None


def test_a_thousand_reloads_leave_nothing_behind() -> None:
    """Children come, change and go under ever new names: nodes, attempts in flight, moments to
    wake at and the root's own records are at the end what one start makes."""
    rng = random.Random(4)
    base = (child("a"), child("g", "parent", config={"children": (child("x"), child("y"))}))
    bench = Bench(*base)
    bench.settle(60)
    sizes = sizes_of(bench)

    for turn in range(1_000):
        some = [child(f"n{turn}-{i}", config={"v": turn}) for i in range(rng.randint(0, 3))]
        inner = tuple(child(f"z{rng.randint(0, 5)}-{turn}") for _ in range(rng.randint(0, 1)))
        group = child("g", "parent", *(["a"] if turn % 7 == 0 else []), config={"children": inner})
        first = child("a", rng.choice(["quiet", "parent"]))
        bench.engine.reload((first, group, *some), variables=VariableBundle(global_={"t": turn}))
        bench.run(rng.random())
    for last in range(2):  # what has just gone is forgotten with the next change
        bench.engine.reload((*base,), variables=VariableBundle(global_={"last": last}))
        bench.settle(120)

    assert sizes_of(bench) == sizes


def sizes_of(bench: Bench) -> dict[str, int]:
    """How much the engine keeps."""
    engine, root = bench.engine, bench.engine.root
    return {
        "nodes": len(list(engine.nodes())),
        "owners": len(engine._inbox._owners),
        "wakes": len(engine._wakes),
        "inbox": len(engine._inbox),
        "generations": max(0, len(root.generations) - GENERATIONS_KEPT),
        "undeclared": len({*root.later, *root.done} - root.children.keys()),
    }
