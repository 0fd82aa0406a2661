"""ISA-95 locations: enterprise, site, area, line, cell.

Knows: the levels, how a child's merges with its parent's, how a path is written.
Does not know: templates, nodes.
Invariants: merging never changes its inputs; unknown levels and values with '.' or white
space are refused; a level has one name, the older ones are read and never written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.words import plain_text

GapPolicy = Literal["skip", "unknown_between", "unknown_all"]
LEVELS = ("enterprise", "site", "area", "line", "cell")
LEGACY_LEVELS = {"productionLine": "line", "workCell": "cell"}
_UNUSABLE = re.compile(r"[.\s]")


class Location(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where something stands. An empty string means: not given at this level."""

    enterprise: str = ""
    site: str = ""
    area: str = ""
    line: str = ""
    cell: str = ""

    def __post_init__(self) -> None:
        for level, value in zip(LEVELS, self.levels(), strict=True):
            if _UNUSABLE.search(value):
                raise SpecError(
                    f"cannot use location {level} {value!r}: want no '.' and no white space"
                )
            if type(value) is not str:  # a subclass may compare by code of its own
                msgspec.structs.force_setattr(self, level, plain_text(value))

    def levels(self) -> tuple[str, str, str, str, str]:
        """The five values from the top."""
        return (self.enterprise, self.site, self.area, self.line, self.cell)

    def merge(self, child: Location) -> Location:
        """This location with the child's on top: on a level both give, the child wins."""
        if child == _NOWHERE:
            return self  # most children: they say nothing of their own
        pairs = zip(self.levels(), child.levels(), strict=True)
        return Location(*(below or above for above, below in pairs))

    def path(self, gaps: GapPolicy = "skip") -> str:
        """The levels joined by '.'. A missing level is left out (``skip``), written "unknown"
        where a deeper one is given (``unknown_between``), or always (``unknown_all``)."""
        values = list(self.levels())
        if gaps == "unknown_all":
            return ".".join(value or "unknown" for value in values)
        while values and not values[-1]:
            values.pop()
        if gaps == "unknown_between":
            return ".".join(value or "unknown" for value in values)
        return ".".join(value for value in values if value)


def standard_levels(written: Mapping[str, Any]) -> dict[str, Any]:
    """``written`` with today's level names in the place of older ones; what is no level stays,
    for the reader to refuse. Raises `SpecError` for a level that is given under both names."""
    both = [f"{old} and {new}" for old, new in LEGACY_LEVELS.items() if {old, new} <= {*written}]
    if both:
        raise SpecError(f"cannot use location: got {', '.join(both)}, want one of them")
    return {LEGACY_LEVELS.get(level, level): value for level, value in written.items()}


_NOWHERE = Location()
