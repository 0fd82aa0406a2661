"""Relay to inbox: one direction of a sync.

Knows: that a pull is destructive, and so that its reply is saved before it is read.
Does not know: states, backoff, the other direction, who empties the inbox.
Invariants: the file that takes the reply is open before the request is made; a reply is synced
to disk before it is decoded; a full inbox is not pulled into, which is neither error nor
success.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from fsmv2.communicator import spool
from fsmv2.communicator.actions.call import Call
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.transport.codec import CodecError
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.supervisor import ActionContext

INBOX_FILES_MAX = 1_000
# Replies known to hold nothing: an idle relay sends one per poll, not worth two disk syncs.
_EMPTY_REPLIES = frozenset(
    (b"", b"null", b"{}", b'{"UMHMessages":[]}', b'{"UMHMessages":null}', b'{"UMHMessages": []}')
)


def pull_inbox(call: Call, inbox: Path, before: Direction) -> Direction:
    """Take what waits at the relay into ``inbox`` and return how pulling stands."""
    moved = unreadable = 0
    problem: Problem | None = None
    try:
        for reply in spool.saved_replies(inbox):  # a killed attempt got this far
            moved += _unpack(call.ctx, reply)[0]
        waiting = len(spool.inbox_files(inbox))
        if waiting >= INBOX_FILES_MAX:
            return msgspec.structs.replace(before, moved=moved, waiting=waiting, idle_s=0.0)
        with spool.writing(inbox) as draft:
            body = call.transport.pull(call.token)
            if body.strip() not in _EMPTY_REPLIES:
                draft.file.write(body)
                found, unreadable = _unpack(call.ctx, draft.publish(".reply"))
                moved += found
        waiting = len(spool.inbox_files(inbox))
    except TransportError as error:
        problem, waiting = error.problem, before.waiting
    except OSError as error:
        text = f"cannot work in the inbox: {error.strerror}"
        problem, waiting = Problem(Kind.UNKNOWN, text), before.waiting
    if problem is None and unreadable and not moved:
        problem = Problem(Kind.UNKNOWN, "cannot read the pull reply: it is kept as .unreadable")
    if problem is not None and before.problem is None:
        call.ctx.log("pull failed", "warning", kind=str(problem.kind), status=problem.status)
    return Direction(
        errors_in_row=0 if problem is None else before.errors_in_row + 1,
        problem=problem,
        idle_s=0.0,
        moved=moved,
        waiting=waiting,
    )


def _unpack(ctx: ActionContext, reply: Path) -> tuple[int, int]:
    """Messages and unreadable elements of a saved reply; one unreadable whole counts as one."""
    try:
        moved, unreadable = spool.unpack(reply)
    except CodecError:
        moved, unreadable = 0, 1
    if unreadable:
        ctx.log("pull reply kept as unreadable", "warning", file=f"{reply.stem}.unreadable")
    return moved, unreadable
