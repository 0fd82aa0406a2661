"""Which orders were begun, and which were answered, in this life and in earlier ones.

Knows: the notes beside the inbox: what was begun, what is done, which last replies are on their
way, which messages were begun to be routed; that a last reply in the outbox is an answer too.
Does not know: how an order is run, what is said of one that was interrupted.
Invariants: an order that was noted as begun is known as such after any kill and any power cut,
until it is known as done; a last reply is kept before the push can see it, so that after a kill
an order has the end that it may have been told, and no other: if it is in doubt whether that
reply has left, the same one leaves again. Any thread may call.

What is left: a power cut within `SETTLE_S` of a last reply that was pushed by then, or is pushed
before the next start, and whose note it undoes; its order counts as interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fsmv2.communicator.spool import TooLarge, append, segments
from fsmv2.communicator.spool.answers import Answers
from fsmv2.communicator.spool.journal import Journal
from fsmv2.communicator.spool.tries import Tries
from fsmv2.communicator.switchboard import orders
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError

BEGUN = ".begun"


class Ledger:
    """Reads what earlier lives have left in ``inbox``, which must be claimed. Raises `OSError`."""

    def __init__(self, inbox: Path, outbox: Path) -> None:
        self._begun = Journal(inbox, name=BEGUN, reads_all=True)
        # What `.done` forgets must not be left in `.begun`: it would count as interrupted.
        self._done = Journal(inbox, reads_all=True, before_trim=self._begun.tidy)
        self._answers = Answers(inbox)
        self.tries = Tries(inbox)
        self._begun.forget_known(self._done)
        self._finish_answers(outbox)
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

    def keep_answer(self, uuid: str, line: bytes) -> None:
        """Its last reply is about to be written to the outbox. Quick, and safe from a kill. Raises
        `OSError`; then it must not be: after a kill the order would be ended a second time."""
        self._answers.keep(uuid, line)

    def jot_answered(self, uuid: str) -> None:
        """Its last reply is on disk. Quick, and safe from a kill; `note_done` is to follow."""
        self._done.jot(uuid)

    def note_done(self, uuids: Iterable[str]) -> None:
        """They were answered. Raises `OSError`."""
        ended = list(uuids)
        self._done.add(ended)
        self._begun.forget(ended)
        self._answers.drop(ended)

    def _finish_answers(self, outbox: Path) -> None:
        """A kill came between a last reply and its note."""
        on_their_way = {}
        for line in self._answers.lines():
            uuid = _answered_by(line)
            if uuid is not None and uuid not in self._done:
                on_their_way[uuid] = line
        found = set()
        if on_their_way or len(self._begun):
            asked = on_their_way.keys()
            found = {uuid for uuid in answered_in(outbox) if uuid in asked or uuid in self._begun}
        again = [line for uuid, line in on_their_way.items() if uuid not in found]
        for group in segments.groups(again):
            append(outbox, group, bounds=None)
        self.note_done([*on_their_way, *found])
        with contextlib.suppress(OSError):
            self._answers.drop_all()


def answered_in(outbox: Path) -> Iterator[str]:
    """The UUIDs of the orders whose last reply waits there. Only looks: another may be reading."""
    for name in segments.segment_names(outbox):
        try:
            data = segments.read(outbox / name)
        except (FileNotFoundError, IsADirectoryError, PermissionError, TooLarge):
            continue  # pushed by now; or none of ours, which must not keep anybody from starting
        for line in segments.lines_of(data, name):
            uuid = _answered_by(line)
            if uuid is not None:
                yield uuid


def _answered_by(line: bytes) -> str | None:
    """The UUID of the order whose last reply an outbox's line is; None: it is none."""
    try:
        kind, payload = codec.decode_content(codec.decode_message(line).content)
    except CodecError:
        return None
    is_reply = kind == orders.REPLY and isinstance(payload, dict)
    if not is_reply or payload.get("actionReplyState") not in orders.LAST:
        return None
    return str(payload.get("actionUUID"))
