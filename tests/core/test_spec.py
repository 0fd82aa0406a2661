"""Specs: every fault is told with its place, and dependencies decide the order of starting."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.errors import SpecError, TemplateError
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import (
    CHILDREN_MAX,
    ChildSpec,
    DesiredState,
    UserSpec,
    check_children,
    check_name,
    dependency_faults,
    start_order,
)
from fsmv2.supervisor.core.variables import VariableBundle

TYPES = frozenset({"lamp", "fan"})


def child(name: str, *needs: str, **fields: Any) -> ChildSpec:
    return ChildSpec(name, fields.pop("worker_type", "lamp"), depends_on=needs, **fields)


@pytest.mark.parametrize("name", ["a", "9", "A-b_c.d", "x" * 63])
def test_usable_names(name: str) -> None:
    """What can be part of a path."""
    assert check_name(name, "name") == name


@pytest.mark.parametrize("name", ["", "-a", ".", "..", "a/b", "a b", "a\n", "ä", "x" * 64, 5, None])
def test_unusable_names(name: Any) -> None:
    """The error quotes the name and says what is wanted."""
    with pytest.raises(SpecError, match="1 to 63 of letters") as caught:
        check_name(name, "name")
    assert repr(name) in str(caught.value)


FAULTS = [
    ([child("")], "children[0]: cannot use name ''"),
    ([child("a/b")], "cannot use name 'a/b'"),
    ([child("a"), child("b"), child("a")],
     "children[2]: name 'a' is used twice, first at children[0]"),
    ([child("a", worker_type="car")], "unknown worker type 'car', want one of fan, lamp"),
    ([child("a", worker_type="")], "unknown worker type ''"),
    ([child("a", "b")], "a: depends_on names 'b', want a sibling: a"),
    ([child("a", "a")], "depends_on is circular: a -> a"),
    ([child("a", "b"), child("b", "c"), child("c", "a")],
     "depends_on is circular: a -> b -> c -> a"),
    ([child("a", restart="always")], "restart is 'always', want one of permanent, transient"),
    ([child("a", shutdown_timeout_s=0)], "shutdown_timeout_s is 0"),
    ([child("a", shutdown_timeout_s=-1.0)], "shutdown_timeout_s is -1.0"),
    ([child("a", shutdown_timeout_s=3601)], "at most 3600"),
    ([child("a", shutdown_timeout_s=float("nan"))], "shutdown_timeout_s is nan"),
    ([child("a", shutdown_timeout_s=float("inf"))], "shutdown_timeout_s is inf"),
    ([{"name": "a"}], "children[0]: got dict, want ChildSpec"),
    ([None], "children[0]: got NoneType, want ChildSpec"),
]  # fmt: skip


@pytest.mark.parametrize(("specs", "told"), FAULTS, ids=[told for _specs, told in FAULTS])
def test_each_fault_is_told_with_its_place(specs: list[Any], told: str) -> None:
    """The parent's path, the child's index or name, what was got."""
    with pytest.raises(SpecError) as caught:
        check_children(specs, TYPES, "root/line")
    assert told in str(caught.value)
    assert "root/line" in str(caught.value)


def test_too_many_children_are_refused() -> None:
    """The limit has a name and is told."""
    specs = [child(f"c{i}") for i in range(CHILDREN_MAX + 1)]
    with pytest.raises(SpecError, match=f"want at most {CHILDREN_MAX}"):
        check_children(specs, TYPES, "root")


def test_all_faults_are_told_at_once() -> None:
    """Nobody wants to correct a config one fault per run."""
    specs = [child("-"), child("a", worker_type="car"), child("b", "nobody"), child("a")]
    with pytest.raises(SpecError) as caught:
        check_children(specs, TYPES, "root")
    for told in ("'-'", "'car'", "'nobody'", "used twice"):
        assert told in str(caught.value)


def test_a_valid_set_passes() -> None:
    """Diamonds are no cycles."""
    check_children(
        [child("d", "b", "c"), child("b", "a"), child("c", "a"), child("a")], TYPES, "root"
    )


@st.composite
def dependency_sets(draw: st.DrawFn) -> list[ChildSpec]:
    """Children without a cycle, declared in any order."""
    names = [f"c{i}" for i in range(draw(st.integers(0, 8)))]
    specs = [
        child(name, *draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else ())
        for i, name in enumerate(names)
    ]
    return draw(st.permutations(specs))


@given(dependency_sets())
def test_dependencies_come_first(specs: list[ChildSpec]) -> None:
    """Every child stands after all it depends on, and each stands once."""
    order = start_order(specs)
    assert sorted(order) == sorted(spec.name for spec in specs)
    for spec in specs:
        assert all(order.index(need) < order.index(spec.name) for need in spec.depends_on)
    assert dependency_faults(specs) == []


@given(st.permutations([f"c{i}" for i in range(6)]))
def test_without_dependencies_the_declared_order_holds(names: list[str]) -> None:
    """Order is the author's, unless something needs something."""
    assert start_order([child(name) for name in names]) == tuple(names)


