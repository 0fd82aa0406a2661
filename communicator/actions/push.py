"""Outbox to relay: one direction of a sync.

Knows: batches, sending one by one after a failure, which failures may be one message's own.
Does not know: states, backoff, the other direction.
Invariants: one at a time reads an outbox and sends from it, whoever asks; a file is deleted only
after the relay answered 2xx for the request it was in; the order of the outbox is kept; a message
is set aside only when the relay, asked for it alone, has refused it, then taken another, and then
refused it again; what is set aside is never deleted.

A refused message is *in doubt*: whether it is the message or the relay, the next one tells. As
long as none is taken nothing is set aside: a relay, or something before it, that refuses
everything empties no outbox. When one is taken, those in doubt are sent once more, in their order,
and only those that fail again are set aside. So a message in doubt that succeeds then may have been
overtaken by one.

What is in doubt is carried over: a try asks the first again, for the relay may be well by now, and
goes on behind the last. Where there is time for one request only, these take turns. So each try
gets further, however slow the relay is. What was taken meanwhile is noted and not sent again.

A large message that a slow line does not carry in time ends like an outage: without an answer.
Once that has been so `SLOW_AT_ERRORS` times in a row, a large message at the head is in doubt too,
and then it is set aside only in a try in which the relay has taken another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.actions.call import Access, Call
from fsmv2.communicator.actions.told import after, taken_by_another, told
from fsmv2.communicator.outcomes import Direction, Doubt
from fsmv2.communicator.spool import segments
from fsmv2.communicator.transport import errors
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.supervisor import Action, ActionContext

BATCH_MESSAGES_MAX = 100
BATCH_BYTES_MAX = 4 * 1024 * 1024
REQUESTS_MAX = 100
# Only these say "this message, whenever you send it". 404, 408 and 425 do not.
POISON_STATUSES = frozenset({400, 413, 422})
# So many more in doubt end a try, the more the longer the row of errors is: more than these may
# be refused for themselves one after the other.
DOUBTED_PER_ERROR = 3
DOUBTED_MAX = 50
# A message in doubt with none behind it is asked again at this interval, not at a growing one:
# the next that comes is not to wait for it.
ALONE_S = 10.0
# From this size on the line may be too slow for a message, after so many errors in a row.
LARGE_BYTES = 256 * 1024
SLOW_AT_ERRORS = 3
# So many that were taken before all in doubt are settled are noted; then no more are sent.
TAKEN_MAX = 50


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
        doubt=sending.doubt,
    )
    return told(call.ctx, "push", before, direction)


class _Sending:
    """One try, and what it has come to so far, also which of those that wait are in doubt."""

    def __init__(self, call: Call, outbox: Path, before: Direction) -> None:
        self.asked = False
        self.moved = self.waiting = self.refused = 0
        self.strangers = before.strangers
        self.doubt = before.doubt
        self._call = call
        self._outbox = outbox
        self._before = before
        self._single = before.problem is not None
        self._found = 0  # in doubt since this try
        self._first_is_due = before.doubt.last is not None and not before.doubt.head_asked
        self._first_asked = False
        self._problem = before.problem

    def run(self, may_go_on: Callable[[], bool]) -> Problem | None:
        """Send until nothing waits or it is enough for now; returns what is in doubt then.

        Raises `TransportError`, `AsideFull`, `OSError`, `MemoryError`.
        """
        if self._go_on_settling():
            self._doubt_the_slow()
            for _ in range(REQUESTS_MAX):
                taken = self._choose()
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
                if not self._was_taken(taken):
                    break
        if not self.doubt.last or self._problem is None:
            return None
        text = f"{self._problem.text}; {self.doubt.count} in doubt until one is taken"
        return msgspec.structs.replace(
            self._problem,
            text=errors.clip(text),
            retry_after_s=self._problem.retry_after_s or ALONE_S,
        )

    def _choose(self) -> list[spool.Outgoing]:
        """What is to be sent next: while some are in doubt the first of them, once, and then one
        behind the last."""
        if not self.doubt.last:
            return self._next(1 if self._single else BATCH_MESSAGES_MAX)
        if self._first_is_due:
            self._first_is_due = False
            first = self._next(1)
            if first and not self._is_too_slow_for(first[0]):
                return first
        behind = self._next(1, self.doubt.last) if self._may_find_out() else []
        return behind if behind or self._first_asked else self._next(1)

    def _may_find_out(self) -> bool:
        """Whether one behind is to be sent: not where nothing could be set aside then, nor noted.
        Raises `AsideFull` where it is known by now that the relay still refuses the first."""
        files = min(self.doubt.count, segments.KEPT_FILES_MAX)
        try:
            spool.check_room_aside(self._outbox, files, self.doubt.size)
        except spool.AsideFull:
            if self._first_asked:
                raise
            return False
        return len(self.doubt.taken) < TAKEN_MAX

    def _was_taken(self, taken: list[spool.Outgoing]) -> bool:
        """The relay has ``taken`` these. False: no time left to settle what is in doubt."""
        last = self.doubt.last
        if last is None or taken[0].is_within(last):
            self._acknowledge(taken)
            self._settled(taken[0].size)
        else:
            one = taken[0]
            self._count(taken)
            self.doubt = msgspec.structs.replace(
                self._up_to(one), taken=(*self.doubt.taken, one.mark), head_asked=False
            )
        return last is None or self._settle(is_proven=True)

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

    def _next(self, most: int, behind: tuple[str, int] | None = None) -> list[spool.Outgoing]:
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
        self._count(taken)
        self.waiting -= len(taken)

    def _count(self, taken: list[spool.Outgoing]) -> None:
        metrics.moved("push", len(taken), sum(each.size for each in taken))
        self.moved += len(taken)

    def _up_to(self, one: spool.Outgoing) -> Doubt:
        name = os.fsencode(one.path.name)
        return msgspec.structs.replace(self.doubt, name=name, index=one.index)

    def _in_doubt_too(self, one: spool.Outgoing) -> None:
        self.doubt = msgspec.structs.replace(
            self._up_to(one), count=self.doubt.count + 1, size=self.doubt.size + one.size
        )
        self._found += 1

    def _is_too_slow_for(self, one: spool.Outgoing) -> bool:
        """Whether the line may be, by what the last try has come to."""
        problem = self._before.problem
        return one.size >= LARGE_BYTES and problem is not None and problem.kind is Kind.NETWORK

    def _doubt_the_slow(self) -> None:
        """Put large ones that are next in doubt unsent, if they may be all that is wrong."""
        before = self.doubt
        if self._before.errors_in_row < SLOW_AT_ERRORS:
            return
        while self._found < DOUBTED_MAX:
            following = self._next(1, self.doubt.last)
            if not following:  # nothing small is there that could tell
                self.doubt, self._found = before, 0
                return
            if not self._is_too_slow_for(following[0]):
                return
            self._in_doubt_too(following[0])

    def _refused(self, one: spool.Outgoing, problem: Problem) -> None:
        self._single = True
        self._problem = problem
        if self.doubt.last and one.is_within(self.doubt.last):
            self._first_asked = True
            self.doubt = msgspec.structs.replace(self.doubt, head_asked=True)
            return
        self._first_asked = self._first_asked or not self.doubt.last
        self.doubt = msgspec.structs.replace(self.doubt, head_asked=not self.doubt.last)
        self._in_doubt_too(one)
        if self._found >= min(DOUBTED_MAX, DOUBTED_PER_ERROR * max(1, self._before.errors_in_row)):
            raise TransportError(problem)

    def _go_on_settling(self) -> bool:
        """Where the last try had to leave off. False: no time left to settle the rest."""
        if not self.doubt.last:
            return True
        first = self._next(1)
        if not first or not first[0].is_within(self.doubt.last):  # others have sent them
            self.doubt = Doubt()
            return True
        if not self.doubt.taken:
            return True
        if self._is_too_slow_for(first[0]) and self._next(1, self.doubt.last):
            return True  # one more is to be taken first
        return self._settle(is_proven=False)

    def _settle(self, *, is_proven: bool) -> bool:
        """The relay has taken another: send those in doubt once more. False: no time left.

        ``is_proven``: it has taken it in this try, so that no outage can have begun since.
        """
        while (head := self._next(1)) and self.doubt.last and head[0].is_within(self.doubt.last):
            one = head[0]
            if one.mark in self.doubt.taken:
                spool.acknowledge(head)
                self.waiting -= 1
                continue
            if not self._call.has_time:
                return False
            try:
                self._send(head)
            except TransportError as error:
                is_slow = error.problem.kind is Kind.NETWORK and one.size >= LARGE_BYTES
                if not (is_slow and is_proven) and not _is_poison(error.problem):
                    raise
                self._set_aside(one, error.problem)
            else:
                self._acknowledge(head)
            self._settled(one.size)
        self.doubt = Doubt()
        return True

    def _settled(self, size: int) -> None:
        count, left = max(0, self.doubt.count - 1), max(0, self.doubt.size - size)
        self.doubt = msgspec.structs.replace(self.doubt, count=count, size=left)

    def _set_aside(self, one: spool.Outgoing, problem: Problem) -> None:
        kept = spool.set_aside(one)
        self.refused += 1
        self._call.ctx.log(
            "message set aside: the relay takes others",
            "warning",
            file=kept.name,
            bytes=one.size,
            status=problem.status,
            kind=str(problem.kind),
        )


def _is_poison(problem: Problem) -> bool:
    """Whether the relay itself, and nothing on the way, has refused what it was sent."""
    return (
        problem.kind is Kind.UNKNOWN and problem.status in POISON_STATUSES and not problem.is_page
    )
