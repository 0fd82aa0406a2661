"""What waits to be saved: the newest document of each worker and role, in orders of a few.

Knows: which write replaces which, what is out and not answered yet.
Does not know: who carries orders, moments.
Invariants: one order is out at a time, so that a writer's death leaves no doubt about what has to
be sent again, and nothing is saved out of order; no more waits than there are workers times roles.
"""

from __future__ import annotations

from fsmv2.ipc.messages import Save, Write
from fsmv2.supervisor.store.protocol import REMOVED, ROLES

WRITES_MAX = 500
BYTES_MAX = 256 * 1024


class Outbox:
    """Call `take` with writes, `next_order` when something may be sent, then one of `saved` and
    `take_back`."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Write] = {}
        self._out: Save | None = None
        self._number = 0

    def __repr__(self) -> str:
        return f"<Outbox {len(self._waiting)} waiting, out {self.number_out}>"

    def __len__(self) -> int:
        return len(self._waiting) + (len(self._out.writes) if self._out is not None else 0)

    @property
    def number_out(self) -> int | None:
        """The number of the order that is out."""
        return self._out.number if self._out is not None else None

    def take(self, write: Write) -> None:
        """Have ``write`` wait; it replaces what it makes needless."""
        waiting = self._waiting
        if write.role == REMOVED:
            for role in ROLES:
                waiting.pop((write.path, role), None)
        elif write.role == "identity":
            # A later incarnation replaces the one before, removed or not.
            waiting.pop((write.path, REMOVED), None)
        waiting[write.path, write.role] = write

    def next_order(self) -> Save | None:
        """The oldest that wait, as the order that is out now; None while one is, or for nothing."""
        if self._out is not None or not self._waiting:
            return None
        writes: list[Write] = []
        size = 0
        for write in self._waiting.values():
            size += len(write.document) + len(write.path)
            if writes and (size > BYTES_MAX or len(writes) == WRITES_MAX):
                break
            writes.append(write)
        for write in writes:
            del self._waiting[write.path, write.role]
        self._number += 1
        self._out = Save(self._number, writes)
        return self._out

    def saved(self, number: int) -> None:
        """Order ``number`` is done; a late answer to an earlier one is passed over."""
        if self.number_out == number:
            self._out = None

    def take_back(self) -> None:
        """What is out waits again, before all else, unless something newer has replaced it."""
        if self._out is None:
            return
        newer, self._waiting = self._waiting, {}
        for write in (*self._out.writes, *newer.values()):
            self.take(write)
        self._out = None