@given(dependency_sets())
def test_a_set_that_is_in_order_keeps_it(specs: list[ChildSpec]) -> None:
    """Ordering what is ordered changes nothing."""
    by_name = {spec.name: spec for spec in specs}
    ordered = [by_name[name] for name in start_order(specs)]
    assert start_order(ordered) == tuple(spec.name for spec in ordered)


@given(st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=7))
def test_a_cycle_is_found_exactly_when_there_is_one(edges: list[list[int]]) -> None:
    """The cycle that is written out is a real one: each name depends on the next."""
    needs = {f"c{i}": tuple(f"c{j}" for j in row if j < len(edges)) for i, row in enumerate(edges)}
    faults = dependency_faults([child(name, *others) for name, others in needs.items()])
    free = dict(needs)
    while ready := [n for n, others in free.items() if not any(o in free for o in others)]:
        for name in ready:
            del free[name]
    assert bool(faults) == bool(free)
    for fault in faults:
        cycle = fault.removeprefix("depends_on is circular: ").split(" -> ")
        assert cycle[0] == cycle[-1]
        assert all(b in needs[a] for a, b in itertools.pairwise(cycle))


@pytest.mark.parametrize("state", ["", " ", None, 5])
def test_a_desired_state_needs_a_word(state: Any) -> None:
    """An empty state is a mistake, not a state."""
    with pytest.raises(SpecError, match="want a word"):
        DesiredState(state=state)


def test_children_may_be_handed_over_as_a_list() -> None:
    """What an author is most likely to write is taken, and kept immutable."""
    children: Any = [child("a")]
    assert DesiredState("on", children=children).children == (child("a"),)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str
    port: int = 1883
    token: Secret | None = None


def test_a_config_is_rendered_and_decoded() -> None:
    """Variables go in, types come out; a Secret keeps its type."""
    spec = UserSpec(
        {"host": "{{ HOST }}.local", "port": "{{ PORT }}", "token": "s3cret"},
        VariableBundle(user={"HOST": "plc", "PORT": 502}),
    )
    assert spec.decode(Config) == Config("plc.local", 502, Secret("s3cret"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"host": "a", "port": "x"}, "config.port: Expected `int`, got `str`"),
        ({"port": 1}, "missing required field `host`"),
        ({"host": "a", "prot": 1}, "unknown field `prot`, want one of host, port, token"),
        ({"host": "a", "token": 5}, "config.token: Expected `str`, got `int`"),
    ],
)
def test_a_config_that_does_not_fit_is_told_with_its_place(
    config: dict[str, Any], told: str
) -> None:
    """The place inside the config, what was got, what is wanted."""
    with pytest.raises(SpecError) as caught:
        UserSpec(config).decode(Config)
    assert told in str(caught.value)


def test_a_config_whose_template_fails_is_a_template_error() -> None:
    """Also a SpecError, so that one except is enough."""
    with pytest.raises(TemplateError, match=r"config\.host.*'HOST' is undefined"):
        UserSpec({"host": "{{ HOST }}"}).decode(Config)


def test_specs_go_through_yaml_and_back() -> None:
    """What is written is what is read; children of a DesiredState too."""
    spec = child("a", "b", user_spec=UserSpec({"host": "h"}), state_mapping={"on": "up"})
    assert msgspec.yaml.decode(msgspec.yaml.encode(spec), type=ChildSpec) == spec
    empty = DesiredState("on")
    assert msgspec.yaml.decode(msgspec.yaml.encode(empty), type=DesiredState) == empty


def test_an_unknown_field_of_a_spec_is_refused() -> None:
    """A typing mistake is never skipped."""
    with pytest.raises(msgspec.ValidationError, match="enabeld"):
        msgspec.convert({"name": "a", "worker_type": "lamp", "enabeld": False}, ChildSpec)
