"""Where callers leave actions for whoever drives the pool, without a lock.

Knows: actions that were submitted while all procs of their lane were busy.
Does not know: who drives, what becomes of them.
Invariants: an action is encoded when it is left, since the caller may change what it refers to;
what is left is taken in order, and before whatever is submitted in another way; at most
`LEFT_MAX` are left at a time, and a few more when as many threads leave one at once.

A submission costs its caller a microsecond or two this way. Nothing is lost by the wait: the
procs have other actions to do.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import encode
from fsmv2.supervisor.core.action import Action
from fsmv2.supervisor.pool.attempts import Attempt
from fsmv2.supervisor.pool.intake import PAYLOAD_BYTES_MAX, seconds_of

if TYPE_CHECKING:
    from fsmv2.supervisor.library.handles import Handle
    from fsmv2.supervisor.pool.kinds import ActionKind
    from fsmv2.supervisor.pool.lanes import Lane
    from fsmv2.supervisor.pool.pool import Pool

LEFT_MAX = 1_000
_monotonic = time.monotonic


class Letterbox:
    """Of one pool. ``handles`` is where the handle of each attempt is entered."""

    __slots__ = ("_handles", "_kinds", "_next_id", "_pool", "left")

    def __init__(self, pool: Pool, handles: dict[int, Handle]) -> None:
        self._pool = pool
        self._kinds = pool.kinds
        self._next_id = pool.ledger.next_id
        self._handles = handles
        # The fields of an `Attempt` each: to make it costs as much as the rest, and can wait.
        self.left: deque[tuple[int, ActionKind, bytes, str, Lane, float, float]] = deque()

    def leave(self, handle: Handle, action: Action, key: str, timeout_s: float | None) -> bool:
        """Leave ``action``. False: it was not, since its lane has an idle proc, or it needs a
        closer look. Whatever breaks in here, a signal's handler or another thread, the action
        is left or it is not."""
        kind = self._kinds.get(type(action))
        if kind is None or (lane := kind.home) is None:
            return False
        left = self.left
        if left:
            if len(left) >= LEFT_MAX:
                return False
        elif lane.idle:
            return False
        seconds = kind.timeout_s if timeout_s is None else seconds_of(timeout_s)
        if seconds is None:
            return False
        if type(key) is not str:
            return False
        try:
            payload = encode(action)
        except Exception:
            return False
        if len(payload) > PAYLOAD_BYTES_MAX:
            return False
        handle.attempt_id = attempt_id = self._next_id()
        fields = (attempt_id, kind, payload, key, lane, seconds, _monotonic())
        # Nothing between the two: a handler runs after a call has returned, and would leave a
        # handle here that never gets a result.
        self._handles[attempt_id] = handle
        left.append(fields)
        return True

    def take_back(self, handle: Handle) -> bool:
        """Take out again what was left after all was emptied for the last time. False: it is not
        here any more, so whoever has emptied it sees to it that ``handle`` gets its result."""
        for left in list(self.left):  # a step of C code each, as is `remove`
            if left[0] == handle.attempt_id:
                with contextlib.suppress(ValueError):  # emptied in this very moment
                    self.left.remove(left)
                    self._handles.pop(handle.attempt_id, None)
                    return True
        return False

    def empty(self) -> None:
        """Give all that was left to the pool. Under the pool's lock."""
        take, attempts = self.left.popleft, []
        try:
            for _ in range(len(self.left)):
                attempts.append(Attempt(*take()))  # noqa: PERF401, what was taken is kept when it raises
        except IndexError:
            pass  # a caller has taken its own back: see `take_back`
        if attempts:
            self._pool.intake.queue_all(attempts)
