"""The diff of children: applying it gives what is declared; nothing to do gives nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.reconcile import Add, Present, Remove, Replace, Update, diff_children
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec, start_order


def child(name: str, *needs: str, **fields: Any) -> ChildSpec:
    return ChildSpec(name, fields.pop("worker_type", "lamp"), depends_on=needs, **fields)


def present(*specs: ChildSpec) -> dict[str, Present]:
    return {spec.name: Present(spec) for spec in specs}


@st.composite
def declarations(draw: st.DrawFn) -> list[ChildSpec]:
    """A valid set of children of two types, with some dependencies and some configs."""
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
    specs = [
        child(
            name,
            *draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=2) if i else
                  st.just([])),
            worker_type=draw(st.sampled_from(["lamp", "fan"])),
            user_spec=UserSpec({"n": draw(st.integers(0, 1))}),
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    return draw(st.permutations(specs))


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Present]:
    """Children as they may be found: some on their way out, some of those with a successor."""
    found = {}
    for spec in draw(declarations()):
        leaving = draw(st.booleans())
        changed = child(spec.name, *spec.depends_on, worker_type="fan")
        after = draw(st.sampled_from([None, spec, changed])) if leaving else None
        found[spec.name] = Present(spec, leaving, after)
    return found


def apply(found: dict[str, Present], operations: tuple[Any, ...]) -> dict[str, Present]:
    """What the engine makes of the operations, as one step."""
    after = dict(found)
    for operation in operations:
        match operation:
            case Add(spec):
                assert spec.name not in after
                after[spec.name] = Present(spec)
            case Update(spec):
                assert not after[spec.name].leaving
                after[spec.name] = Present(spec)
            case Replace(spec):
                after[spec.name] = Present(after[spec.name].spec, True, spec)
            case Remove(name):
                after[name] = Present(after[name].spec, True)
    return after


def settle(found: dict[str, Present]) -> dict[str, ChildSpec]:
    """Everybody who leaves is gone, and a successor stands in its place."""
    settled = {}
    for name, one in found.items():
        spec = one.successor if one.leaving else one.spec
        if spec is not None:
            settled[name] = spec
    return settled


@given(situations(), declarations())
def test_applying_the_operations_gives_what_is_declared(
    found: dict[str, Present], declared: list[ChildSpec]
) -> None:
    """Wherever we come from, the children end up as the declared ones."""
    after = apply(found, diff_children(found, declared))
    assert settle(after) == {spec.name: spec for spec in declared}


@given(situations(), declarations())
def test_a_second_diff_has_nothing_to_do(
    found: dict[str, Present], declared: list[ChildSpec]
) -> None:
    """Level-triggered: what has been ordered is not ordered again."""
    after = apply(found, diff_children(found, declared))
    assert diff_children(after, declared) == ()


@given(situations(), declarations())
def test_an_operation_names_one_child_and_a_child_has_one_operation(
    found: dict[str, Present], declared: list[ChildSpec]
) -> None:
    """No child is touched twice."""
    names = [
        operation.name if isinstance(operation, Remove) else operation.spec.name
        for operation in diff_children(found, declared)
    ]
    assert len(names) == len(set(names))


@given(situations(), declarations())
def test_additions_come_last_and_in_start_order_removals_in_reverse(
    found: dict[str, Present], declared: list[ChildSpec]
) -> None:
    """I8: what others need starts first and stops last."""
    operations = diff_children(found, declared)
    kinds = [isinstance(operation, Add) for operation in operations]
    assert kinds == sorted(kinds)
    order = start_order(declared)
    added = [operation.spec.name for operation in operations if isinstance(operation, Add)]
    assert added == sorted(added, key=order.index)
    down = start_order([one.spec for one in found.values()])[::-1]
    removed = [operation.name for operation in operations if isinstance(operation, Remove)]
    assert removed == sorted(removed, key=down.index)


@pytest.mark.parametrize(
    "change",
    [
        {"user_spec": UserSpec({"n": 1})},
        {"state_mapping": {"on": "up"}},
        {"enabled": False},
        {"shutdown_timeout_s": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_these_changes_are_made_in_place(change: dict[str, Any]) -> None:
    """The child goes on living."""
    new = child("a", **change)
    assert diff_children(present(child("a")), [new]) == (Update(new),)


@pytest.mark.parametrize(
    "new", [child("a", worker_type="fan"), child("a", "b")], ids=["type", "dependencies"]
)
def test_these_changes_need_a_new_start(new: ChildSpec) -> None:
    """A new type cannot be given to a living worker."""
    found = present(child("b"), child("a"))
    assert diff_children(found, [child("b"), new]) == (Replace(new),)


def test_a_child_that_leaves_is_left_alone() -> None:
    """It has been told once, and nobody wants it back."""
    assert diff_children({"a": Present(child("a"), leaving=True)}, []) == ()


def test_a_child_declared_again_while_it_leaves_finishes_leaving_first() -> None:
    """Its successor is noted once."""
    leaving = {"a": Present(child("a"), leaving=True)}
    assert diff_children(leaving, [child("a")]) == (Replace(child("a")),)
    noted = {"a": Present(child("a"), leaving=True, successor=child("a"))}
    assert diff_children(noted, [child("a")]) == ()


def test_a_successor_that_is_not_wanted_any_more_is_forgotten() -> None:
    """Declared, taken back, declared, taken back: the last word counts."""
    noted = {"a": Present(child("a"), leaving=True, successor=child("a"))}
    assert diff_children(noted, []) == (Remove("a"),)


def test_a_successor_gets_the_newest_spec() -> None:
    """Not the one that was declared first."""
    noted = {"a": Present(child("a"), leaving=True, successor=child("a"))}
    newest = child("a", user_spec=UserSpec({"n": 2}))
    assert diff_children(noted, [newest]) == (Replace(newest),)
