"""Takes actions in: checks them, gives them a number, and puts them on a proc or in a queue.

Knows: what can be run, the reasons to refuse.
Does not know: what becomes of an attempt, who asks.
Invariants: never waits, never raises for the action's own fate: what is not taken has the result
"refused", which says why; each action gets a number of its own, taken or not.
"""

from __future__ import annotations

import sys
import time
from numbers import Real
from typing import TYPE_CHECKING, Any

from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import FRAME_BYTES_MAX
from fsmv2.ipc.redact import secrets_in, text_of
from fsmv2.supervisor.core.action import Action, ActionError, ActionResult, action_name
from fsmv2.supervisor.core.errors import FsmError, SpecError
from fsmv2.supervisor.core.quarantine import CLEAN
from fsmv2.supervisor.pool.attempts import Attempt
from fsmv2.supervisor.pool.lanes import QUARANTINE

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.kinds import ActionKind
    from fsmv2.supervisor.pool.pool import Pool

_monotonic = time.monotonic
PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - 4096
OUT_AT_ONCE = 8
FLOAT_MAX = sys.float_info.max


def seconds_of(timeout_s: Any) -> float | None:
    """A caller's timeout as a proc can decode it; None: it is none."""
    is_number = not isinstance(timeout_s, bool) and isinstance(timeout_s, Real)
    return float(timeout_s) if is_number and 0 < timeout_s <= FLOAT_MAX else None


class Refused(FsmError):
    """An action that is not taken; ``kind`` is what its result's error is called."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Intake:
    """The door of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def submit(
        self, action: Action, key: str, lane: str | None, timeout_s: float | None, urgent: bool
    ) -> int:
        """See `Pool.submit`."""
        attempt_id = self._pool.ledger.next_id()
        try:
            kind = self._pool.kinds[type(action)]
        except SpecError as error:
            self._refuse(attempt_id, action_name(type(action)), "SpecError", str(error))
        else:
            self.encode(attempt_id, kind, action, key, lane, timeout_s, urgent)
        return attempt_id

    def encode(
        self,
        attempt_id: int,
        kind: ActionKind,
        action: Action,
        key: str,
        lane: str | None,
        timeout_s: float | None,
        urgent: bool = False,
    ) -> None:
        """Take an action that has its number, and a type that can be sent."""
        try:
            payload = encode(action)
        except (Exception, SystemExit) as error:  # a field's own code may raise what it likes
            text = text_of(error, secrets_in(action))
            self._refuse(attempt_id, kind.name, type(error).__name__, text)
        else:
            self.take(attempt_id, kind, payload, key, lane, timeout_s, urgent)

    def take(
        self,
        attempt_id: int,
        kind: ActionKind,
        payload: bytes,
        key: str = "",
        lane: str | None = None,
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> None:
        """Take an action that has its number and is encoded already."""
        pool = self._pool
        chosen = kind.home if lane is None else pool.lanes.get(lane)
        try:
            if chosen is None or chosen.name == QUARANTINE:
                raise self._no_lane(lane or kind.lane)
            if len(payload) > PAYLOAD_BYTES_MAX:
                got = f"got {len(payload)} bytes, want at most {PAYLOAD_BYTES_MAX} bytes"
                raise Refused("PayloadTooLarge", got)
            if not isinstance(key, str):
                raise Refused("SpecError", f"got key {key!r}, want a str")
            seconds = kind.timeout_s if timeout_s is None else seconds_of(timeout_s)
            if seconds is None:
                got = f"got timeout_s {timeout_s!r}, want a number of seconds, more than 0"
                raise Refused("SpecError", got)
        except Refused as why:
            self._refuse(attempt_id, kind.name, why.kind, str(why))
            return
        now = _monotonic()
        attempt = Attempt(attempt_id, kind, payload, key, chosen, seconds, now, urgent)
        # The common case, a proc is idle and nobody waits, needs no queue.
        if (
            chosen.idle
            and (kind.is_simple or not kind.is_full)
            and kind.record is CLEAN
            and not pool.closing
            and (chosen.queue.take_at_once(key) if key else not chosen.queue.size)
        ):
            pool.ledger.open[attempt_id] = attempt
            pool.dispatcher.give(chosen.pick(key) if key else chosen.idle.pop(), attempt, now)
        # Into a pipe it goes with others: one by one, they would cost a system call each. What is
        # left over goes out with the next answer.
        elif self.queue(attempt) and (
            chosen.idle
            or (
                kind.may_wait_in_pipe
                and not chosen.queue.size % OUT_AT_ONCE
                and pool.dispatcher.has_room(chosen)
            )
        ):
            pool.dispatcher.dispatch(chosen)

    def queue_all(self, attempts: list[Attempt]) -> None:
        """Have ``attempts`` wait, and give out what can go."""
        pool, lane = self._pool, attempts[0].lane
        for attempt in attempts:
            if attempt.key or attempt.lane is not lane:
                break
        else:
            # The common case: nothing in it asks for a look of its own.
            may = not (pool.closing or pool.nursery.failed.is_hopeless)
            if may and lane.queue.offer_all(attempts):
                pool.ledger.open.update({attempt.id: attempt for attempt in attempts})
                pool.dispatcher.dispatch(lane)
                return
        queued = {attempt.lane: None for attempt in attempts if self.queue(attempt)}
        for lane in queued:
            pool.dispatcher.dispatch(lane)

    def queue(self, attempt: Attempt) -> bool:
        """Have ``attempt`` wait for its lane to be dispatched. False: it is refused."""
        pool, queue = self._pool, attempt.lane.queue
        if not (pool.closing or pool.nursery.failed.is_hopeless) and queue.offer(
            attempt, attempt.key, attempt.urgent
        ):
            pool.ledger.open[attempt.id] = attempt
            return True
        if pool.closing:
            why = ("PoolClosed", "cannot run an action: the pool is closing")
        elif pool.nursery.failed.is_hopeless:
            why = ("PoolStuck", pool.nursery.failed.why)
        else:
            got = f"got {queue.size + queue.held} waiting, want at most {queue.capacity}"
            why = ("QueueFull", got)
        self._refuse(attempt.id, attempt.name, *why)
        return False

    def _no_lane(self, name: str) -> Refused:
        known = ", ".join(sorted(self._pool.lanes.keys() - {QUARANTINE}))
        return Refused("SpecError", f"got lane {name!r}, want one of {known}")

    def _refuse(self, attempt_id: int, action_type: str, kind: str, text: str) -> None:
        result = self.refusal(attempt_id, action_type, kind, text)
        self._pool.ledger.count(result)
        self._pool.tell(attempt_id, result)

    def refusal(self, attempt_id: int, action_type: str, kind: str, text: str) -> ActionResult:
        """The result of an action that is not taken."""
        return ActionResult(
            status="refused",
            action_type=action_type,
            attempt_id=attempt_id,
            error=ActionError(kind, text),
            ended_at=time.time(),
        )
