"""Relay to inbox: one direction of a sync.

Knows: that a pull is destructive, and so that its reply is saved before it is read; how much room
an inbox must have.
Does not know: states, backoff, the other direction, who empties the inbox.
Invariants: one at a time pulls into an inbox, whoever asks; the file that takes the reply, and room
for it, are there before the request is made; a reply is synced to disk before it is decoded;
without room among the inbox's messages nothing is pulled, which is neither error nor success,
without room on its disk neither, which is an error: what waits is safe where it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.actions.call import Access, Call
from fsmv2.communicator.actions.told import after, taken_by_another, told
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.spool.instance import leave_instance
from fsmv2.communicator.spool.unpacking import aside_of
from fsmv2.communicator.transport.codec import CodecError
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.supervisor import Action, ActionContext

INBOX_MESSAGES_MAX = 1_000
INBOX_BYTES_MAX = 256 * 1024 * 1024
# Nothing is pulled with less room than this, until there is as much again: without the second
# number a consumer that is a little too slow would have pulling stop and go with every message.
ROOM_MIN = 50
ROOM_AGAIN = 100
# A reply that cannot be written is held until so many seconds before the attempt's end.
SAVE_S_LEFT = 2.0
# A reply of this many may not have been all: relays bound what they hand out at a time.
LARGE_REPLY = 100
# Replies known to hold nothing: an idle relay sends one per poll, not worth two disk syncs.
_EMPTY_REPLIES = frozenset(
    (b"", b"null", b"{}", b'{"UMHMessages":[]}', b'{"UMHMessages":null}', b'{"UMHMessages": []}')
)


class PullAction(Action, frozen=True):
    """Take what waits at the relay into ``inbox``; ``before`` is how pulling stands."""

    timeout_s: ClassVar[float] = 40.0
    # A pull that has left must be allowed to arrive: the relay has forgotten it already.
    grace_s: ClassVar[float] = 1.0

    access: Access
    inbox: str
    before: Direction = Direction()
    messages_max: int = INBOX_MESSAGES_MAX
    bytes_max: int = INBOX_BYTES_MAX

    def execute(self, ctx: ActionContext) -> Direction:
        """Pull once."""
        return self.run(ctx, self.before)

    def run(self, ctx: ActionContext, before: Direction) -> Direction:
        """The same as part of a sync."""
        try:
            call = self.access.call(ctx)
        except TransportError as error:
            return told(ctx, "pull", before, after(before, error.problem))
        return pull_inbox(call, Path(self.inbox), before, self.messages_max, self.bytes_max)


def pull_inbox(
    call: Call,
    inbox: Path,
    before: Direction,
    messages_max: int = INBOX_MESSAGES_MAX,
    bytes_max: int = INBOX_BYTES_MAX,
) -> Direction:
    """Take what waits at the relay into ``inbox`` and return how pulling stands."""
    pulling = _Pulling(call, inbox, before, messages_max, bytes_max)
    problem: Problem | None = None
    try:
        with spool.pulling(inbox):
            pulling.run()
    except TransportError as error:
        problem = error.problem
    except (spool.NoRoom, spool.AsideFull) as error:
        problem = Problem(Kind.CHANNEL_FULL, f"not pulled: {error}")
    except spool.Taken as error:
        problem = taken_by_another("pull", error)
    except OSError as error:
        problem = Problem(Kind.UNKNOWN, f"cannot work in the inbox: {error.strerror}")
    except MemoryError:
        problem = Problem(Kind.UNKNOWN, "cannot unpack: it needs more memory than there is")
    moved, waiting, aside = pulling.moved, pulling.waiting, pulling.aside
    if pulling.held:
        held = after(
            before, None, asked=False, moved=moved, waiting=waiting, refused=aside, held=True
        )
        return told(call.ctx, "pull", before, held)
    if problem is None and pulling.unreadable and not moved:
        problem = Problem(Kind.UNKNOWN, "cannot read the pull reply: it is kept as .unreadable")
    direction = after(
        before, problem, asked=pulling.asked, moved=moved, waiting=waiting, refused=aside
    )
    return told(call.ctx, "pull", before, direction)


class _Pulling:
    """One try, and what it has come to so far. ``unreadable`` is of the reply it asked for,
    ``aside`` of all."""

    def __init__(
        self, call: Call, inbox: Path, before: Direction, messages_max: int, bytes_max: int
    ) -> None:
        self.asked = self.held = False
        self.moved = self.unreadable = self.aside = 0
        self.waiting = before.waiting
        self._call = call
        self._inbox = inbox
        self._room_min = ROOM_AGAIN if before.held else ROOM_MIN
        self._messages_max = messages_max
        self._bytes_max = bytes_max

    def run(self) -> None:
        """Unpack what is there, and pull once if there is room.

        Raises `TransportError`, `NoRoom`, `AsideFull`, `OSError`, `MemoryError`.
        """
        for reply in spool.saved_replies(self._inbox):  # a killed attempt got this far
            self._unpack(reply, DISK.size(reply))
        self.waiting, size, _ = spool.usage(self._inbox)
        room = self._messages_max - self.waiting if size < self._bytes_max else 0
        self.held = room < self._room_min
        if self.held:
            return
        spool.check_room_aside(self._inbox)
        place = spool.place_for(self._inbox)
        try:
            leave_instance(self._inbox, self._call.instance_uuid)
            self.asked = True
            with metrics.request("pull"):
                body = self._call.transport.pull(self._call.token)
            if body.strip() not in _EMPTY_REPLIES:
                self.unreadable = self._unpack(_save(self._call.ctx, place, body), len(body))
        finally:
            place.discard()
        self.waiting = spool.usage(self._inbox).messages

    def _unpack(self, reply: Path, size: int) -> int:
        found, unreadable = _unpack(self._call.ctx, reply)
        metrics.moved("pull", found, size)
        self.moved += found
        self.aside += unreadable
        return unreadable


def _save(ctx: ActionContext, place: spool.Place, body: bytes) -> Path:
    """The reply, on disk; held and tried again for as long as this attempt may last."""
    try:
        return place.save(body, lambda: not ctx.cancelled and ctx.deadline_s > SAVE_S_LEFT)
    except OSError as error:
        ctx.log("pull reply lost", "error", bytes=len(body), why=error.strerror)
        why = f"a reply of {len(body)} bytes is lost, the inbox takes nothing: {error.strerror}"
        raise TransportError(Problem(Kind.UNKNOWN, why)) from None


def _unpack(ctx: ActionContext, reply: Path) -> tuple[int, int]:
    """Messages and unreadable elements of a saved reply; one unreadable whole counts as one."""
    try:
        moved, unreadable = spool.unpack(reply)
    except CodecError:  # of the whole reply, or it was begun too often
        moved, unreadable = 0, 1
    if unreadable:
        ctx.log("pull reply kept as unreadable", "warning", file=aside_of(reply).name)
    return moved, unreadable
