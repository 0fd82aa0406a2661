"""Whether a child that has ended comes back, with whom, when, and how often at most.

Theory of operation. An incarnation's end is normal (`Remove`) or abnormal (`Restart`, or dropped
by force on its own way out). The child's restart type says whether that end is one to come back
from; the parent's strategy says which siblings are restarted along; the parent's budget says how
many restarts a sliding window holds. The first restart of a child is at once, each further one in
the window after a growing wait. A restart counts from when it is planned until ``window_s`` after
the moment it was carried out, so that no window ever holds more than the budget.

Knows: the three policies, the restarts planned and carried out.
Does not know: nodes, clocks, who stops or starts anything.
Invariants: I7, no window of ``window_s`` holds more than ``restarts`` restarts; siblings restarted
along cost nothing. Source: Erlang/OTP's supervisor, restart types and strategies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import SpecError

RestartType = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
End = Literal["normal", "abnormal"]

RESTART_TYPES: tuple[str, ...] = get_args(RestartType)
STRATEGIES: tuple[str, ...] = get_args(Strategy)
RESTARTS_MAX = 1_000
WINDOW_S_MAX = 86_400


class RestartBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``restarts`` restarts of a parent's children in any ``window_s`` seconds."""

    restarts: Annotated[int, Meta(ge=0, le=RESTARTS_MAX)] = 5
    window_s: Annotated[float, Meta(ge=1, le=WINDOW_S_MAX)] = 300.0

    def __post_init__(self) -> None:
        # msgspec checks ranges when it decodes, not when worker code calls the constructor.
        restarts, window_s = self.restarts, self.window_s
        if not (_is_number(restarts, int) and 0 <= restarts <= RESTARTS_MAX):
            raise SpecError(
                f"cannot use RestartBudget: restarts is {restarts!r}, want 0 to {RESTARTS_MAX}"
            )
        if not (_is_number(window_s, int, float) and 1 <= window_s <= WINDOW_S_MAX):
            raise SpecError(
                f"cannot use RestartBudget: window_s is {window_s!r}, want 1 to {WINDOW_S_MAX}"
            )


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


class Counted(msgspec.Struct, frozen=True):
    """A restart that costs the budget. ``at`` is when it was carried out, or is planned."""

    name: str
    at: float
    started: bool = False


def comes_back(restart: RestartType, end: End) -> bool:
    """Whether a child of that restart type is started again after such an end."""
    return restart == "permanent" or (restart == "transient" and end == "abnormal")


def restarted_along(strategy: Strategy, order: Sequence[str], name: str) -> tuple[str, ...]:
    """The siblings in ``order`` (start order) that are restarted along with ``name``."""
    if strategy == "one_for_one":
        return ()
    after = order.index(name) + 1 if strategy == "rest_for_one" else 0
    return tuple(other for other in order[after:] if other != name)


def counting(past: Iterable[Counted], budget: RestartBudget, now: float) -> tuple[Counted, ...]:
    """Those of ``past`` that still cost the budget at ``now``."""
    return tuple(one for one in past if not one.started or now - one.at < budget.window_s)


def plan(
    past: Sequence[Counted], budget: RestartBudget, name: str, now: float, spread: float
) -> tuple[Counted, ...] | None:
    """``past`` with one more restart of ``name``, its moment in the last one's ``at``; None: it is
    over the budget. ``spread`` in [0, 1) is the chance in the wait."""
    counted = counting(past, budget, now)
    if len(counted) >= budget.restarts:
        return None
    before = sum(one.name == name for one in counted)
    return (*counted, Counted(name, now + delay_s(before, spread)))


def carried_out(past: Iterable[Counted], name: str, now: float) -> tuple[Counted, ...]:
    """``past`` after ``name`` has started: what was planned for it counts from now on."""
    return tuple(
        Counted(name, now, True) if one.name == name and not one.started else one for one in past
    )


def forget(past: Iterable[Counted], name: str) -> tuple[Counted, ...]:
    """``past`` without what ``name`` has cost: its spec has changed, or it is not declared."""
    return tuple(one for one in past if one.name != name)


def drained_at(past: Sequence[Counted], budget: RestartBudget, now: float) -> float:
    """When nothing of ``past`` counts any more; never, when the budget allows no restart."""
    if not budget.restarts:
        return float("inf")
    return max((one.at for one in past), default=now) + budget.window_s


def room_at(past: Sequence[Counted], budget: RestartBudget, now: float) -> float:
    """The first moment from ``now`` on at which the budget has room for one more restart."""
    if not budget.restarts:
        return float("inf")
    ends = sorted(one.at + budget.window_s for one in counting(past, budget, now))
    over = len(ends) - budget.restarts
    return max(now, ends[over]) if over >= 0 else now
