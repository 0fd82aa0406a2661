"""Locations, spec scenarios 49 to 54: merging, paths and gaps hold for all of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.config.config import load_text
from fsmv2.supervisor.config.configfault import ConfigError
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.location import (
    LEGACY_LEVELS,
    LEVELS,
    GapPolicy,
    Location,
    standard_levels,
)

WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Z"), exclude_characters="."),
                min_size=1, max_size=4).filter(lambda text: text != "unknown")  # fmt: skip
LEVEL = st.just("") | WORDS
LOCATIONS = st.builds(Location, *[LEVEL] * 5)
WHOLE = st.builds(Location, *[WORDS] * 5)
POLICIES: tuple[GapPolicy, ...] = ("skip", "unknown_between", "unknown_all")


def test_a_bridge_below_a_site_has_the_path_of_the_spec() -> None:
    """Scenarios 49, 50 and 54, the examples of the ticket."""
    site, bridge = Location("ACME", "Factory-1"), Location(line="Line-A", cell="Cell-5")
    assert site.merge(bridge).path("skip") == "ACME.Factory-1.Line-A.Cell-5"
    assert site.merge(bridge).path("unknown_between") == "ACME.Factory-1.unknown.Line-A.Cell-5"
    assert Location("ACME", area="Assembly").path("unknown_between") == "ACME.unknown.Assembly"
    assert Location("ACME", cell="C").levels() == ("ACME", "", "", "", "C")


@given(WHOLE)
def test_a_path_read_back_is_the_location_it_was_written_from(location: Location) -> None:
    """No value can hold what separates levels."""
    for gaps in POLICIES:
        assert Location(*location.path(gaps).split(".")) == location


@given(LOCATIONS)
def test_with_all_gaps_written_a_path_reads_back_too(location: Location) -> None:
    """Five parts, whatever is given."""
    parts = location.path("unknown_all").split(".")
    assert Location(*("" if part == "unknown" else part for part in parts)) == location


@given(LOCATIONS)
def test_gaps_are_invented_only_above_something_given(location: Location) -> None:
    """Scenario 50: nothing follows the deepest level, and each policy is the shorter's part."""
    between = location.path("unknown_between")
    assert not between.endswith("unknown")
    assert location.path("unknown_all").startswith(between)
    known = [part for part in between.split(".") if part != "unknown"]
    assert ".".join(known) == location.path("skip")


@given(st.lists(LOCATIONS, max_size=5))
def test_down_a_tree_the_deepest_value_of_each_level_counts(chain: list[Location]) -> None:
    """Scenarios 51 and 52, for a tree of any depth; what was merged is as it was."""
    before = [one.levels() for one in chain]
    merged = Location()
    for one in chain:
        merged = merged.merge(one)
    for level in LEVELS:
        values = [getattr(one, level) for one in chain if getattr(one, level)]
        assert getattr(merged, level) == (values[-1] if values else "")
    assert [one.levels() for one in chain] == before


@given(LOCATIONS)
def test_a_location_survives_a_file(location: Location) -> None:
    """Written without its gaps."""
    written = msgspec.to_builtins(location)
    assert "" not in written.values()
    assert msgspec.convert(written, Location) == location


# --- 53: older names ---------------------------------------------------------------------


@given(LOCATIONS, st.permutations(LEVELS), st.sets(st.sampled_from(sorted(LEGACY_LEVELS))))
def test_older_names_and_any_order_give_the_same_location(
    location: Location, order: list[str], older: set[str]
) -> None:
    """Scenario 53; the mapping given is not changed."""
    names = {LEGACY_LEVELS[old]: old for old in older}
    written = {names.get(level, level): getattr(location, level) for level in order}
    before = dict(written)
    assert msgspec.convert(standard_levels(written), Location) == location
    assert written == before


def test_a_level_under_both_names_is_refused() -> None:
    """Either could be meant."""
    with pytest.raises(SpecError, match="got productionLine and line, want one of them"):
        standard_levels({"line": "A", "productionLine": "B"})


CONFIG = """
name: site
location: {enterprise: ACME, %s}
workers:
  - {name: a, type: quiet, location: {%s}}
"""


def test_a_config_may_use_older_level_names() -> None:
    """At the root and at a worker."""
    settings = load_text(CONFIG % ("productionLine: Line-A", "workCell: Cell-5"), "yaml")
    merged = settings.location.merge(settings.workers[0].location)
    assert merged == Location("ACME", line="Line-A", cell="Cell-5")


@pytest.mark.parametrize(
    ("root", "worker", "place", "told"),
    [
        ("building: B", "cell: C", "location", "building"),
        ("site: S", "workcell: C", "workers[0].location", "workcell"),
        ("site: S", "cell: C, workCell: D", "workers[0].location", "workCell and cell"),
        ("line: A.B", "cell: C", "location", "no '.'"),
    ],
)
def test_what_is_no_level_is_refused_with_its_place(
    root: str, worker: str, place: str, told: str
) -> None:
    """Unknown, misspelt, given twice, or with a value that would break the path."""
    with pytest.raises(ConfigError) as caught:
        load_text(CONFIG % (root, worker), "yaml")
    [fault] = caught.value.faults
    assert fault.path.startswith(place)
    assert told in str(caught.value)


@pytest.mark.parametrize("value", [5, None, ["a"], {"a": 1}])
def test_a_level_is_text(value: Any) -> None:
    """A number or a list is refused when it is read."""
    with pytest.raises(msgspec.ValidationError, match="str"):
        msgspec.convert({"cell": value}, Location)
