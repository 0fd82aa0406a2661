"""Commands of an operator, carried out in the root between two ticks.

Knows: which command does what to the pool, what is told of it.
Does not know: HTTP, who is allowed, how a command and its answer travel.
Invariants: no command waits for anything: a kill is ordered here and its death comes later;
each command gives one answer and one event, and neither holds a credential.
"""

from __future__ import annotations

from collections.abc import Callable

from fsmv2.ipc.messages import Command, CommandAnswered, KillAction
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event, OperatorCommanded
from fsmv2.supervisor.pool import Pool

DETAIL_CHARS_MAX = 2_000


class Commands:
    """Carries commands out on one pool. ``emit`` hears of each."""

    def __init__(self, pool: Pool, emit: Callable[[Event], None]) -> None:
        self._pool = pool
        self._emit = emit

    def carry_out(self, command: Command) -> CommandAnswered:
        """Do what ``command`` says, at once. Never raises for what it asks."""
        if isinstance(command, KillAction):
            answer = self._kill(command.number, command.attempt_id)
            verb, target = "kill", f"#{command.attempt_id}"
        else:
            answer = self._release(command.number, command.action_type)
            verb, target = "release", command.action_type
        self._emit(
            OperatorCommanded(
                command=verb,
                target=target,
                outcome=answer.outcome,
                client=command.client,
                action_type=answer.action_type,
                path=answer.path,
            )
        )
        return answer

    def _release(self, number: int, action_type: str) -> CommandAnswered:
        try:
            done = self._pool.release(action_type)
        except SpecError as several:
            text = str(several)[:DETAIL_CHARS_MAX]
            return CommandAnswered(number, "ambiguous", action_type, detail=text)
        return CommandAnswered(number, "done" if done else "not_in_quarantine", action_type)

    def _kill(self, number: int, attempt_id: int) -> CommandAnswered:
        # Read first: what waits has its result, and is gone, before `cancel` returns.
        attempt = self._pool.in_flight(attempt_id)
        if attempt is None or not self._pool.cancel(attempt_id, "operator"):
            return CommandAnswered(number, "no_such_attempt")
        # Observations have keys of their own; people know the worker's path.
        return CommandAnswered(number, "done", attempt.name, attempt.key.rstrip("?"))
