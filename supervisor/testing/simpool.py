"""The pool's semantics in simulated time: the same port, no process, nothing is run.

Knows: what can be taken, what an action would answer.
Does not know: the tree; real time; how attempts end: `simlife`.
Invariants: never raises for an action's own fate: what is not taken has the result "refused".

Shown to be the real pool's like by tests/contract/test_pool_contract.py, which runs on both. Not
simulated: orders that wait in a proc's pipe, an action type's limits, quarantine, recycling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from fsmv2.ipc.codec import encode
from fsmv2.ipc.redact import secrets_in, text_of
from fsmv2.supervisor.core.action import (
    Action,
    ActionError,
    ActionResult,
    action_name,
    action_reference,
    check_action_type,
)
from fsmv2.supervisor.core.errors import SpecError, check
from fsmv2.supervisor.pool.intake import PAYLOAD_BYTES_MAX, Refused, seconds_of
from fsmv2.supervisor.testing.answers import Answer, Answers
from fsmv2.supervisor.testing.clock import ManualClock
from fsmv2.supervisor.testing.faultplan import CALM, FaultPlan
from fsmv2.supervisor.testing.simlife import OnEvent, OnResult, SimLife
from fsmv2.supervisor.testing.simprocs import SimAttempt


class SimPool(SimLife):
    """Lanes of simulated procs. Whoever owns it calls `step` when the clock stands at
    `next_moment`; results go to ``on_result(attempt_id, result)``, as the real pool's do.
    ``graces`` replaces `Action.grace_s`, as `PoolOptions.graces` does."""

    def __init__(
        self,
        lanes: Mapping[str, int] | None = None,
        *,
        clock: ManualClock,
        answers: Mapping[type[Action], object] | None = None,
        seed: int = 0,
        faults: FaultPlan = CALM,
        spares: int = 1,
        queue: int = 1_000,
        graces: Mapping[str, float] | None = None,
        on_result: OnResult,
        on_event: OnEvent = lambda event: None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(
            lanes or {"actions": 2, "observations": 1},
            clock=clock,
            seed=seed,
            faults=faults,
            spares=spares,
            queue=queue,
            on_result=on_result,
            on_event=on_event,
            note=note,
        )
        self._answers = Answers(answers or {})
        self._graces = graces or {}
        self._next_id = itertools.count(1).__next__

    # --- what actions answer ----------------------------------------------------------------

    def answer(
        self,
        kind: type[Action],
        value: Any = None,
        *,
        takes_s: float | Callable[[Any], float] | None = None,
        crashes: str | None = None,
        gives_up_s: float | None = None,
        stops_s: float | None = None,
    ) -> None:
        """From now on, attempts of ``kind`` end with ``value``: a value, an exception as if
        `execute` had raised it, or a callable that is given the action and returns or raises
        either. ``takes_s`` is how long (or a callable that says so; infinite: it hangs).
        ``crashes`` is a verdict: its proc dies of that instead. ``gives_up_s``: so long after it
        was told to end it raises InterruptedError (if its type's ``grace_s`` leaves it the time).
        ``stops_s``: so long after it was told of its worker's stop it ends, if not before.
        """
        self._answers.put(kind, Answer(value, takes_s, crashes, gives_up_s, stops_s))

    # --- actions ----------------------------------------------------------------------------

    def submit(
        self,
        action: Action,
        *,
        key: str = "",
        lane: str | None = None,
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> int:
        """As `Pool.submit`; raises `SpecError` only for an action type without an answer."""
        attempt_id = self._next_id()
        try:
            attempt = self._taken_in(attempt_id, action, key, lane, timeout_s, urgent)
        except Refused as why:
            self._refuse(attempt_id, action_name(type(action)), why.kind, str(why))
        else:
            self.open[attempt_id] = attempt
            self.dispatch(attempt.lane)
        return attempt_id

    def _taken_in(
        self,
        attempt_id: int,
        action: Action,
        key: str,
        lane: str | None,
        timeout_s: float | None,
        urgent: bool,
    ) -> SimAttempt:
        kind = type(action)
        try:
            check_action_type(kind)
            payload = encode(action)
        except SpecError as error:
            raise Refused("SpecError", str(error)) from None
        except Exception as error:  # a field's own code may raise whatever it likes
            text = text_of(error, secrets_in(action))
            raise Refused(type(error).__name__, text) from None
        chosen = self.lanes.get(kind.lane if lane is None else lane)
        if chosen is None:
            known = ", ".join(sorted(self.lanes))
            raise Refused("SpecError", f"got lane {lane or kind.lane!r}, want one of {known}")
        if len(payload) > PAYLOAD_BYTES_MAX:
            got = f"got {len(payload)} bytes, want at most {PAYLOAD_BYTES_MAX} bytes"
            raise Refused("PayloadTooLarge", got)
        if not isinstance(key, str):
            raise Refused("SpecError", f"got key {key!r}, want a str")
        seconds = kind.timeout_s if timeout_s is None else seconds_of(timeout_s)
        if seconds is None:
            raise Refused(
                "SpecError", f"got timeout_s {timeout_s!r}, want a number of seconds, more than 0"
            )
        if self.closing:
            raise Refused("PoolClosed", "cannot run an action: the pool is closing")
        if self.failed.is_hopeless:
            raise Refused("PoolStuck", "cannot run an action: no proc can be started")
        answer = self._answers.find(action, key)
        now = self.clock.now
        grace_s = self._graces.get(action_reference(kind), kind.grace_s)
        attempt = SimAttempt(attempt_id, action, answer, key, chosen, seconds, urgent, now, grace_s)
        if not chosen.queue.offer(attempt, key, urgent):
            waiting = chosen.queue.size + chosen.queue.held
            raise Refused(
                "QueueFull", f"got {waiting} waiting, want at most {chosen.queue.capacity}"
            )
        return attempt

    def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
        """As `Pool.cancel`."""
        attempt = self.open.get(attempt_id)
        if attempt is None:
            return False
        proc = attempt.proc
        if proc is None:
            attempt.lane.queue.discard(attempt, attempt.key)
            self.conclude(attempt, attempt.result("cancelled", self.clock.now, self.clock.wall))
            self.dispatch(attempt.lane)
        elif attempt.cancel_cause in (None, "cancelled") and attempt.cancel_cause != cause:
            attempt.cancel_cause = cause
            if cause == "cancelled":
                self.tell_to_end(proc, attempt, cause)
            else:
                self.kill(proc, attempt, cause, "")
        return True

    def tell_of_stop(self, attempt_id: int) -> None:
        """As `Pool.tell_of_stop`."""
        attempt = self.open.get(attempt_id)
        if attempt is not None and not attempt.is_told_of_stop:
            attempt.is_told_of_stop = True
            self.heed_stop(attempt)

    def in_flight(self, attempt_id: int) -> SimAttempt | None:
        """The attempt, if it has no result yet."""
        return self.open.get(attempt_id)

    def close(self) -> None:
        """As `Pool.close`, at once: no clock has to be moved for it."""
        self.closing = True
        for attempt in list(self.open.values()):
            if attempt.proc is None:
                attempt.lane.queue.discard(attempt, attempt.key)
                now, wall = self.clock.now, self.clock.wall
                self.conclude(attempt, attempt.result("cancelled", now, wall))
        for attempt in list(self.open.values()):
            self.cancel(attempt.id, "stop")
            if attempt.proc is not None:
                self.reap(attempt.proc)
        check(not self.open, f"closed with {len(self.open)} attempts without a result")

    def _refuse(self, attempt_id: int, name: str, kind: str, text: str) -> None:
        error = ActionError(kind, text)
        result = ActionResult(
            status="refused", action_type=name, attempt_id=attempt_id, error=error,
            ended_at=self.clock.wall,
        )  # fmt: skip
        self._tell(attempt_id, result)

    def refuse_waiting(self, kind: str, text: str) -> None:
        """Refuse what waits for a proc: none can be started."""
        for attempt in list(self.open.values()):
            if attempt.proc is None:
                attempt.lane.queue.discard(attempt, attempt.key)
                del self.open[attempt.id]
                self._refuse(attempt.id, attempt.name, kind, text)
