"""Commands of an operator, carried out in the root between two ticks.

Knows: which command does what to the pool or the config, what is told of it.
Does not know: HTTP, who is allowed, how a command and its answer travel.
Invariants: no command waits for anything: a kill is ordered here and its death comes later, a
reload is begun here and answered when it is done; each command gives one answer and one event, and
neither holds a credential.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec

from fsmv2.ipc.messages import (
    Command,
    CommandAnswered,
    ForceBreaker,
    KillAction,
    ReleaseType,
    ReloadConfig,
)
from fsmv2.supervisor.config.checkprocess import Verdict
from fsmv2.supervisor.config.plans import only_counts
from fsmv2.supervisor.config.reload import Reloader
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event, OperatorCommanded
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.tree.infrastructure import Infrastructure

DETAIL_CHARS_MAX = 2_000
FAULTS_MAX = 100
DOCUMENT_BYTES_MAX = 512 * 1024

Reply = Callable[[CommandAnswered], object]


class Commands:
    """Carries commands out on one pool and one config. ``emit`` hears of each."""

    def __init__(
        self,
        pool: Pool,
        reloader: Reloader,
        infrastructure: Infrastructure,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._infrastructure = infrastructure
        self._clock = clock
        self._reloader = reloader
        self._emit = emit

    def carry_out(self, command: Command, reply: Reply) -> None:
        """Do what ``command`` says, at once; ``reply`` gets its answer, at once or (for a reload)
        later. Never raises for what it asks."""
        match command:
            case KillAction(number=number, attempt_id=attempt_id):
                self._tell("kill", f"#{attempt_id}", command, self._kill(number, attempt_id), reply)
            case ReleaseType(number=number, action_type=kind):
                self._tell("release", kind, command, self._release(number, kind), reply)
            case ForceBreaker(number=number, state=state):
                self._tell("breaker", state, command, self._force(command), reply)
            case ReloadConfig(dry=dry, client=client):
                done = partial(self._reloaded, command, reply)
                self._reloader.ask(f"an operator at {client}", done, dry=dry)

    def _tell(
        self, verb: str, target: str, command: Command, answer: CommandAnswered, reply: Reply
    ) -> None:
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
        reply(answer)

    def _reloaded(self, command: ReloadConfig, reply: Reply, verdict: Verdict) -> None:
        verb, path = "plan" if command.dry else "reload", self._reloader.path
        document: object = {"faults": verdict.faults[:FAULTS_MAX], "config": path}
        if verdict.plan is not None:
            document = {"plan": verdict.plan, "config": path}
        body = msgspec.json.encode(document)
        if len(body) > DOCUMENT_BYTES_MAX:
            document = {"faults": (), "config": path}
            if verdict.plan is not None:
                document = {"plan": only_counts(verdict.plan), "config": path}
            body = msgspec.json.encode(document)
        answer = CommandAnswered(
            command.number,
            "refused" if verdict.faults else "done",
            detail="; ".join(verdict.faults)[:DETAIL_CHARS_MAX],
            document=body,
        )
        self._tell(verb, path, command, answer, reply)

    def _release(self, number: int, action_type: str) -> CommandAnswered:
        try:
            done = self._pool.release(action_type)
        except SpecError as several:
            text = str(several)[:DETAIL_CHARS_MAX]
            return CommandAnswered(number, "ambiguous", action_type, detail=text)
        return CommandAnswered(number, "done" if done else "not_in_quarantine", action_type)

    def _force(self, command: ForceBreaker) -> CommandAnswered:
        forced = None if command.state == "auto" else command.state
        taken = self._infrastructure.force(forced, command.for_s, command.client, self._clock())
        if not taken:
            mode = self._infrastructure.mode
            detail = f"cannot hold the breaker: the config says breaker.mode: {mode}, want enforce"
            return CommandAnswered(command.number, "refused", detail=detail)
        return CommandAnswered(command.number, "done")

    def _kill(self, number: int, attempt_id: int) -> CommandAnswered:
        # Read first: what waits has its result, and is gone, before `cancel` returns.
        attempt = self._pool.in_flight(attempt_id)
        if attempt is None or not self._pool.cancel(attempt_id, "operator"):
            return CommandAnswered(number, "no_such_attempt")
        # Observations have keys of their own; people know the worker's path.
        return CommandAnswered(number, "done", attempt.name, attempt.key.rstrip("?"))
