"""Variables and derivation in the running tree, spec scenarios 55 to 58 and 60 to 62."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from harness import Bench, Parent, Quiet, child
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core import events, variables
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle


class LeafConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    topic: str = ""


class Leaf(Quiet):
    """Its config is rendered and decoded, as a real worker's; counts its derivations."""

    type_name = "leaf"
    config_type = LeafConfig
    derived: list[str] = []

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        Leaf.derived.append(spec.variables.internal["id"])
        return DesiredState("running", config=spec.decode(LeafConfig))


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    Leaf.derived = []


ADDRESS = {"address": "{{ IP }}:{{ PORT }}", "topic": "umh.v1.{{ location_path }}.{{ name }}"}


def leaf(name: str = "leaf", config: Any = None, **user: Any) -> ChildSpec:
    bundle = VariableBundle(user={"name": name, **user})
    return child(name, "leaf", config=config or ADDRESS, variables=bundle)


def parent(name: str, *children: ChildSpec, location: Location | None = None, **user: Any) -> Any:
    bundle = VariableBundle(user=user)
    where = location or Location()
    return child(name, "parent", config={"children": children}, variables=bundle, location=where)


def seen(bench: Bench, path: str) -> Any:
    desired = bench.node(path).desired
    assert desired is not None
    return desired.config


# --- 55 to 58: what flows down ---------------------------------------------------------------


def test_a_child_sees_its_parents_variables_and_its_own_on_top() -> None:
    """Scenario 55, with the location's path in the topic."""
    bench = Bench(
        parent("pc", leaf("a"), leaf("b", PORT=503), IP="10.0.0.1", PORT=502,
               location=Location(line="Line-A", cell="Cell-5")),
        workers=[Leaf],
        location=Location("ACME", "Factory-1"),
    )  # fmt: skip
    bench.tick()
    topic = "umh.v1.ACME.Factory-1.Line-A.Cell-5"
    assert seen(bench, "pc/a") == LeafConfig("10.0.0.1:502", f"{topic}.a")
    assert seen(bench, "pc/b") == LeafConfig("10.0.0.1:503", f"{topic}.b")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("levels", [1, 3, 8])
def test_a_change_reaches_every_level_within_one_tick(levels: int, full: bool) -> None:
    """Scenario 56, sooner than asked for: not one tick per level, one tick."""

    def line(ip: str) -> ChildSpec:
        spec = leaf()
        for level in range(levels):
            spec = parent(f"p{level}", spec)
        inner: Any = spec.user_spec.config
        return parent(spec.name, *inner["children"], IP=ip, PORT=1)

    bench = Bench(line("10.0.0.1"), workers=[Leaf], full=full)
    path = "/".join([*(f"p{level}" for level in reversed(range(levels))), "leaf"])
    bench.tick()
    assert seen(bench, path).address == "10.0.0.1:1"
    nodes = list(bench.engine.nodes())
    bench.settle()
    bench.redeclare(line("10.0.0.2"))
    bench.tick()
    assert seen(bench, path).address == "10.0.0.2:1"
    assert list(bench.engine.nodes()) == nodes


def test_a_moved_parent_moves_the_topics_below_it_in_the_same_tick() -> None:
    """A location is inherited like a variable."""
    bench = Bench(parent("pc", leaf(), IP="a", PORT=1, location=Location("ACME")), workers=[Leaf])
    bench.tick()
    bench.redeclare(parent("pc", leaf(), IP="a", PORT=1, location=Location("Other")))
    bench.tick()
    assert seen(bench, "pc/leaf").topic == "umh.v1.Other.leaf"


