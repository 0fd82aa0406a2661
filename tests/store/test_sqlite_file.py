"""The file: what becomes of a damaged one, a foreign one, a full disk."""

from __future__ import annotations

import os
import resource
import sqlite3
from pathlib import Path

import pytest

from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.store.protocol import put
from fsmv2.supervisor.store.sqlite import DamagedError, SaveError, SqliteStore
from fsmv2.supervisor.store.storefile import FOREIGN, HEAD_BYTES, refusal
from fsmv2.supervisor.store.writer import open_store, take_file

AT = 1_700_000_000.0


def fill(path: Path, workers: int = 200) -> None:
    store = SqliteStore(str(path))
    for number in range(workers):
        at = f"site/w{number}"
        store.save([put(at, "identity", {"generation": 1, "pad": "x" * 200}, AT)])
    store.close()


def opened_once(path: Path) -> None:
    """As a writer leaves it: a store, and a lock that says what it is beside."""
    lock, store, _ = take_file(str(path), AT)
    store.close()
    os.close(lock)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}


def test_what_was_saved_is_there_after_opening_again(tmp_path: Path) -> None:
    fill(tmp_path / "s.db", 3)
    store = SqliteStore(str(tmp_path / "s.db"))
    assert list(store.snapshot().workers) == ["site/w0", "site/w1", "site/w2"]
    store.close()


@pytest.mark.parametrize("place", ["head", "middle"])
def test_damaged_file_is_moved_aside_whole_and_a_new_one_begins(place: str, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    opened_once(path)
    fill(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    start = 0 if place == "head" else middle
    content[start : start + 6000] = b"\xa5" * 6000
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        SqliteStore(str(path))
    store, ready = open_store(str(path), AT)
    assert ready.fresh
    assert ready.reason
    assert Path(ready.moved_to).read_bytes() == content
    store.save([put("site/a", "identity", {"generation": 1}, AT)])
    # A reader of the old file cannot take the new one's counter for that one's.
    assert store.changes(500).snapshot is not None
    store.close()


def test_second_damaged_file_of_a_second_does_not_replace_the_first(tmp_path: Path) -> None:
    path, moved = tmp_path / "s.db", set()
    opened_once(path)
    for text in (b"nonsense one" * 100, b"nonsense two" * 100):
        path.write_bytes(text)
        store, ready = open_store(str(path), AT)
        store.close()
        path.unlink()
        moved.add(Path(ready.moved_to).read_bytes()[:12])
    assert moved == {b"nonsense one", b"nonsense two"}


def test_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path, 1)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StartError, match="got a file of version 9, want at most 1"):
        open_store(str(path), AT)
    assert path.read_bytes() == before


def test_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StartError, match="no store of fsmv2, got a database of something else"):
        open_store(str(path), AT)


FOREIGN_FILES = {
    "a text": b"name: site\nplugins: [mine]\n",
    "bytes of a page": b"\0" * 4096,
    "a text of the right beginning": b"SQLite format 3\0" + b"?" * 20,
}


