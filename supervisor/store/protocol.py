"""The words of every store: documents with revisions, a log of changes, a snapshot.

Knows: the `Store` protocol, when a document has changed and how, when an identity may change.
Does not know: where documents are kept, who writes them.
Invariants: a key is a worker's full path; a document is a JSON object in canonical form, so that
equal content is equal bytes and no caller holds what the store holds; a revision is the store's
counter at the last change of the content, so it only rises, across removals too; a reader of
`changes` sees every change or is given all there is, never a part without knowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from fsmv2.ipc.messages import Write
from fsmv2.supervisor.core.errors import FsmError, SpecError

Role = Literal["identity", "desired", "observed", "resume"]
LogRole = Literal["identity", "desired", "observed", "removed"]
ROLES: tuple[Role, ...] = ("identity", "desired", "observed", "resume")
REMOVED: Literal["removed"] = "removed"
PAGE = 100

_canonical = msgspec.json.Encoder(order="sorted", enc_hook=repr)


class StoreConflict(FsmError):
    """Writes that the store does not take; all others of the same call are kept."""

    def __init__(self, refused: list[str]) -> None:
        super().__init__("; ".join(refused))
        self.refused = refused


class Changes(msgspec.Struct, frozen=True):
    """How a document differs from the one before: by key at its top level."""

    added: dict[str, Any] = {}
    modified: dict[str, dict[str, Any]] = {}
    removed: dict[str, Any] = {}


class Entry(msgspec.Struct, frozen=True):
    """One line of the log. ``at`` is seconds since the epoch."""

    sync: int
    path: str
    role: LogRole
    at: float
    changes: Changes


class Record(msgspec.Struct, frozen=True):
    """All of one worker. Copies: changing them changes nothing in the store."""

    path: str
    identity: dict[str, Any]
    desired: dict[str, Any] | None = None
    observed: dict[str, Any] | None = None
    resume: dict[str, Any] | None = None
    revisions: dict[str, int] = {}


class Everything(msgspec.Struct, frozen=True):
    """All workers at one moment of the store's counter, by path."""

    sync: int
    workers: dict[str, Record]


class News(msgspec.Struct, frozen=True):
    """What `Store.changes` gives. ``sync`` is where to ask on from. With a ``snapshot`` there are
    no entries: the reader throws away what it has and takes that."""

    sync: int
    entries: tuple[Entry, ...] = ()
    has_more: bool = False
    snapshot: Everything | None = None


class Recalled(msgspec.Struct, frozen=True):
    """What a new root goes on with for one worker. ``worker_type`` is empty for one that was
    removed: only its count of incarnations goes on. Fields that a newer version has written are
    passed over, missing ones have their defaults."""

    generation: int
    worker_type: str = ""
    desired: dict[str, Any] = {}
    resume: dict[str, Any] = {}


class Store(Protocol):
    """A store. Every call is one transaction."""

    def save(self, writes: Iterable[Write]) -> None:
        """Take documents. One with the content of the present one changes nothing at all.

        Raises `StoreConflict` for identities that contradict the present one and for documents
        of workers without one.
        """

    def load(self, path: str) -> Record | None:
        """All of one worker; None when there is none."""

    def snapshot(self) -> Everything:
        """All of all workers."""

    def changes(self, since: int, limit: int = PAGE) -> News:
        """At most ``limit`` changes after counter ``since``, in order; everything there is when
        some of them are no longer in the log, or when ``since`` is not this store's."""

    def compact(self, keep: int, before: float) -> int:
        """Forget entries of the log beyond the newest ``keep`` and those from before that moment,
        and removed workers from before it. Returns how many entries went."""

    def resume(self) -> dict[str, Recalled]:
        """What a new root goes on with, by path."""

    def close(self) -> None:
        """Let go of what it is kept in."""


def document(content: Any) -> bytes:
    """``content`` in canonical form. What has a wire form of its own, a Secret, shows as its
    ``repr``."""
    return _canonical.encode(content)


def put(path: str, role: Role, content: Mapping[str, Any], at: float) -> Write:
    """A write of one document."""
    return Write(path, role, at, document(content))


def removal(path: str, at: float) -> Write:
    """A write that says that the worker is gone."""
    return Write(path, REMOVED, at, b"")


def content_of(raw: bytes) -> dict[str, Any]:
    """A document as plain data, a copy at each call. Raises `SpecError` for what is none."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise SpecError(f"cannot read a document of {len(raw)} bytes: {error}") from None


def difference(old: bytes | None, new: bytes) -> Changes | None:
    """What makes ``new`` of ``old``; None: nothing, they are equal. Told by canonical form, in
    which 1, 1.0 and true are three."""
    if old == new:
        return None
    before = content_of(old) if old is not None else {}
    after = content_of(new)
    return Changes(
        added={key: after[key] for key in after.keys() - before.keys()},
        modified={
            key: {"old": before[key], "new": after[key]}
            for key in before.keys() & after.keys()
            if document(before[key]) != document(after[key])
        },
        removed={key: before[key] for key in before.keys() - after.keys()},
    )


def misfit(write: Write, identity: bytes | None) -> str | None:
    """Why ``write`` is refused where the present identity is ``identity``, or None.

    An identity is written once in an incarnation; only a later incarnation has another one. A
    worker that was removed may begin anew.
    """
    if write.role == REMOVED:
        return None
    if write.role != "identity":
        return (
            None if identity is not None else f"{write.path}: got {write.role} before an identity"
        )
    if identity in (None, write.document):
        return None
    got, last = generation_of(write.document), generation_of(identity or b"{}")
    if got > last:
        return None
    return f"{write.path}: got another identity for incarnation {got}, want one above {last}"


def generation_of(identity: bytes) -> int:
    """Which incarnation an identity is of; 0 where it does not say."""
    got = content_of(identity).get("generation", 0)
    return got if isinstance(got, int) else 0


def record_of(path: str, present: Mapping[str, tuple[int, bytes]]) -> Record:
    """The record of a worker with these revisions and documents by role."""
    contents = {role: content_of(raw) for role, (_revision, raw) in present.items()}
    return Record(
        path,
        contents["identity"],
        contents.get("desired"),
        contents.get("observed"),
        contents.get("resume"),
        {role: present[role][0] for role in ROLES if role in present},
    )


def recalled_of(present: Mapping[str, bytes], tombstone: int) -> Recalled:
    """What goes on of a worker with these documents by role, or of one that was removed in
    incarnation ``tombstone``."""
    identity = present.get("identity")
    if identity is None:
        return Recalled(tombstone)
    desired, resume = (content_of(present.get(role, b"{}")) for role in ("desired", "resume"))
    return Recalled(
        generation_of(identity), str(content_of(identity).get("worker_type", "")), desired, resume
    )