def test_the_roots_globals_are_seen_on_every_level_and_cannot_be_hidden() -> None:
    """Scenario 57: they come from above; a child adds to them and overrides none."""
    own = VariableBundle(global_={"broker": "mine", "extra": 1})
    config = {"address": "{{ global.broker }}:1"}
    inner = child("leaf", "leaf", config=config, variables=own)
    bench = Bench(
        parent("a", parent("b", inner)),
        workers=[Leaf],
        variables=VariableBundle(global_={"broker": "mqtt"}),
    )
    bench.tick()
    assert seen(bench, "a/b/leaf").address == "mqtt:1"
    assert bench.node("a/b/leaf").variables.global_ == {"broker": "mqtt", "extra": 1}
    assert bench.node("a").variables.global_ == {"broker": "mqtt"}


def test_internal_variables_are_the_nodes_own_and_those_that_were_decided() -> None:
    """Scenario 58: id, parent_id and its alias are real paths, never a type's name."""
    bench = Bench(parent("pc", leaf(), IP="a", PORT=1), workers=[Leaf], location=Location("ACME"))
    bench.tick()
    assert bench.node("pc/leaf").variables.internal == {
        "id": "root/pc/leaf",
        "created_at": "2023-11-14T22:13:20+00:00",
        "parent_id": "root/pc",
        "bridged_by": "root/pc",
        "location": {"enterprise": "ACME"},
        "location_path": "ACME",
    }
    assert bench.engine.root.variables.internal["parent_id"] == ""
    assert bench.node("pc/leaf").variables.user == {"name": "leaf", "IP": "a", "PORT": 1}


def test_the_moment_of_creation_stays_while_the_worker_lives() -> None:
    """Whatever is updated in place; a new incarnation has its own."""
    bench = Bench(parent("pc", leaf(), IP="a", PORT=1), workers=[Leaf])
    bench.run(100)
    bench.redeclare(parent("pc", leaf(), IP="b", PORT=1))
    bench.settle()
    assert bench.node("pc/leaf").variables.internal["created_at"] == "2023-11-14T22:13:20+00:00"
    bench.redeclare()
    bench.settle()
    bench.redeclare(parent("pc", leaf(), IP="b", PORT=1))
    bench.settle()
    assert bench.node("pc/leaf").variables.internal["created_at"] > "2023-11-14T22:15"


# --- 60 to 62: deriving ----------------------------------------------------------------------


