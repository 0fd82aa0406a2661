"""When a worker's pure half raises too often: the panic breaker.

Theory of operation. Each raise of `derive_desired_state`, `next_action`, `observe` or a sanity
check counts for five minutes; a config that is refused is no such raise. The third opens the
breaker. While it is open the node's code is still called, but as a trial: each raise is followed by
a wait that grows with the raises in the window. It heals when fewer than three are left there,
whatever the parent does, so that it cannot stick.

Knows: the moments of raises, what kind of thing was raised.
Does not know: nodes, clocks, the wait itself.
Invariants: open exactly while the window holds `RAISES` or more. Source: fsmv2-behaviour.md §2 and
§10 V1.
"""

from __future__ import annotations

from fsmv2.supervisor.core.errors import WorkerFault

RAISES = 3
WINDOW_S = 300.0
KEPT_MAX = 64


def raised(raises: tuple[float, ...], now: float) -> tuple[float, ...]:
    """The raises that count, with one at ``now``."""
    return (*counting(raises, now), now)[-KEPT_MAX:]


def counting(raises: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Those of ``raises`` that still count at ``now``."""
    return tuple(at for at in raises if now - at < WINDOW_S)


def is_open(raises: tuple[float, ...]) -> bool:
    """Whether so many are too many."""
    return len(raises) >= RAISES


def heals_at(raises: tuple[float, ...]) -> float:
    """When those of ``raises`` will have left the window that keep the breaker open."""
    return raises[-RAISES] + WINDOW_S


def kind_of(error: BaseException) -> str:
    """What was raised: ``contract`` (no agreed form), ``exit`` (the code wants the whole process to
    end), ``resource`` (memory, recursion), else ``error``."""
    if isinstance(error, WorkerFault):
        return "contract"
    if isinstance(error, MemoryError | RecursionError):
        return "resource"
    return "error" if isinstance(error, Exception) else "exit"
