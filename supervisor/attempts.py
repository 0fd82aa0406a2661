"""Attempts: one dated execution each, and the ledger that gives each exactly one result.

Knows: what was submitted, where it is, what its one result is.
Does not know: procs' life, pipes.
Invariants: an attempt leaves the ledger with its result and only then; a second result for it
is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fsmv2.supervisor.core.action import Action, ActionResult

if TYPE_CHECKING:
    from fsmv2.supervisor.procs import ProcHandle

BEGINS_MAX = 20


class Attempt:
    """One attempt; monotonic seconds in ``*_at``."""

    __slots__ = (
        "begins", "cancel_cause", "dispatched_at", "grace_s", "id", "key", "kind", "lane",
        "name", "payload", "proc", "progress", "reference", "secrets", "submitted_at",
        "timeout_s", "value_type",
    )  # fmt: skip

    def __init__(
        self,
        attempt_id: int,
        kind: type[Action],
        name: str,
        reference: str,
        payload: bytes,
        value_type: Any,
        secrets: tuple[str, ...],
        key: str,
        lane: str,
        timeout_s: float,
        grace_s: float,
        now: float,
    ) -> None:
        self.id = attempt_id
        self.kind = kind
        self.name = name
        self.reference = reference
        self.payload = payload
        self.value_type = value_type
        self.secrets = secrets
        self.key = key
        self.lane = lane
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self.submitted_at = now
        self.dispatched_at: float | None = None
        self.begins = 0
        self.proc: ProcHandle | None = None
        self.progress: str | None = None
        self.cancel_cause: str | None = None

    def __repr__(self) -> str:
        return f"<attempt {self.id} {self.name} key={self.key!r} lane={self.lane}>"


class Ledger:
    """Attempts without a result yet, by id."""

    __slots__ = ("_open", "dropped", "finished", "last_id")

    def __init__(self) -> None:
        self._open: dict[int, Attempt] = {}
        self.last_id = 0
        self.finished: dict[str, int] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._open.values()))

    def next_id(self) -> int:
        """A number never used before in the life of this root."""
        self.last_id += 1
        return self.last_id

    def enter(self, attempt: Attempt) -> None:
        """The attempt is open from now on."""
        self._open[attempt.id] = attempt

    def get(self, attempt_id: int) -> Attempt | None:
        """The open attempt of that number."""
        return self._open.get(attempt_id)

    def close(self, attempt: Attempt, result: ActionResult) -> bool:
        """Take the attempt out with its one result. False: it had one already."""
        if self._open.pop(attempt.id, None) is None:
            self.dropped += 1
            return False
        self.finished[result.status] = self.finished.get(result.status, 0) + 1
        return True
