"""Outbox to relay: one direction of a sync.

Knows: batches, sending one by one after a failure, which failures may be one message's own.
Does not know: states, backoff, the other direction.
Invariants: one at a time reads an outbox and sends from it, whoever asks; a file is deleted only
after the relay answered 2xx for the request it was in; the order of the outbox is kept; a message
is set aside only when the relay, asked for it alone, has refused it, then taken another, and then
refused it again; what is set aside is never deleted.

A refused message is *in doubt*: whether it is the message or the relay, the next one tells. As
long as none is taken nothing is set aside: a relay, or something before it, that refuses
everything empties no outbox. When one behind is taken, those in doubt are sent once more, in their
order, and only those that fail again are set aside. So a message in doubt that succeeds then has
been overtaken by one.

A large message that a slow line does not carry in time ends like an outage: without an answer.
Once that has been so `SLOW_AT_ERRORS` times in a row, a large message at the head is in doubt too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.actions.call import Access, Call
from fsmv2.communicator.actions.told import after, taken_by_another, told
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.transport import errors
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.supervisor import Action, ActionContext

BATCH_MESSAGES_MAX = 100
BATCH_BYTES_MAX = 4 * 1024 * 1024
REQUESTS_MAX = 100
# Only these say "this message, whenever you send it". 404, 408 and 425 do not.
POISON_STATUSES = frozenset({400, 413, 422})
# So many in doubt end a try, the more the longer the row of errors is: more than these may be
# refused for themselves one after the other.
DOUBTED_PER_ERROR = 3
DOUBTED_MAX = 50
# A message in doubt with none behind it is asked again at this interval, not at a growing one:
# the next that comes is not to wait for it.
ALONE_S = 10.0
# From this size on the line may be too slow for a message, after so many errors in a row.
LARGE_BYTES = 256 * 1024
SLOW_AT_ERRORS = 3


class PushAction(Action, frozen=True):
    """Send what waits in ``outbox``; ``before`` is how pushing stands."""

    timeout_s: ClassVar[float] = 40.0

    access: Access
    outbox: str
    before: Direction = Direction()

    def execute(self, ctx: ActionContext) -> Direction:
        """Push until the outbox is empty, half of the time is over or something fails."""

        def may_go_on() -> bool:
            return not ctx.cancelled and ctx.deadline_s > self.timeout_s / 2

        return self.run(ctx, self.before, may_go_on)

    def run(
        self, ctx: ActionContext, before: Direction, may_go_on: Callable[[], bool]
    ) -> Direction:
        """The same as part of a sync, which says for how long."""
        try:
            call = self.access.call(ctx)
        except TransportError as error:
            return told(ctx, "push", before, after(before, error.problem))
        return push_outbox(call, Path(self.outbox), before, may_go_on)


def push_outbox(
    call: Call, outbox: Path, before: Direction, may_go_on: Callable[[], bool]
) -> Direction:
    """Send what waits in ``outbox`` and return how pushing stands.

    Sends in batches, or one by one while the last try had failed: so a message the relay does
    not take is found without holding back the others. An empty outbox makes no request. Stops
    at the first error that cannot be one message's own, after `REQUESTS_MAX` requests so that
    others get their turn, and when ``may_go_on`` says no.
    """
    if not may_go_on():
        return before
    sending = _Sending(call, outbox, before)
    problem: Problem | None = None
    try:
        with spool.pushing(outbox) as is_there:
            problem = sending.run(may_go_on) if is_there else None
    except TransportError as error:
        problem = error.problem
    except spool.Taken as error:
        sending.waiting = before.waiting
        problem = taken_by_another("push", error)
    except spool.AsideFull as error:
        problem = Problem(Kind.CHANNEL_FULL, str(error))
    except OSError as error:
        problem = Problem(Kind.UNKNOWN, f"cannot work in the outbox: {error.strerror}")
    except MemoryError:
        problem = Problem(Kind.UNKNOWN, "cannot push: it needs more memory than there is")
    if sending.refused:
        call.ctx.log("messages set aside in the outbox", "warning", count=sending.refused)
    direction = after(
        before,
        problem,
        asked=sending.asked,
        moved=sending.moved,
        waiting=sending.waiting,
        refused=sending.refused,
        strangers=sending.strangers,
    )
    return told(call.ctx, "push", before, direction)


class _Sending:
    """One try, and what it has come to so far. The first ``doubted`` that wait are in doubt."""

    def __init__(self, call: Call, outbox: Path, before: Direction) -> None:
        self.asked = False
        self.moved = self.waiting = self.refused = 0
        self.strangers = before.strangers
        self._call = call
        self._outbox = outbox
        self._before = before
        self._single = before.problem is not None
        self._doubted = self._doubted_bytes = 0
        self._doubt = before.problem

    def run(self, may_go_on: Callable[[], bool]) -> Problem | None:
        """Send until nothing waits or it is enough for now; returns what is in doubt then.

        Raises `TransportError`, `AsideFull`, `OSError`, `MemoryError`.
        """
        self._doubt_the_slow()
        for _ in range(REQUESTS_MAX):
            most = 1 if self._single else BATCH_MESSAGES_MAX
            taken = self._next(most, self._doubted)
            if not taken or not may_go_on():
                self._look_for_strangers()
                break
            try:
                self._send(taken)
            except TransportError as error:
                if len(taken) > 1 or not _is_poison(error.problem):
                    raise
                self._refused(taken[0], error.problem)
                continue
            if self._doubted and not self._settle(taken[0]):
                break
            self._acknowledge(taken)
        if not self._doubted or self._doubt is None:
            return None
        return msgspec.structs.replace(
            self._doubt,
            text=errors.clip(f"{self._doubt.text}; {self._doubted} in doubt until one is taken"),
            retry_after_s=self._doubt.retry_after_s or ALONE_S,
        )

    def _look_for_strangers(self) -> None:
        """Told once: a folder called ``x.json`` holds up nothing, but is not sent either."""
        names = spool.strangers(self._outbox)
        if len(names) > self.strangers:
            self._call.ctx.log(
                "passed over in the outbox: no files, or they cannot be read",
                "warning",
                names=[errors.clip(name, 80) for name in names[:5]],
                count=len(names),
            )
        self.strangers = len(names)

    def _next(self, most: int, behind: int = 0) -> list[spool.Outgoing]:
        taken, self.waiting, unreadable = spool.outgoing(
            self._outbox, most, BATCH_BYTES_MAX, behind=behind
        )
        self.refused += unreadable
        return taken

    def _send(self, taken: list[spool.Outgoing]) -> None:
        spool.check_forgettable(taken)
        self.asked = True
        call = self._call
        messages = [each.message for each in taken]
        try:
            with metrics.request("push"):
                call.transport.push(call.token, messages, call.instance_uuid)
        except TransportError as error:
            size, problem = sum(each.size for each in taken), error.problem
            if size < LARGE_BYTES or problem.kind is not Kind.NETWORK:
                raise
            # The line may be too slow for so much: the error is to name it.
            text = errors.clip(f"{problem.text} (sending {len(taken)} messages, {size} bytes)")
            raise TransportError(msgspec.structs.replace(problem, text=text)) from None

    def _acknowledge(self, taken: list[spool.Outgoing]) -> None:
        spool.acknowledge(taken)
        metrics.moved("push", len(taken), sum(each.size for each in taken))
        self.moved += len(taken)
        self.waiting -= len(taken)

    def _doubt_the_slow(self) -> None:
        """Put large ones at the head in doubt unsent, if they may be all that is wrong."""
        problem, errors_in_row = self._before.problem, self._before.errors_in_row
        if problem is None or problem.kind is not Kind.NETWORK or errors_in_row < SLOW_AT_ERRORS:
            return
        while (head := self._next(1, self._doubted)) and self._doubted < DOUBTED_MAX:
            if head[0].size < LARGE_BYTES:
                return
            self._doubted += 1
            self._doubted_bytes += head[0].size
        self._doubted = self._doubted_bytes = 0  # nothing small is there that could tell

    def _refused(self, one: spool.Outgoing, problem: Problem) -> None:
        self._single = True
        self._doubt = problem
        self._doubted += 1
        self._doubted_bytes += one.size
        # Before another is sent to find out: that one would be sent in vain each time.
        spool.check_room_aside(self._outbox, self._doubted, self._doubted_bytes)
        if self._doubted >= min(
            DOUBTED_MAX, DOUBTED_PER_ERROR * max(1, self._before.errors_in_row)
        ):
            raise TransportError(problem)

    def _settle(self, taken: spool.Outgoing) -> bool:
        """The relay has ``taken`` one: send those before it once more. False: no time left, and
        what was taken will be sent again."""
        while head := self._next(1):
            one = head[0]
            if (one.path, one.index) == (taken.path, taken.index):
                break
            if not self._call.has_time:
                return False
            try:
                self._send(head)
            except TransportError as error:
                slow = error.problem.kind is Kind.NETWORK and one.size >= LARGE_BYTES
                if not slow and not _is_poison(error.problem):
                    raise
                kept = spool.set_aside(one)
                self.refused += 1
                self._call.ctx.log(
                    "message set aside: the relay takes others",
                    "warning",
                    file=kept.name,
                    bytes=one.size,
                    status=error.problem.status,
                    kind=str(error.problem.kind),
                )
            else:
                self._acknowledge(head)
        self._doubted = self._doubted_bytes = 0
        return True


def _is_poison(problem: Problem) -> bool:
    """Whether the relay itself, and nothing on the way, has refused what it was sent."""
    return (
        problem.kind is Kind.UNKNOWN and problem.status in POISON_STATUSES and not problem.is_page
    )
