"""The three namespaces of variables: User, Global, Internal.

Knows: how they merge from parent to child and how templates see them.
Does not know: templates, nodes.
Invariants: merging copies deeply; Internal is never serialised; a User variable may not take a
reserved name. Source: fsmv2-behaviour.md §1.8 and its decisions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fsmv2.supervisor.core.errors import SpecError

RESERVED = ("global", "internal", "location_path")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class VariableBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True, eq=False):
    """User variables are seen at top level, Global under ``global.``, Internal under
    ``internal.``. Internal is no field: the framework sets it (`with_internal`), nobody can write
    it in a file, and it stays out of every serialised form."""

    user: dict[str, Any] = msgspec.field(default_factory=dict)
    global_: dict[str, Any] = msgspec.field(default_factory=dict, name="global")

    def __post_init__(self) -> None:
        check_variables(self.user, "user variable", RESERVED)
        check_variables(self.global_, "global variable", ())

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
        bundle = VariableBundle(user=self.user, global_=self.global_)
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

    def for_child(self, child: VariableBundle, internal: Mapping[str, Any]) -> VariableBundle:
        """This bundle as a child inherits it: the child's User wins over the parent's, Global
        comes from above, Internal is the child's own. Nothing is shared with either."""
        return VariableBundle(
            user=copy.deepcopy({**self.user, **child.user}),
            global_=copy.deepcopy({**child.global_, **self.global_}),
        ).with_internal(internal)


def check_variables(names: Mapping[str, Any], what: str, reserved: tuple[str, ...]) -> None:
    """Raise `SpecError` for a name a template could not use, or one that is taken."""
    for name in names:
        if name in reserved:
            raise SpecError(
                f"cannot use {what} {name!r}: the name is reserved, want any but "
                f"{', '.join(reserved)}"
            )
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            raise SpecError(
                f"cannot use {what} {name!r}: want letters, digits and '_', not beginning "
                "with a digit"
            )
