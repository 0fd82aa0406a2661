"""How a pool treats its procs: the options of `Pool`, with their defaults.

Knows: names, defaults, what each means.
Does not know: what is done about them, the config file's own ranges.
Invariants: frozen; an unknown option is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.quarantine import QuarantineRules
from fsmv2.supervisor.core.recycling import Recycling
from fsmv2.supervisor.pool.lanes import QUARANTINE

# Short actions with one proc at a time.
PIPELINE = 64

StartMethod = Literal["auto", "template", "spawn"]


class PoolOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a pool treats its procs.

    ``spares`` warm procs wait to take a killed one's place. ``queue`` actions may wait in a lane.
    ``pipeline`` short actions at most are with one proc at a time, the others waiting in its
    pipe, as many as take some 15 ms (1: none waits there). ``starts_per_s`` procs are started a
    second in the long run. A result of more than ``result_bytes_max`` encoded bytes is a failure.
    ``preload`` are modules the template imports before it forks, ``search`` folders it finds them
    in. ``graces`` replaces `Action.grace_s` of action types, by ``module:name``. ``never_apart``
    are types, by ``module:name``, that no row of deaths puts into quarantine: who asks for them
    waits by himself, for each key.
    """

    spares: int = 1
    queue: int = 1_000
    pipeline: int = PIPELINE
    starts_per_s: float = 100.0
    result_bytes_max: int = 256 << 20
    recycling: Recycling = Recycling()
    quarantine: QuarantineRules | None = None
    start_method: StartMethod = "auto"
    preload: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    graces: dict[str, float] = {}
    never_apart: frozenset[str] = frozenset()


def check_lane_names(lanes: Iterable[str]) -> None:
    """Raises `SpecError` for a name that no lane can have."""
    if QUARANTINE in lanes:
        raise SpecError(f"cannot make a lane called {QUARANTINE!r}: the pool has one of its own")
