"""What flows down the tree: variables in three namespaces, and ISA-95 locations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.location import LEVELS, GapPolicy, Location
from fsmv2.supervisor.core.variables import RESERVED, VariableBundle

VALUES = st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
NAMES = st.sampled_from(["IP", "PORT", "name", "_x", "a1"])
SPACES = st.dictionaries(NAMES, VALUES, max_size=4)
BUNDLES = st.builds(VariableBundle, user=SPACES, global_=SPACES)


def test_user_variables_are_at_top_level_the_others_under_their_names() -> None:
    """What a template sees of a bundle."""
    bundle = VariableBundle(
        user={"IP": "10.0.0.1", "PORT": 502},
        global_={"broker": "mqtt"},
    ).with_internal({"id": "root/a", "location_path": "ACME.Factory-1"})
    assert bundle.flatten() == {
        "IP": "10.0.0.1",
        "PORT": 502,
        "global": {"broker": "mqtt"},
        "internal": {"id": "root/a", "location_path": "ACME.Factory-1"},
        "location_path": "ACME.Factory-1",
    }


def test_empty_namespaces_are_there() -> None:
    """So that strict mode can name the missing leaf."""
    assert VariableBundle().flatten() == {"global": {}, "internal": {}, "location_path": ""}


@pytest.mark.parametrize("name", RESERVED)
def test_a_user_variable_may_not_take_a_reserved_name(name: str) -> None:
    """Refused and named, never dropped in silence."""
    with pytest.raises(SpecError, match=f"'{name}': the name is reserved"):
        VariableBundle(user={name: 1})


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "ä", "a\n", "a.b", 5, None])
@pytest.mark.parametrize("space", ["user", "global_"])
def test_a_name_a_template_could_not_use_is_refused(space: str, name: Any) -> None:
    """In both namespaces a user can write."""
    with pytest.raises(SpecError, match="want letters, digits and '_'"):
        VariableBundle(**{space: {name: 1}})


@given(BUNDLES, BUNDLES)
def test_the_childs_user_wins_and_the_parents_global_wins(
    parent: VariableBundle, child: VariableBundle
) -> None:
    """User is overridden on the way down; Global comes from above; Internal is one's own."""
    given_down = parent.for_child(child, {"id": "x"})
    assert given_down.user == parent.user | child.user
    assert given_down.global_ == child.global_ | parent.global_
    assert given_down.internal == {"id": "x"}


@given(BUNDLES, BUNDLES, BUNDLES)
def test_inheriting_in_one_step_or_two_is_the_same(
    a: VariableBundle, b: VariableBundle, c: VariableBundle
) -> None:
    """A grandchild sees what it would see if its parent's bundle were merged first."""
    two_steps = a.for_child(b, {}).for_child(c, {})
    one_step = a.for_child(b.for_child(c, {}), {})
    assert two_steps == one_step


def test_nothing_is_shared_with_the_parent_or_the_childs_spec() -> None:
    """A child that changes a list it was given changes its own."""
    parent = VariableBundle(user={"hosts": ["a"]}, global_={"g": {"deep": [1]}})
    child = VariableBundle(user={"own": {"k": []}})
    got = parent.for_child(child, {})
    got.user["hosts"].append("b")
    got.global_["g"]["deep"].append(2)
    got.user["own"]["k"].append(3)
    assert parent == VariableBundle(user={"hosts": ["a"]}, global_={"g": {"deep": [1]}})
    assert child == VariableBundle(user={"own": {"k": []}})


def test_an_unset_internal_is_not_written() -> None:
    """Of what a user wrote, only user and global variables are written back."""
    bundle = VariableBundle(user={"a": 1}, global_={"b": 2})
    assert msgspec.json.decode(msgspec.json.encode(bundle)) == {
        "user": {"a": 1},
        "global": {"b": 2},
    }


# --- locations ------------------------------------------------------------------------------

PARTS = st.sampled_from(["", "ACME", "Factory-1", "Line_A", "ü"])
LOCATIONS = st.builds(Location, *[PARTS] * 5)
POLICIES: list[GapPolicy] = ["skip", "unknown_between", "unknown_all"]


@pytest.mark.parametrize(
    ("parent", "child", "skip", "between", "every"),
    [
        (Location("ACME", "Factory-1"), Location(line="Line-A", cell="Cell-5"),
         "ACME.Factory-1.Line-A.Cell-5", "ACME.Factory-1.unknown.Line-A.Cell-5",
         "ACME.Factory-1.unknown.Line-A.Cell-5"),
        (Location("ACME"), Location(area="Assembly"), "ACME.Assembly", "ACME.unknown.Assembly",
         "ACME.unknown.Assembly.unknown.unknown"),
        (Location("ACME"), Location(cell="C"), "ACME.C", "ACME.unknown.unknown.unknown.C",
         "ACME.unknown.unknown.unknown.C"),
        (Location(), Location("ACME"), "ACME", "ACME", "ACME.unknown.unknown.unknown.unknown"),
        (Location("ACME"), Location(), "ACME", "ACME", "ACME.unknown.unknown.unknown.unknown"),
        (Location(), Location(), "", "", "unknown.unknown.unknown.unknown.unknown"),
        (Location("ACME", line="A"), Location(line="B"), "ACME.B", "ACME.unknown.unknown.B",
         "ACME.unknown.unknown.B.unknown"),
    ],
)  # fmt: skip
def test_paths_by_example(
    parent: Location, child: Location, skip: str, between: str, every: str
) -> None:
    """Merged parent and child, under each of the three gap policies."""
    merged = parent.merge(child)
    assert [merged.path(gaps) for gaps in POLICIES] == [skip, between, every]
    assert merged.path() == skip


@given(LOCATIONS, LOCATIONS)
def test_on_a_level_both_give_the_child_wins(parent: Location, child: Location) -> None:
    """And on a level only one gives, that one."""
    before = (parent.levels(), child.levels())
    merged = parent.merge(child)
    for above, below, got in zip(parent.levels(), child.levels(), merged.levels(), strict=True):
        assert got == (below or above)
    assert (parent.levels(), child.levels()) == before


@given(LOCATIONS, LOCATIONS, LOCATIONS)
def test_merging_may_be_grouped_as_one_likes(a: Location, b: Location, c: Location) -> None:
    """Associative, with the empty location as neutral element, and idempotent."""
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(Location()) == Location().merge(a) == a.merge(a) == a


@given(LOCATIONS)
def test_each_policy_writes_what_is_given_in_order(location: Location) -> None:
    """The policies differ in gaps only."""
    given_levels = [value for value in location.levels() if value]
    for gaps in POLICIES:
        parts = location.path(gaps).split(".") if location.path(gaps) else []
        assert [part for part in parts if part != "unknown"] == given_levels
    assert len(location.path("unknown_all").split(".")) == len(LEVELS)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", ["a.b", "a b", "a\t", "\n", "."])
def test_a_value_that_would_break_the_path_is_refused(level: str, value: str) -> None:
    """Dots and white space separate paths; the level is named."""
    with pytest.raises(SpecError, match=f"location {level} "):
        Location(**{level: value})


def test_levels_are_in_order_whatever_order_they_were_written_in() -> None:
    """A mapping has no order; an unknown level is refused."""
    written = {"cell": "C", "enterprise": "E", "area": "A"}
    assert msgspec.convert(written, Location).path() == "E.A.C"
    with pytest.raises(msgspec.ValidationError, match="building"):
        msgspec.convert({"building": "B"}, Location)
