"""Which orders were begun, and which were answered, in this life and in earlier ones.

Knows: the two journals beside the inbox, and that a last reply in the outbox is an answer too.
Does not know: how an order is run, what is said of one that was interrupted.
Invariants: an order that was noted as begun is known as such after any kill and any power cut,
until it is known as done; of one whose last reply is on disk a kill leaves that reply, or the
note of it, or both. Any thread may call.

What is left: a reply is on disk, and a power cut comes before its note is synced, `SETTLE_S`
later; if the push has delivered it by then, or does so before the next start, its order counts as
interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.spool.journal import Journal
from fsmv2.communicator.switchboard import orders
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError

BEGUN = ".begun"


class Ledger:
    """Reads what earlier lives have left in ``inbox``, which must be claimed. Raises `OSError`."""

    def __init__(self, inbox: Path, outbox: Path) -> None:
        self._done = Journal(inbox)
        self._begun = Journal(inbox, name=BEGUN, reads_all=True)
        self._begun.forget_known(self._done)
        if len(self._begun):
            self._find_answers(outbox)
        for journal in (self._done, self._begun):
            with contextlib.suppress(OSError):  # the next note does it, or says what is wrong
                journal.tidy()

    def is_done(self, uuid: str) -> bool:
        """Whether that order was answered; of the last `journal.KEYS_MAX`."""
        return uuid in self._done

    def is_begun(self, uuid: str) -> bool:
        """Whether that order was begun and not answered: by an earlier life, unless it is open."""
        return uuid in self._begun

    def note_begun(self, uuids: Iterable[str]) -> None:
        """They are about to be run. Raises `OSError`; then they must not be."""
        self._begun.add(uuids)

    def jot_answered(self, uuid: str) -> None:
        """Its last reply is on disk. Quick, and safe from a kill; `note_done` is to follow."""
        self._done.jot(uuid)

    def note_done(self, uuids: Iterable[str]) -> None:
        """They were answered. Raises `OSError`."""
        ended = list(uuids)
        self._done.add(ended)
        self._begun.forget(ended)

    def _find_answers(self, outbox: Path) -> None:
        """A kill came between a last reply and its note."""
        found = [uuid for uuid in answered_in(outbox) if uuid in self._begun]
        self.note_done(found)


def answered_in(outbox: Path) -> Iterator[str]:
    """The UUIDs of the orders whose last reply waits there. Only looks: another may be reading."""
    for name in segments.segment_names(outbox):
        try:
            data = DISK.read(outbox / name)
        except FileNotFoundError:  # pushed by now
            continue
        for line in segments.lines_of(data, name):
            with contextlib.suppress(CodecError):
                kind, payload = codec.decode_content(codec.decode_message(line).content)
                is_reply = kind == orders.REPLY and isinstance(payload, dict)
                if is_reply and payload.get("actionReplyState") in orders.LAST:
                    yield str(payload.get("actionUUID"))
