"""How often the root looks for garbage in what lives long: hardly ever.

Theory of operation. Python's full collections walk every object there is: with 10,000 workers half
a second each, every few seconds, in the middle of a tick. What has survived one lives as long as
the tree does, nearly all of it, so it is set aside ("frozen"): the next full collection walks what
is newer. Reference counts free frozen objects as ever; only cycles among them are not found, so
that all are taken back once in `THAW_S`, for one collection.

Knows: the interpreter's collector.
Does not know: what there is to collect.
Invariants: no collection is ever begun here; after `close` the collector is as it was.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

THAW_S = 900.0
OLDEST = 2


class Garbage:
    """`start` it when the root does, `close` it at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thaw_at = clock() + THAW_S

    def __repr__(self) -> str:
        return f"<Garbage {gc.get_freeze_count()} frozen>"

    def start(self) -> None:
        """Set aside what full collections leave, from now on. Of a host that has frozen something
        itself, the collector is left alone: what is frozen is taken back all at once."""
        if not gc.get_freeze_count():
            gc.callbacks.append(self._collected)

    def close(self) -> None:
        """Take everything back."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
            gc.unfreeze()

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        if phase != "stop" or info["generation"] != OLDEST:
            return
        if self._clock() >= self._thaw_at:
            self._thaw_at = self._clock() + THAW_S
            gc.unfreeze()  # for the next one, which comes soon: there is much that is new to it
        else:
            gc.freeze()
