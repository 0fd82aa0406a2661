"""Refuses a child that would declare itself again, and so on without end.

Knows: what decides what a worker derives: its type, its config, its variables.
Does not know: nodes, config files.
Invariants: the same rule for a tree that runs and for one that is only checked; the error names
the whole circle. The declarations are checked already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.same import same
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.variables import VariableBundle


class Declarer(NamedTuple):
    """A worker on the way from the top to the children that are declared."""

    name: str
    worker_type: str
    config: dict[str, Any] | str
    variables: VariableBundle

    def __str__(self) -> str:
        return f"{self.name} ({self.worker_type})"


def check_no_circle(lineage: Sequence[Declarer], declared: Sequence[ChildSpec]) -> None:
    """Raise `SpecError` for a child that would derive what one of its ancestors has derived: same
    worker type, same config, same variables. ``lineage`` ends with the worker that declares."""
    above: dict[str, list[int]] = {}
    for depth, ancestor in enumerate(lineage):
        above.setdefault(ancestor.worker_type, []).append(depth)
    for index, spec in enumerate(declared):
        for depth in reversed(above.get(spec.worker_type, ())):
            ancestor = lineage[depth]
            if not same(ancestor.config, spec.user_spec.config):
                continue
            inherited = lineage[-1].variables.for_child(spec.user_spec.variables, {})
            given = ancestor.variables
            if same(inherited.user, given.user) and same(inherited.global_, given.global_):
                chain = " -> ".join(map(str, lineage[depth:]))
                raise SpecError(
                    f"children[{index}]: declared in a circle: {chain} -> "
                    f"{spec.name} ({spec.worker_type}), want a worker type, config or variables "
                    "that no worker above has"
                )
