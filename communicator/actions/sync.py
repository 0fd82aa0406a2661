"""Push, then pull: the coordinator of both directions, as one action.

The engine runs at most one action of a worker at a time, so both directions share an attempt.
Neither starves the other: each has its own error and its own backoff, a direction that waits is
left out, and pushing stops while there is time for a pull.

Knows: the order, the time budget, what is carried over for a direction that is left out.
Does not know: backoff, states.
Invariants: one direction's failure never hides the other's outcome.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import msgspec

from fsmv2.communicator.actions.call import Call
from fsmv2.communicator.actions.pull import pull_inbox
from fsmv2.communicator.actions.push import push_outbox
from fsmv2.communicator.outcomes import Credentials, Direction, Session, SyncOutcome
from fsmv2.communicator.transport.errors import Kind
from fsmv2.communicator.transport.protocol import CONNECT_S
from fsmv2.supervisor import Action, ActionContext


class SyncAction(Action, frozen=True):
    """One attempt at both directions. ``outbox`` or ``inbox`` None leaves that direction out,
    as does ``push_now`` or ``pull_now`` False; ``push`` and ``pull`` are how they stand."""

    # Above one request of each direction at the longest configurable timeout.
    timeout_s: ClassVar[float] = 40.0
    # A pull that has left must be allowed to arrive: the relay has forgotten it already.
    grace_s: ClassVar[float] = 1.0

    credentials: Credentials
    session: Session
    login_id: int
    instance_uuid: str
    outbox: str | None
    inbox: str | None
    push: Direction = Direction()
    pull: Direction = Direction()
    push_now: bool = True
    pull_now: bool = True

    def execute(self, ctx: ActionContext) -> SyncOutcome:
        """Push and pull once; returns both outcomes, whatever the relay says."""
        from fsmv2.communicator.transport.http import Relay, transport_for

        made_for = self.credentials
        relay = Relay(made_for.relay_url, made_for.timeout_s, made_for.allow_insecure_tls)
        call = Call(ctx, transport_for(relay), self.session.token, self.instance_uuid)
        request_s_max = CONNECT_S + made_for.timeout_s
        started = time.monotonic()
        push, pull = self.push, self.pull
        pushed_at = pulled_at = None
        if self.outbox is not None and self.push_now:
            push = push_outbox(
                call,
                Path(self.outbox),
                self.push,
                may_go_on=lambda: not ctx.cancelled and ctx.deadline_s > 2 * request_s_max,
            )
            pushed_at = time.monotonic()
        if self.inbox is not None and self.pull_now and not ctx.cancelled:
            pull = pull_inbox(call, Path(self.inbox), self.pull)
            pulled_at = time.monotonic()
        ended = time.monotonic()
        return SyncOutcome(
            made_for=made_for,
            login_id=self.login_id,
            push=_aged(push, started, pushed_at, ended),
            pull=_aged(pull, started, pulled_at, ended),
            token_rejected=any(
                tried_at is not None
                and direction.problem is not None
                and direction.problem.kind is Kind.INVALID_TOKEN
                for direction, tried_at in ((push, pushed_at), (pull, pulled_at))
            ),
        )


def _aged(direction: Direction, started: float, tried_at: float | None, ended: float) -> Direction:
    """``direction`` with ``idle_s`` as of the attempt's end."""
    idle_s = direction.idle_s + ended - started if tried_at is None else ended - tried_at
    return msgspec.structs.replace(direction, idle_s=idle_s)
