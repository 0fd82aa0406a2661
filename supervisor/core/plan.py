"""What a reload will do: two declared trees in, one change per path out.

Knows: declared nodes, which change is made in place, how a change goes down the tree.
Does not know: configs, nodes that run, which values are secret, how a plan is printed.
Invariants: uses the rules reconciling uses, so that a plan is what happens; each path has exactly
one change; parents come before their children.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from fsmv2.supervisor.core.reconcile import in_place, same_spec
from fsmv2.supervisor.core.same import same
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.variables import VariableBundle

Kind = Literal["added", "updated", "replaced", "removed", "untouched"]
KINDS: tuple[Kind, ...] = ("added", "updated", "replaced", "removed", "untouched")


class DeclaredNode(msgspec.Struct, frozen=True):
    """One worker as it would be made: its spec, and the variables it would see. ``hidden`` are
    the texts in it that must not be shown."""

    path: str
    parent: str
    spec: ChildSpec
    variables: VariableBundle
    hidden: tuple[str, ...] = ()


class Difference(msgspec.Struct, frozen=True):
    """One value that changes. ``place`` is inside the worker's spec; UNSET: is not there."""

    place: str
    before: Any
    after: Any


class Change(msgspec.Struct, frozen=True):
    """What becomes of the worker at ``path``, and why."""

    path: str
    kind: Kind
    worker_type: str
    differences: tuple[Difference, ...] = ()
    hidden: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """All changes, in the order of the new tree; then what is removed, children first."""

    changes: tuple[Change, ...]

    def paths(self, kind: Kind) -> tuple[str, ...]:
        """The paths with one kind of change."""
        return tuple(change.path for change in self.changes if change.kind == kind)

    def counts(self) -> dict[str, int]:
        """How many there are of each kind, all kinds named."""
        found: dict[str, int] = dict.fromkeys(KINDS, 0)
        for change in self.changes:
            found[change.kind] += 1
        return found


def plan(before: Sequence[DeclaredNode], after: Sequence[DeclaredNode]) -> Plan:
    """What turns the tree ``before`` into ``after``. In both, parents stand before children."""
    old = {node.path: node for node in before}
    kinds: dict[str, Kind] = {}
    changes: list[Change] = []
    for node in after:
        change = _change(old.get(node.path), node, kinds.get(node.parent))
        kinds[node.path] = change.kind
        changes.append(change)
    changes += [
        Change(node.path, "removed", node.spec.worker_type)
        for node in reversed(before)
        if node.path not in kinds
    ]
    return Plan(tuple(changes))


def _change(old: DeclaredNode | None, new: DeclaredNode, above: Kind | None) -> Change:
    worker_type = new.spec.worker_type
    if old is None:
        return Change(new.path, "added", worker_type)
    found = tuple(differences(_parts(old), _parts(new)))
    hidden = old.hidden + new.hidden
    if above == "replaced" or not in_place(old.spec, new.spec):
        return Change(new.path, "replaced", worker_type, found, hidden)
    if same_spec(old.spec, new.spec) and same_variables(old.variables, new.variables):
        return Change(new.path, "untouched", worker_type)
    return Change(new.path, "updated", worker_type, found, hidden)


def same_variables(one: VariableBundle, other: VariableBundle) -> bool:
    """Whether a worker sees the same variables with both, the Internal ones included."""
    return same(one, other) and same(dict(one.internal), dict(other.internal))


def _parts(node: DeclaredNode) -> dict[str, Any]:
    """What can differ, under the words of a config. A worker's own variables show where its
    bundle has them, with what it inherits."""
    spec = node.spec
    own = ("name", "user_spec", "location")
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__ if name not in own}
    return {
        "config": spec.user_spec.config,
        "variables": node.variables.user,
        "global": node.variables.global_,
        "location": node.variables.internal.get("location", {}),
        "location_path": node.variables.internal.get("location_path", ""),
        **fields,
    }


def differences(before: Any, after: Any) -> list[Difference]:
    """Every value that differs in plain data, each with its place."""
    return list(_differences(before, after, ""))


def _differences(before: Any, after: Any, place: str) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            at = f"{place}.{key}" if place else str(key)
            one, other = before.get(key, msgspec.UNSET), after.get(key, msgspec.UNSET)
            yield from _differences(one, other, at)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{place}[{index}]")
    elif not same(before, after):
        yield Difference(place, before, after)
