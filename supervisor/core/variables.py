"""The three namespaces of variables: User, Global, Internal.

Knows: how they merge from parent to child and how templates see them.
Does not know: templates, nodes.
Invariants: merging copies deeply, and only what has changed; values are plain data of a bounded
size, so that comparing and copying them runs nobody's code and ends; Internal is never
serialised; a User variable may not take a reserved name.
Source: fsmv2-behaviour.md §1.8 and its decisions.
"""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.same import same
from fsmv2.supervisor.core.secret import Secret

RESERVED = ("global", "internal", "location_path")
VALUES_MAX = 10_000
DEPTH_MAX = 32
_SCALARS = (str, int, float, bool, bytes, type(None), datetime.date, datetime.time, Secret)
_COMPARED = (*_SCALARS, datetime.datetime)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class VariableBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True, eq=False):
    """User variables are seen at top level, Global under ``global.``, Internal under
    ``internal.``. Internal is no field: the framework sets it (`with_internal`), nobody can write
    it in a file, and it stays out of every serialised form."""

    user: dict[str, Any] = msgspec.field(default_factory=dict)
    global_: dict[str, Any] = msgspec.field(default_factory=dict, name="global")

    def __post_init__(self) -> None:
        faults = name_faults(self.user, "user variable", RESERVED)
        faults += name_faults(self.global_, "global variable", ())
        if faults:
            raise SpecError("; ".join(faults))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VariableBundle):
            return NotImplemented
        return (self.user, self.global_, self.internal) == (
            other.user,
            other.global_,
            other.internal,
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def internal(self) -> Mapping[str, Any]:
        """What the framework knows of the worker: id, parent_id, location, …"""
        found: Mapping[str, Any] = self.__dict__.get("_internal", {})
        return found

    def with_internal(self, internal: Mapping[str, Any]) -> VariableBundle:
        """This bundle with that Internal namespace."""
        bundle = copy.copy(self)  # checked already
        bundle.__dict__["_internal"] = dict(internal)
        return bundle

    def flatten(self) -> dict[str, Any]:
        """The names a template sees. ``global`` and ``internal`` are always there, so that
        strict mode can name the missing leaf."""
        flat = dict(self.user)
        flat["global"] = self.global_
        flat["internal"] = self.internal
        flat["location_path"] = self.internal.get("location_path", "")
        return flat

    def for_child(
        self,
        child: VariableBundle,
        internal: Mapping[str, Any],
        known: VariableBundle | None = None,
    ) -> VariableBundle:
        """This bundle as a child inherits it: the child's User wins over the parent's, Global
        comes from above, Internal is the child's own. Nothing is shared with either. If that is
        what is ``known`` already, that very bundle, and nothing is copied."""
        user = {**self.user, **child.user}
        global_ = {**child.global_, **self.global_}
        if known is not None and same(
            [user, global_, internal], [known.user, known.global_, known.internal]
        ):
            return known
        bundle = VariableBundle(user=_copied(user), global_=_copied(global_))
        bundle.__dict__["_internal"] = dict(internal)
        return bundle


def _copied(value: Any) -> Any:
    """A deep copy; several times faster on plain data than `copy.deepcopy`."""
    kind = type(value)
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    if kind is tuple:
        return tuple(_copied(item) for item in value)
    return value if isinstance(value, _SCALARS) else copy.deepcopy(value)


def check_values(bundle: VariableBundle) -> None:
    """Raise `SpecError` unless all values are plain data, written out not too much of it."""
    left = VALUES_MAX
    for names, what in ((bundle.user, "user"), (bundle.global_, "global")):
        if type(names) is not dict:
            raise SpecError(f"cannot use {what} variables: got {type(names).__name__}, want dict")
        for name, value in names.items():
            if type(name) is not str:
                raise SpecError(f"cannot use a {what} variable's name: got {type(name).__name__}")
            left -= _count(value, f"{what} variable {name!r}", left, 0)


def _count(value: Any, place: str, most: int, depth: int) -> int:
    if most <= 0 or depth > DEPTH_MAX:
        raise SpecError(
            f"cannot use {place}: got over {VALUES_MAX} values, or nested deeper than {DEPTH_MAX}"
        )
    kind: Any = type(value)
    if _is_scalar(kind):
        return 1
    inside: Iterable[Any]
    if type(value) is dict:
        kinds: set[Any] = {*map(type, value)}
        odd = next((kind for kind in kinds if not _is_scalar(kind)), None)
        if odd is not None:
            raise SpecError(f"cannot use {place}: got a key of type {odd.__name__}")
        inside = value.values()
    elif type(value) in (list, tuple):
        inside = value
    else:
        raise SpecError(
            f"cannot use {place}: got {type(value).__name__}, want text, numbers, dates, "
            "Secret, lists and mappings of them"
        )
    count = 1
    for item in inside:
        count += _count(item, place, most - count, depth + 1)
    return count


@lru_cache(maxsize=256)
def _is_scalar(kind: type) -> bool:
    """Whether values of ``kind`` are plain, and are compared without code of their own: so are an
    enumeration's texts and numbers."""
    return any(
        issubclass(kind, plain) and kind.__eq__ is plain.__eq__ and kind.__hash__ is plain.__hash__
        for plain in _COMPARED
    )


def name_faults(names: Mapping[str, Any], what: str, reserved: tuple[str, ...]) -> list[str]:
    """Each name that a template could not use, or that is taken, in words."""
    faults = []
    for name in names:
        if name in reserved:
            want = f"the name is reserved, want any but {', '.join(reserved)}"
        elif not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            want = "want letters, digits and '_', not beginning with a digit"
        else:
            continue
        faults.append(f"cannot use {what} {name!r}: {want}")
    return faults