def test_an_unchanged_spec_is_derived_once_and_nothing_is_copied_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scenario 60: hours of ticks, each leaf derived once; full ticks included."""
    bench = Bench(parent("pc", *(leaf(f"l{n}") for n in range(5)), IP="a", PORT=1), workers=[Leaf])
    bench.settle()
    copies: list[Any] = []
    monkeypatch.setattr(variables, "_copied", copies.append)
    bench.run(3600)
    for _ in range(10):
        bench.tick(full=True)
    assert sorted(Leaf.derived) == [f"root/pc/l{n}" for n in range(5)]
    assert copies == []


CHANGES = {
    "config": lambda: leaf(config={"address": "new:1"}),
    "user": lambda: leaf(extra=1),
    "global": lambda: child("leaf", "leaf", config=ADDRESS,
                            variables=VariableBundle({"name": "leaf"}, {"g": 1})),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_config_or_variables_is_derived_once_more(what: str) -> None:
    """Once, and for nobody else."""
    bench = Bench(parent("pc", leaf(), leaf("z"), IP="a", PORT=1), workers=[Leaf])
    bench.settle()
    bench.redeclare(parent("pc", CHANGES[what](), leaf("z"), IP="a", PORT=1))
    bench.settle(100)
    assert Leaf.derived == ["root/pc/leaf", "root/pc/z", "root/pc/leaf"]


def test_a_change_below_or_beside_derives_nobody_else() -> None:
    """A tree of 3 × 3 leaves, one of them changed."""

    def tree(port: int) -> list[ChildSpec]:
        return [
            parent(f"p{n}", *(leaf(f"l{m}", PORT=port if (n, m) == (1, 1) else 1)
                              for m in range(3)), IP="a")
            for n in range(3)
        ]  # fmt: skip

    bench = Bench(*tree(1), workers=[Leaf])
    bench.settle()
    Leaf.derived.clear()
    bench.redeclare(*tree(2))
    bench.settle()
    assert Leaf.derived == ["root/p1/l1"]


def test_a_variable_that_goes_missing_costs_nothing_but_news_until_it_is_back() -> None:
    """Scenario 61 and step 8 of the converter: the last good config and the worker stay, one
    event per incident, healed in the tick that brings the variable back."""
    bench = Bench(parent("pc", leaf(), leaf("z", PORT=9), IP="a", PORT=1), workers=[Leaf])
    bench.settle()
    node = bench.node("pc/leaf")
    bench.redeclare(parent("pc", leaf(), leaf("z", PORT=9), IP="a"))
    bench.run(300)
    assert bench.node("pc/leaf") is node
    assert seen(bench, "pc/leaf").address == "a:1"
    assert bench.tree() == {"pc": "running", "pc/leaf": "running", "pc/z": "running"}
    [fault] = bench.heard(events.WorkerFaulted)
    assert (fault.path, fault.step) == ("root/pc/leaf", "derive_desired_state")
    assert "config.address: " in fault.error
    assert "'PORT' is undefined" in fault.error
    bench.redeclare(parent("pc", leaf(), leaf("z", PORT=9), IP="a", PORT=2))
    bench.tick()
    assert seen(bench, "pc/leaf").address == "a:2"
    assert len(bench.heard(events.WorkerRecovered, "pc/leaf")) == 1
    assert bench.heard(events.WorkerRemoved) == []


def test_a_hundred_templated_children_cost_one_derivation_and_no_second_parse() -> None:
    """Scenario 62 in counts: what is slow is not done twice."""
    from fsmv2.supervisor.core import template

    template._compile.cache_clear()
    leaves = [leaf(f"l{n}") for n in range(100)]
    bench = Bench(parent("pc", *leaves, IP="a", PORT=1), workers=[Leaf])
    bench.tick()
    assert len(Leaf.derived) == len(set(Leaf.derived)) == 100
    assert template._compile.cache_info().misses == len(ADDRESS)


SMALL = st.dictionaries(st.sampled_from(["IP", "PORT", "x"]), st.integers(0, 3), max_size=3)


@given(st.lists(st.tuples(SMALL, SMALL, SMALL), min_size=1, max_size=5))
def test_after_any_changes_each_level_sees_what_a_fresh_tree_would(
    history: list[tuple[dict[str, int], dict[str, int], dict[str, int]]],
) -> None:
    """Nothing of an earlier value is left, on any level."""

    def line(top: Any, middle: Any, low: Any) -> ChildSpec:
        inner = parent("b", child("c", variables=VariableBundle(user=low)), **middle)
        return parent("a", inner, **top)

    bench = Bench(line({}, {}, {}))
    for levels in history:
        bench.redeclare(line(*levels))
        bench.tick()
    fresh = Bench(line(*history[-1]))
    fresh.tick()
    for path in ("a", "a/b", "a/b/c"):
        assert bench.node(path).variables.user == fresh.node(path).variables.user


def test_a_worker_that_changes_what_it_was_given_changes_its_own_only() -> None:
    """Scenario 59 in the tree: neither its parent nor its siblings see it."""

    class Scribbler(Parent):
        type_name = "scribbler"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            spec.variables.user["hosts"].append("scribbled")
            return DesiredState("running")

    kids = (child("s", "scribbler"), child("z"))
    bench = Bench(parent("pc", *kids, hosts=["a"]), workers=[Scribbler])
    bench.settle()
    assert bench.node("pc").variables.user == {"hosts": ["a"]}
    assert bench.node("pc/z").variables.user == {"hosts": ["a"]}
    assert bench.node("pc").spec.user_spec.variables.user == {"hosts": ["a"]}
