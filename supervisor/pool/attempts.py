"""Attempts: one dated execution each, and the ledger that gives each exactly one result.

Knows: what was submitted, where it is, what its one result is.
Does not know: procs' life, pipes.
Invariants: an attempt leaves the ledger with its result and only then; a second result for it
is dropped and counted.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from fsmv2.ipc.codec import decode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.redact import secrets_in, texts_in

if TYPE_CHECKING:
    from fsmv2.supervisor.core.action import ActionResult
    from fsmv2.supervisor.pool.kinds import ActionKind

UNBEGUN_MAX = 20


# Without the garbage collector: no cycle through it lasts, for a proc lets go of its attempts when
# they are over.
class Attempt(msgspec.Struct, eq=False, gc=False):
    """One attempt; monotonic seconds in ``*_at``. ``lane`` is the lane it was submitted to and
    whose queue its key belongs to; ``proc`` is where it runs or waits in the pipe, as its order
    number ``place``; ``unbegun`` is how many procs have died before they began it."""

    id: int
    kind: ActionKind
    payload: bytes
    key: str
    lane: Any
    timeout_s: float
    submitted_at: float
    urgent: bool = False
    place: int = 0
    proc: Any = None
    unbegun: int = 0
    progress: str | None = None
    cancel_cause: str | None = None
    cancelled_at: float = 0.0
    is_held: bool = False
    is_terminated: bool = False
    is_told_of_stop: bool = False
    hidden: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"<attempt {self.id} {self.name} key={self.key!r} lane={self.lane.name}>"

    @property
    def name(self) -> str:
        """The action type's short name."""
        return self.kind.name

    def tell_of_stop(self) -> None:
        """Its worker is to stop. One that waits behind another learns it at its turn: the page has
        room for one."""
        self.is_told_of_stop = True
        if self.proc is not None and self.proc.attempt is self:
            self.proc.page.tell_of_stop(self.id)

    def secrets(self) -> tuple[str, ...]:
        """The texts of the action that must not be shown. Read from what was sent, when they
        are needed: most attempts end without a word. Never raises."""
        if self.hidden is None:
            self.hidden = self._read_secrets() if self.kind.may_hide else ()
        return self.hidden

    def _read_secrets(self) -> tuple[str, ...]:
        try:
            return secrets_in(decode(self.payload, self.kind.type))
        except FrameError:
            # A field of another type than declared, or a type's own code that raises: the proc
            # cannot read it either, but what it says meanwhile is told. Any text may be secret.
            return texts_in(decode(self.payload, Any))


class Ledger:
    """Attempts without a result yet, by id."""

    __slots__ = ("dropped", "finished", "next_id", "open")

    def __init__(self) -> None:
        self.open: dict[int, Attempt] = {}  # for looks; `enter` and `close` change it
        # Also called without the lock that a library pool has: one step of C code.
        self.next_id = itertools.count(1).__next__
        self.finished: defaultdict[str, int] = defaultdict(int)
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.open)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self.open.values()))

    def enter(self, attempt: Attempt) -> None:
        """The attempt is open from now on."""
        self.open[attempt.id] = attempt

    def get(self, attempt_id: int) -> Attempt | None:
        """The open attempt of that number."""
        return self.open.get(attempt_id)

    def close(self, attempt: Attempt, result: ActionResult) -> bool:
        """Take the attempt out with its one result. False: it had one already."""
        if self.open.pop(attempt.id, None) is None:
            self.dropped += 1
            return False
        self.finished[result.status] += 1
        return True

    def count(self, result: ActionResult) -> None:
        """One more result of its status."""
        self.finished[result.status] += 1