@pytest.mark.parametrize("content", FOREIGN_FILES.values(), ids=FOREIGN_FILES)
def test_file_that_is_no_store_is_refused_and_nothing_is_moved_or_left(
    content: bytes, tmp_path: Path
) -> None:
    """A config named as its own store was moved away as a damaged one."""
    (tmp_path / "s.db").write_bytes(content)
    want = "it is no store of fsmv2, got .*, want a store's file or a path where none is"
    for attempt in (take_file, open_store):
        with pytest.raises(StartError, match=f"cannot open store .*/s.db: {want}"):
            attempt(str(tmp_path / "s.db"), AT)
    assert everything_in(tmp_path) == {"s.db": content}


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE theirs (x)"],
        ["CREATE TABLE theirs (x)", "PRAGMA user_version = 1"],
        ["CREATE TABLE log (x)", "PRAGMA user_version = 9"],
        ["PRAGMA user_version = 3"],
        ["PRAGMA application_id = 252006674"],
    ],
    ids=["tables", "our version", "our table's name", "a version", "an id"],
)
def test_database_of_something_else_stays_as_it_is(statements: list[str], tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    before = everything_in(tmp_path)
    with pytest.raises(StartError, match="got a database of something else"):
        take_file(str(tmp_path / "s.db"), AT)
    assert everything_in(tmp_path) == before


def test_store_of_before_the_mark_is_opened_and_marked(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path, 3)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 0")
    db.close()
    lock, store, ready = take_file(str(path), AT)
    assert not ready.fresh
    assert store._one("PRAGMA application_id") != 0
    store.close()
    os.close(lock)
    path.write_bytes(b"torn" * 1000)
    assert refusal(str(path)) == ""  # its lock says so


def test_what_is_refused_is_told_by_the_first_bytes_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    assert refusal(str(path)) == ""
    assert refusal(str(tmp_path)) == "got a folder, want a file"
    assert refusal("/dev/null") == "got a device, a pipe or a socket, want a file"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(str(tmp_path / "pipe")) == refusal("/dev/null")
    path.touch()
    assert refusal(str(path)) == ""
    fill(path)
    content = path.read_bytes()
    assert refusal(str(path)) == ""
    path.write_bytes(content[:HEAD_BYTES])
    assert refusal(str(path)) == ""
    path.write_bytes(b"x" + content)
    got = f"a file of {len(content) + 1} bytes that is no SQLite database"
    assert refusal(str(path)) == FOREIGN.format(got=got)


def test_disk_without_room_leaves_neither_file_nor_lock(tmp_path: Path) -> None:
    """It left an empty store and its lock, where "nothing was left behind" was promised."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(StartError, match=r"cannot open store .*s\.db: "):
            take_file(str(tmp_path / "s.db"), AT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_folder_as_a_store_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "s.db").mkdir()
    with pytest.raises(StartError, match="got a folder, want a file"):
        take_file(str(tmp_path / "s.db"), AT)
    assert [one.name for one in tmp_path.iterdir()] == ["s.db"]


def test_folder_that_is_not_there_is_a_start_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot open store .*/no/s\.db: unable to open"):
        open_store(str(tmp_path / "no" / "s.db"), AT)


def test_full_disk_saves_nothing_of_an_order_and_takes_it_later(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    pages = store._one("PRAGMA page_count")
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    order = [
        put(f"site/w{number}", "identity", {"generation": 1, "pad": "x" * 900}, AT)
        for number in range(20)
    ]
    before = store.snapshot()
    with pytest.raises(SaveError, match="full"):
        store.save(order)
    assert store.snapshot() == before
    store._db.execute("PRAGMA max_page_count = 100000")
    store.save(order)
    assert len(store.snapshot().workers) == 20
    assert store._one("PRAGMA integrity_check") == "ok"
    store.close()


def test_reader_of_another_process_sees_what_is_committed_and_writes_nothing(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "s.db")
    store = SqliteStore(path)
    reader = SqliteStore(path, read_only=True)
    store.save([put("site/a", "identity", {"generation": 1}, AT)])
    assert list(reader.snapshot().workers) == ["site/a"]
    with pytest.raises(SaveError, match="readonly"):
        reader.save([put("site/b", "identity", {"generation": 1}, AT)])
    reader.close()
    store.close()


def test_file_stays_bounded_while_documents_change_for_hours(tmp_path: Path) -> None:
    """A new observation each 100 ms for 20 minutes, and then as many again (scenario 123)."""
    store = SqliteStore(str(tmp_path / "s.db"))
    store.save([put("site/a", "identity", {"generation": 1}, AT)])
    pages = []
    for half in range(2):
        for batch in range(120):
            store.save(
                put("site/a", "observed", {"half": half, "batch": batch, "n": number}, AT)
                for number in range(100)
            )
            if batch % 20 == 19:
                store.compact(keep=1_000, before=0.0)
        pages.append(store._one("PRAGMA page_count"))
    assert pages[1] <= pages[0] + 4
    assert store.changes(0).snapshot is not None
    store.close()
