"""Variables, spec scenarios 37 to 40, 58 and 59: namespaces, what is written, what is shared."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec, check_children
from fsmv2.supervisor.core.variables import DEPTH_MAX, VALUES_MAX, VariableBundle

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("ab"), inside),
    max_leaves=8,
)
SPACES = st.dictionaries(st.sampled_from(["IP", "PORT", "name"]), VALUES, max_size=3)
BUNDLES = st.builds(VariableBundle, user=SPACES, global_=SPACES)


@given(BUNDLES, st.sampled_from(["json", "yaml"]))
def test_user_and_global_survive_a_file_and_internal_is_in_none(
    bundle: VariableBundle, form: str
) -> None:
    """Scenario 37, in both formats; what is read back is what was written."""
    codec: Any = getattr(msgspec, form)
    text = codec.encode(bundle.with_internal({"id": "root/SEEN"}))
    assert b"SEEN" not in text
    assert codec.decode(text, type=VariableBundle) == bundle
    assert codec.decode(text, type=VariableBundle).internal == {}


def test_a_file_cannot_set_internal_variables() -> None:
    """They would be believed."""
    with pytest.raises(msgspec.ValidationError, match="internal"):
        msgspec.json.decode(b'{"internal": {"id": "root"}}', type=VariableBundle)


@given(BUNDLES)
def test_flattened_each_namespace_is_where_templates_look(bundle: VariableBundle) -> None:
    """Scenarios 38 and 39: user at top level, the others below; also when they are empty."""
    flat = bundle.with_internal({"id": "root/a"}).flatten()
    assert {name: flat[name] for name in bundle.user} == bundle.user
    assert flat["global"] == bundle.global_
    assert flat["internal"] == {"id": "root/a"}


@pytest.mark.parametrize("name", ["global", "internal", "location_path"])
def test_a_reserved_name_is_refused_in_a_file_too(name: str) -> None:
    """Scenario 40 as decided: refused with the name, where the original dropped it in silence."""
    with pytest.raises((SpecError, msgspec.ValidationError), match=f"'{name}': the name is reserv"):
        msgspec.convert({"user": {name: 1}}, VariableBundle)
    assert VariableBundle(global_={name: 1}).global_ == {name: 1}


def _holders(value: Any) -> list[int]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [id(value)] if isinstance(value, dict | list) else []
    return own + [found for item in inside for found in _holders(item)]


@given(BUNDLES, BUNDLES)
def test_what_a_child_inherits_shares_no_container_with_anybody(
    parent: VariableBundle, child: VariableBundle
) -> None:
    """Scenario 59: whatever a child does to its bundle, nobody else's changes."""
    got = parent.for_child(child, {})
    theirs = {
        one for b in (parent, child) for space in (b.user, b.global_) for one in _holders(space)
    }
    mine = _holders(got.user) + _holders(got.global_)
    assert not theirs & set(mine)
    assert len(mine) == len(set(mine))


@given(BUNDLES, BUNDLES)
def test_what_is_known_already_is_not_copied(parent: VariableBundle, child: VariableBundle) -> None:
    """The very same bundle comes back; with another Internal it is a new one."""
    known = parent.for_child(child, {"id": "a"})
    assert parent.for_child(child, {"id": "a"}, known=known) is known
    assert parent.for_child(child, {"id": "b"}, known=known).internal == {"id": "b"}


def test_types_survive_inheritance() -> None:
    """Tuples stay tuples, dates dates, secrets secrets."""
    user = {"t": (1, [2]), "d": datetime.date(2025, 11, 2), "s": Secret("hunter22"), "b": True}
    got = VariableBundle(user=user).for_child(VariableBundle(), {}).user
    assert got == user
    assert [type(value) for value in got.values()] == [type(value) for value in user.values()]


class Odd:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = None  # type: ignore[assignment]


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _shared(levels: int) -> Any:
    value: Any = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def _endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Odd(), "got Odd, want text, numbers"),
        ([{"k": Odd()}], "got Odd, want text, numbers"),
        (iter([1]), "want text, numbers"),
        ({Odd: 1}, "a key of type type"),
        (_nested(DEPTH_MAX + 1), f"deeper than {DEPTH_MAX}"),
        (list(range(VALUES_MAX)), f"over {VALUES_MAX} values"),
        (_shared(40), f"over {VALUES_MAX} values"),
        (_endless(), f"deeper than {DEPTH_MAX}"),
    ],
    ids=["object", "inside", "iterator", "key", "deep", "many", "shared", "endless"],
)
@pytest.mark.parametrize("space", ["user", "global_"])
def test_a_value_that_is_no_plain_data_is_refused_with_its_place(
    space: str, value: Any, told: str
) -> None:
    """Such a value would be compared and copied in the tick: its code could raise there, and a
    list that holds itself twice on each of 40 levels would be compared for hours."""
    spec = ChildSpec("a", "quiet", UserSpec(variables=VariableBundle(**{space: {"IP": value}})))
    with pytest.raises(SpecError) as caught:
        check_children((spec,), {"quiet"}, "root")
    where = f"root: children[0]: (a) cannot use {space.rstrip('_')} variable 'IP': "
    assert where in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("bundle", [None, {"IP": 1}, VariableBundle(user=["IP"])])  # type: ignore[arg-type]
def test_variables_that_are_no_bundle_are_refused(bundle: Any) -> None:
    """Worker code builds specs, and nothing has checked its types."""
    with pytest.raises(SpecError, match=r"children\[0\].*variables"):
        check_children((ChildSpec("a", "quiet", UserSpec({}, bundle)),), {"quiet"}, "root")
