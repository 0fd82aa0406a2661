"""The store in a file: the one place that knows SQLite.

Knows: the tables, the pragmas, what makes a file damaged.
Does not know: processes, when it is called.
Invariants: those of `protocol`; one transaction a call; a file that cannot be trusted is moved
aside, never written to and never deleted; a file of a newer version, and one that is no store of
ours, is left alone.

WAL with synchronous=NORMAL: a commit is one append to the log file, without waiting for the
disk. Whatever dies, root, writer or both, the kernel has the bytes: nothing is lost and no
document is torn. When the machine itself loses power the file is whole, and the last
moments may be missing: workers observe again anyway. FULL would wait for the disk at each commit
to save those moments.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, cast

import msgspec

from fsmv2.ipc.messages import Write
from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.store.protocol import (
    PAGE,
    REMOVED,
    Changes,
    Entry,
    Everything,
    News,
    Recalled,
    Record,
    StoreConflict,
    content_of,
    difference,
    generation_of,
    misfit,
    recalled_of,
    record_of,
)
from fsmv2.supervisor.store.storefile import APPLICATION_ID, FOREIGN

VERSION = 1
BUSY_MS = 5_000
WAL_BYTES_KEPT = 16 << 20
_SCHEMA = (
    """CREATE TABLE documents (
        path TEXT NOT NULL, role TEXT NOT NULL, revision INTEGER NOT NULL, at REAL NOT NULL,
        document BLOB NOT NULL, PRIMARY KEY (path, role)) WITHOUT ROWID""",
    """CREATE TABLE tombstones (
        path TEXT PRIMARY KEY, generation INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE log (
        sync INTEGER PRIMARY KEY, path TEXT NOT NULL, role TEXT NOT NULL, at REAL NOT NULL,
        changes BLOB NOT NULL)""",
    "CREATE TABLE counter (sync INTEGER NOT NULL, low_water INTEGER NOT NULL)",
)
_TABLES = {"documents", "tombstones", "log", "counter"}
# What a file that is no whole database says; anything else is the machine's trouble.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SaveError(Exception):
    """The machine did not take it: disk full, file gone, not allowed. Nothing was saved."""


class DamagedError(Exception):
    """The file is not what was written to it. ``is_ours``: it was seen to be a store before."""

    def __init__(self, text: str, is_ours: bool = False) -> None:
        super().__init__(text)
        self.is_ours = is_ours


class SqliteStore:
    """A `Store` in the file ``path``, made with counter ``origin`` when there is none: above what
    any earlier store of the same tree has reached, so that no reader takes it for that one.

    Raises `DamagedError`, or `StartError` for a file it cannot open or must not touch.
    ``read_only``: for readers in other processes, while one writes.
    """

    def __init__(self, path: str, origin: int = 0, *, read_only: bool = False) -> None:
        self._sync = origin
        mode = "?mode=ro" if read_only else ""
        try:
            self._db = sqlite3.connect(
                f"file:{_quoted(path)}{mode}",
                uri=True,
                isolation_level=None,
                timeout=BUSY_MS / 1000,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise StartError(f"cannot open store {path}: {error}") from None
        try:
            if not read_only:
                self._prepare(path)
        except sqlite3.Error as error:
            self._db.close()
            if _is_damage(error):
                raise DamagedError(str(error)) from None
            raise StartError(f"cannot open store {path}: {error}") from None
        except SaveError as error:
            self._db.close()
            raise StartError(f"cannot open store {path}: {error}") from None
        except BaseException:
            self._db.close()
            raise

    def __repr__(self) -> str:
        return f"<SqliteStore at {self._sync}>"

    def _prepare(self, path: str) -> None:
        version = self._one("PRAGMA user_version")
        found_id = self._one("PRAGMA application_id")
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_schema")}
        is_old = found_id == 0 and version > 0 and tables >= _TABLES
        if not (is_old or found_id == APPLICATION_ID or found_id == version == len(tables) == 0):
            got = FOREIGN.format(got="a database of something else")
            raise StartError(f"cannot open store {path}: {got}")
        if version > VERSION:
            raise StartError(
                f"cannot open store {path}: got a file of version {version}, "
                f"want at most {VERSION}: it was written by a newer fsmv2"
            )
        found = self._one("PRAGMA integrity_check(1)")
        if found != "ok":
            raise DamagedError(str(found), is_ours=True)
        if version == 0:
            # Before the log file is in use: then it is in the file itself from the beginning.
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._one("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._one(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA:
                    self._db.execute(statement)
                self._db.execute("INSERT INTO counter VALUES (?, ?)", (self._sync, self._sync))
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif is_old:
            with contextlib.suppress(sqlite3.OperationalError):  # a full disk: another time
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _one(self, statement: str, arguments: tuple[object, ...] = ()) -> Any:
        row = self._db.execute(statement, arguments).fetchone()
        return row[0] if row is not None else None

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All or nothing. Raises `SaveError` or `DamagedError` for nothing."""
        try:
            self._db.execute(f"BEGIN {kind}")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if _is_damage(error):
                raise DamagedError(str(error)) from None
            raise SaveError(f"{error} ({getattr(error, 'sqlite_errorname', 'SQLITE')})") from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # some errors end it by themselves
            self._db.execute("ROLLBACK")

    # --- writing ----------------------------------------------------------------------------

    def save(self, writes: Iterable[Write]) -> None:
        """See `Store.save`. Raises `SaveError` when the machine does not take them."""
        with self._transaction():
            self._sync = self._counter()
            refused = [why for write in writes if (why := self._take(write)) is not None]
            self._db.execute("UPDATE counter SET sync = ?", (self._sync,))
        if refused:
            raise StoreConflict(refused)

    def _take(self, write: Write) -> str | None:
        path, role = write.path, write.role
        identity = self._document(path, "identity")
        why = misfit(write, identity)
        if why is not None:
            return why
        if role == REMOVED:
            if identity is not None:
                self._db.execute("DELETE FROM documents WHERE path = ?", (path,))
                self._db.execute(
                    "INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)",
                    (path, generation_of(identity), write.at),
                )
                self._note(write, Changes(removed=content_of(identity)))
            return None
        changes = difference(self._document(path, role), write.document)
        if changes is None:
            return None
        self._note(write, changes)
        if role == "identity":
            self._db.execute("DELETE FROM tombstones WHERE path = ?", (path,))
        self._db.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)",
            (path, role, self._sync, write.at, write.document),
        )
        return None

    def _note(self, write: Write, changes: Changes) -> None:
        self._sync += 1
        if write.role != "resume":
            self._db.execute(
                "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
                (self._sync, write.path, write.role, write.at, msgspec.json.encode(changes)),
            )

    def compact(self, keep: int, before: float) -> int:
        """See `Store.compact`."""
        with self._transaction():
            beyond = self._one("SELECT sync FROM log ORDER BY sync DESC LIMIT 1 OFFSET ?", (keep,))
            first_kept = self._one("SELECT min(sync) FROM log WHERE at >= ?", (before,))
            old = self._one(
                "SELECT max(sync) FROM log WHERE sync < coalesce(?, sync + 1)", (first_kept,)
            )
            last = max((sync for sync in (beyond, old) if sync is not None), default=0)
            gone = self._db.execute("DELETE FROM log WHERE sync <= ?", (last,)).rowcount
            self._db.execute("UPDATE counter SET low_water = max(low_water, ?)", (last,))
            self._db.execute("DELETE FROM tombstones WHERE at < ?", (before,))
        return gone

    # --- reading ----------------------------------------------------------------------------

    def _counter(self) -> int:
        return cast("int", self._one("SELECT sync FROM counter"))

    def _document(self, path: str, role: str) -> bytes | None:
        row = self._db.execute(
            "SELECT document FROM documents WHERE path = ? AND role = ?", (path, role)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def load(self, path: str) -> Record | None:
        """See `Store.load`."""
        with self._transaction("DEFERRED"):
            return self._records("WHERE path = ?", (path,)).get(path)

    def _records(self, where: str = "", arguments: tuple[str, ...] = ()) -> dict[str, Record]:
        rows: dict[str, dict[str, tuple[int, bytes]]] = {}
        for path, role, revision, raw in self._db.execute(
            f"SELECT path, role, revision, document FROM documents {where} ORDER BY path", arguments
        ):
            rows.setdefault(path, {})[role] = (revision, raw)
        return {path: record_of(path, present) for path, present in rows.items()}

    def snapshot(self) -> Everything:
        """See `Store.snapshot`."""
        with self._transaction("DEFERRED"):
            return Everything(self._counter(), self._records())

    def changes(self, since: int, limit: int = PAGE) -> News:
        """See `Store.changes`."""
        with self._transaction("DEFERRED"):
            sync, low_water = self._db.execute("SELECT sync, low_water FROM counter").fetchone()
            if not low_water <= since <= sync:
                return News(sync, snapshot=Everything(sync, self._records()))
            rows = self._db.execute(
                "SELECT sync, path, role, at, changes FROM log"
                " WHERE sync > ? ORDER BY sync LIMIT ?",
                (since, limit + 1),
            ).fetchall()
        entries = tuple(
            Entry(number, path, role, at, msgspec.json.decode(raw, type=Changes))
            for number, path, role, at, raw in rows[:limit]
        )
        has_more = len(rows) > limit
        return News(entries[-1].sync if has_more else sync, entries, has_more)

    def resume(self) -> dict[str, Recalled]:
        """See `Store.resume`."""
        with self._transaction("DEFERRED"):
            raw: dict[str, dict[str, bytes]] = {}
            for path, role, content in self._db.execute(
                "SELECT path, role, document FROM documents WHERE role <> 'observed'"
            ):
                raw.setdefault(path, {})[role] = content
            buried = dict(self._db.execute("SELECT path, generation FROM tombstones"))
        return {
            path: recalled_of(raw.get(path, {}), buried.get(path, 0))
            for path in sorted(raw.keys() | buried.keys())
        }

    @property
    def is_empty(self) -> bool:
        """Whether it holds no worker."""
        return self._one("SELECT 1 FROM documents LIMIT 1") is None

    def close(self) -> None:
        """Let go of the file; the last to do so folds the log file into it."""
        self._db.close()


def move_aside(path: str, stamp: str) -> str:
    """Rename a damaged file and its log file, so that somebody can look at them; returns the new
    name."""
    target = f"{path}.damaged-{stamp}"
    number = 0
    while os.path.exists(target):
        number += 1
        target = f"{path}.damaged-{stamp}-{number}"
    for ending in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path + ending, target + ending)
    return target


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE
