"""The difference between the children there are and the children there should be.

Knows: specs, which change can be made in place.
Does not know: nodes, workers, time.
Invariants: I8, additions come in start order, removals in its reverse; identical inputs give
no operation; an operation names exactly one child.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fsmv2.supervisor.core.same import same
from fsmv2.supervisor.core.spec import ChildSpec, start_order


class Present(msgspec.Struct, frozen=True):
    """A child that exists: its spec, and whether it is on its way out already."""

    spec: ChildSpec
    leaving: bool = False
    successor: ChildSpec | None = None


class Add(msgspec.Struct, frozen=True):
    """Start this child."""

    spec: ChildSpec


class Update(msgspec.Struct, frozen=True):
    """Give this child its new spec in place."""

    spec: ChildSpec


class Replace(msgspec.Struct, frozen=True):
    """Stop this child (if it is not leaving already), then start it anew from this spec."""

    spec: ChildSpec


class Remove(msgspec.Struct, frozen=True):
    """Stop this child and drop it; forget any successor it was to have."""

    name: str


Operation = Add | Update | Replace | Remove


def diff_children(
    present: Mapping[str, Present], declared: Sequence[ChildSpec]
) -> tuple[Operation, ...]:
    """What to do, in order: removals, replacements and updates, additions.

    A new worker type or new dependencies replace the child; everything else is updated in
    place. A child that is declared again while it leaves finishes leaving first.
    """
    wanted = {spec.name: spec for spec in declared}
    operations: list[Operation] = []
    for name in reversed(start_order([child.spec for child in present.values()])):
        child = present[name]
        if name not in wanted and (not child.leaving or child.successor is not None):
            operations.append(Remove(name))
    for name in start_order(declared):
        spec = wanted[name]
        old = present.get(name)
        if old is None:
            operations.append(Add(spec))
        elif old.leaving:
            if old.successor is None or not same_spec(old.successor, spec):
                operations.append(Replace(spec))
        elif not same_spec(spec, old.spec):
            operations.append(Update(spec) if in_place(old.spec, spec) else Replace(spec))
    return tuple(sorted(operations, key=lambda op: isinstance(op, Add)))


def same_spec(one: ChildSpec, other: ChildSpec) -> bool:
    """Whether two specs say the same. Only what has no type of its own is compared in type."""
    if one is other:
        return True
    try:
        if one != other:
            return False
    except BaseException:  # a value of a config compares by code of its own
        return False
    mine, theirs = one.user_spec, other.user_spec
    return same(mine.config, theirs.config) and same(mine.variables, theirs.variables)


def in_place(old: ChildSpec, new: ChildSpec) -> bool:
    """Whether a child with the spec ``old`` can be given ``new`` without a new start."""
    return old.worker_type == new.worker_type and old.depends_on == new.depends_on
