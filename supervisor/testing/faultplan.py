"""Which faults a simulation has, how often, and when.

Knows: the kinds of faults and their rates.
Does not know: what each does: `SimPool` and `Simulation` carry them out.
Invariants: I10, all chance comes from a generator the caller has seeded; an unknown fault is
refused.
"""

from __future__ import annotations

import random

import msgspec

from fsmv2.supervisor.core.errors import SpecError

# In this order one of them is drawn for an attempt that begins.
OF_ATTEMPTS = (
    "dies_before", "dies_during", "dies_after", "result_lost", "garbled", "hangs", "late",
)  # fmt: skip
OF_RESULTS = ("twice", "stale")
OF_THE_WORLD = ("spawn_fails", "spike", "respec", "vanish", "shutdown")


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All zero: no faults. Probabilities from 0 to 1.

    Of each attempt that begins:

    - ``dies_before``: its proc dies, and the attempt had not begun: it begins elsewhere.
    - ``dies_during``: its proc dies under it, nothing was done.
    - ``dies_after``: its proc dies right after the result has come.
    - ``result_lost``: its proc dies after the work, before the result.
    - ``garbled``: after the work come bytes that are no frame.
    - ``hangs``: it does not end by itself.
    - ``late``: it answers when its time is up, while it is being killed.

    Of each result:

    - ``twice``: it comes twice.
    - ``stale``: one that was given long ago, maybe to an incarnation that is gone, comes again.

    Of each simulated second:

    - ``spawn_fails``: no proc can be started for a while.
    - ``spike``: the machine's readings are bad for a while.
    - ``respec``: a child of the root gets another spec.
    - ``vanish``: a child of the root is not declared for a while.
    - ``shutdown``: the whole tree is asked to stop.

    ``outage_s`` is the longest such while in seconds. ``at`` are pairs of seconds since the start
    and a fault's name, for faults that are to happen once; one of an attempt or a result meets
    the next there is.
    """

    dies_before: float = 0.0
    dies_during: float = 0.0
    dies_after: float = 0.0
    result_lost: float = 0.0
    garbled: float = 0.0
    hangs: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    stale: float = 0.0
    spawn_fails: float = 0.0
    spike: float = 0.0
    respec: float = 0.0
    vanish: float = 0.0
    shutdown: float = 0.0
    outage_s: float = 5.0
    at: tuple[tuple[float, str], ...] = ()

    def __post_init__(self) -> None:
        for name in FAULTS:
            rate: object = getattr(self, name)
            if not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise SpecError(f"cannot plan faults: {name} is {rate!r}, want 0 to 1")
        for moment, name in self.at:
            if name not in FAULTS or not moment >= 0:
                raise SpecError(
                    f"cannot plan faults: at has {(moment, name)!r}, want seconds from 0 and one "
                    f"of {', '.join(FAULTS)}"
                )

    @classmethod
    def drawn(cls, chance: random.Random) -> FaultPlan:
        """Some faults, others not, each more or less often."""
        rates = {name: chance.choice((0.0, 0.0, 0.02, 0.1)) for name in FAULTS}
        rates["shutdown"] = chance.choice((0.0, 0.0, 0.02))
        return msgspec.convert({"outage_s": chance.choice((1.0, 5.0, 20.0)), **rates}, cls)

    def of(self, names: tuple[str, ...], chance: random.Random) -> str | None:
        """At most one fault among ``names``."""
        for name in names:
            rate = getattr(self, name)
            if rate and chance.random() < rate:
                return name
        return None


FAULTS = (*OF_ATTEMPTS, *OF_RESULTS, *OF_THE_WORLD)
CALM = FaultPlan()
