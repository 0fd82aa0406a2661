"""What every store promises: one suite for the one in memory and the one in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fsmv2.supervisor.store.memory import MemoryStore
from fsmv2.supervisor.store.protocol import (
    News,
    Recalled,
    Role,
    Store,
    StoreConflict,
    put,
    removal,
)
from fsmv2.supervisor.store.sqlite import SqliteStore

AT = 1_700_000_000.0
KINDS = ("memory", "sqlite")


def identity(path: str, generation: int = 1, kind: str = "lamp") -> dict[str, Any]:
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "worker_type": kind,
        "created_at": "2026-01-01T00:00:00+00:00",
        "generation": generation,
    }


def new_store(kind: str, folder: Path, origin: int = 0) -> Store:
    if kind == "memory":
        return MemoryStore(origin)
    return SqliteStore(str(folder / "store.db"), origin)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = new_store(request.param, tmp_path)
    yield made
    made.close()


def save(store: Store, path: str, role: Role, content: dict[str, Any], at: float = AT) -> None:
    store.save([put(path, role, content, at)])


def add(store: Store, path: str, generation: int = 1) -> None:
    save(store, path, "identity", identity(path, generation))


def test_unchanged_save_makes_no_entry_and_no_revision(store: Store) -> None:
    add(store, "site/a")
    save(store, "site/a", "desired", {"state": "running", "n": 1})
    before, news = store.load("site/a"), store.changes(0)
    save(store, "site/a", "desired", {"n": 1, "state": "running"}, at=AT + 60)
    add(store, "site/a")
    assert store.load("site/a") == before
    assert store.changes(0) == news
    assert store.changes(news.sync) == News(news.sync)


def test_changed_save_makes_one_entry_with_added_modified_removed(store: Store) -> None:
    """Removed keys too, which the Go original does not see (V7)."""
    add(store, "site/a")
    save(store, "site/a", "observed", {"kept": [1], "changed": 1, "gone": "x"})
    since = store.changes(0).sync
    save(store, "site/a", "observed", {"kept": [1], "changed": True, "new": None})
    (entry,) = store.changes(since).entries
    assert (entry.path, entry.role, entry.at) == ("site/a", "observed", AT)
    assert entry.changes.added == {"new": None}
    assert entry.changes.modified == {"changed": {"old": 1, "new": True}}
    assert entry.changes.removed == {"gone": "x"}


def test_revision_rises_with_each_change_of_desired_and_of_observed(store: Store) -> None:
    """In the Go original desired stays at version 1 for ever (V7)."""
    add(store, "site/a")
    revisions = []
    for number in range(5):
        save(store, "site/a", "desired", {"n": number})
        save(store, "site/a", "observed", {"n": -number})
        record = store.load("site/a")
        assert record is not None
        revisions += [record.revisions["desired"], record.revisions["observed"]]
    assert revisions == sorted(set(revisions))


def test_revision_rises_across_removal_and_return(store: Store) -> None:
    add(store, "site/a")
    save(store, "site/a", "desired", {"n": 1})
    before = store.load("site/a")
    store.save([removal("site/a", AT)])
    add(store, "site/a", generation=2)
    save(store, "site/a", "desired", {"n": 1})
    after = store.load("site/a")
    assert before is not None
    assert after is not None
    assert after.revisions["desired"] > before.revisions["desired"]


def test_second_identity_of_an_incarnation_is_an_error_and_changes_nothing(store: Store) -> None:
    """The Go original overwrites it silently (V7)."""
    add(store, "site/a", generation=3)
    before = store.snapshot()
    for content in (identity("site/a", 3, "other"), identity("site/a", 2), {}):
        with pytest.raises(StoreConflict, match="site/a: got another identity for incarnation"):
            save(store, "site/a", "identity", content)
    assert store.snapshot() == before
    add(store, "site/a", generation=4)


def test_refused_write_costs_its_neighbours_nothing(store: Store) -> None:
    add(store, "site/a")
    with pytest.raises(StoreConflict, match="site/b: got desired before an identity") as caught:
        store.save(
            [
                put("site/a", "desired", {"n": 1}, AT),
                put("site/b", "desired", {"n": 2}, AT),
                put("site/a", "observed", {"n": 3}, AT),
            ]
        )
    assert len(caught.value.refused) == 1
    record = store.load("site/a")
    assert record is not None
    assert (record.desired, record.observed) == ({"n": 1}, {"n": 3})
    assert store.load("site/b") is None


def test_equal_names_under_two_parents_are_two_workers(store: Store) -> None:
    """In the Go original they share their documents (V5)."""
    for path in ("site/a/probe", "site/b/probe"):
        add(store, path)
        save(store, path, "desired", {"state": "running", "whose": path})
    save(store, "site/a/probe", "desired", {"state": "stopped"})
    store.save([removal("site/a/probe", AT)])
    assert store.load("site/a/probe") is None
    other = store.load("site/b/probe")
    assert other is not None
    assert other.desired == {"state": "running", "whose": "site/b/probe"}


def test_removed_worker_leaves_an_entry_and_its_count_of_incarnations(store: Store) -> None:
    add(store, "site/a", generation=7)
    save(store, "site/a", "resume", {"failures": {"m:A": 2}})
    assert store.resume()["site/a"].resume == {"failures": {"m:A": 2}}
    since = store.changes(0).sync
    store.save([removal("site/a", AT), removal("site/never", AT)])
    (entry,) = store.changes(since).entries
    assert (entry.path, entry.role) == ("site/a", "removed")
    assert entry.changes.removed == identity("site/a", 7)
    assert store.resume() == {"site/a": Recalled(7)}
    # Counts of names that are long gone are forgotten: whoever comes back may begin anew.
    add(store, "site/a", generation=1)
    assert store.resume()["site/a"].generation == 1


def test_reader_that_lags_behind_the_log_gets_everything_and_no_gap(store: Store) -> None:
    """The Go original skips what it has compacted away (V7)."""
    add(store, "site/a")
    early = store.changes(0).sync
    for number in range(10):
        save(store, "site/a", "observed", {"n": number})
    assert store.compact(keep=3, before=0.0) == 8
    late = store.changes(0).sync
    for since in (early, late - 4, late + 1, 10**15):
        news = store.changes(since)
        assert news.entries == ()
        assert news.snapshot == store.snapshot()
    news = store.changes(late - 3)
    assert news.snapshot is None
    assert [entry.sync for entry in news.entries] == [late - 2, late - 1, late]


def test_entries_from_before_a_moment_go_and_tombstones_with_them(store: Store) -> None:
    add(store, "site/a")
    store.save([removal("site/a", AT)])
    for number in range(4):
        store.save(
            [
                put("site/b", "identity", identity("site/b"), AT + number),
                put("site/b", "observed", {"n": number}, AT + number),
            ]
        )
    assert store.compact(keep=100, before=AT + 2) == 5
    news = store.changes(store.changes(0).sync - 2)
    assert [entry.at for entry in news.entries] == [AT + 2, AT + 3]
    assert list(store.resume()) == ["site/b"]
    assert store.compact(keep=100, before=AT + 2) == 0


@pytest.mark.parametrize("most", [0, 3])
def test_a_log_in_memory_never_holds_more_than_it_was_told(most: int) -> None:
    store = MemoryStore(changes_max=most)
    add(store, "a")
    for number in range(10):
        save(store, "a", "observed", {"state": f"s{number}"})

    counter = store.snapshot().sync
    assert repr(store) == f"<MemoryStore 1 workers, {most} changes>"
    assert len(store.changes(counter - most).entries) == most
    assert store.changes(counter - most - 1).snapshot is not None  # no reader misses one unawares


def test_pages_of_changes_lead_to_the_end_without_a_gap(store: Store) -> None:
    add(store, "site/a")
    since = store.changes(0).sync
    for number in range(250):
        save(store, "site/a", "observed", {"n": number})
        save(store, "site/a", "resume", {"n": number})  # not in the log, between its entries
    seen: list[int] = []
    pages = 0
    while True:
        news = store.changes(since)
        seen += [entry.changes.added.get("n", 0) for entry in news.entries[:1]]
        pages, since = pages + 1, news.sync
        if not news.has_more:
            break
        assert len(news.entries) == 100
    assert pages == 3
    assert store.changes(since) == News(since)


def test_what_goes_in_and_comes_out_is_a_copy(store: Store) -> None:
    content: dict[str, Any] = {"list": [1], "map": {"k": 1}}
    add(store, "site/a")
    since = store.changes(0).sync
    save(store, "site/a", "observed", content)
    content["list"].append(2)
    for _ in range(2):
        record = store.load("site/a")
        assert record is not None
        assert record.observed == {"list": [1], "map": {"k": 1}}
        record.observed["map"]["k"] = 9
        added = store.changes(since).entries[0].changes.added
        assert added["map"] == {"k": 1}
        added["map"]["k"] = 9


def test_document_of_a_newer_version_is_kept_with_the_fields_we_do_not_know(store: Store) -> None:
    add(store, "site/a")
    save(store, "site/a", "desired", {"state": "running", "from_the_future": {"x": [1]}})
    record = store.load("site/a")
    assert record is not None
    assert record.desired == {"state": "running", "from_the_future": {"x": [1]}}
    assert store.resume()["site/a"].desired["from_the_future"] == {"x": [1]}


@pytest.mark.parametrize("kind", KINDS)
def test_new_store_is_never_taken_for_the_one_before(kind: str, tmp_path: Path) -> None:
    """A reader of an older store asks from a counter below the new one's first."""
    store = new_store(kind, tmp_path, origin=1_000)
    add(store, "site/a")
    news = store.changes(999)
    assert news.snapshot is not None
    assert list(news.snapshot.workers) == ["site/a"]
    assert len(store.changes(1_000).entries) == 1
    store.close()


paths = st.sampled_from(["site", "site/a", "site/a/x", "site/b", "site/b/x"])
values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, "", "é", "1"])
)
contents = st.dictionaries(st.sampled_from("abc"), values | st.lists(values, max_size=2))


class Contract(RuleBasedStateMachine):
    """A store against a plain model, with a reader that follows at its own pace."""

    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = new_store(self.kind, Path(self.folder.name))
        self.model: dict[str, dict[str, Any]] = {}
        self.generations: dict[str, int] = {}
        self.revisions: dict[tuple[str, str], int] = {}
        self.mirror: dict[str, dict[str, Any]] = {}
        self.mirrored = 0
        self.at = AT

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(path=paths)
    def start_an_incarnation(self, path: str) -> None:
        generation = self.generations[path] = self.generations.get(path, 0) + 1
        self.at += 1
        save(self.store, path, "identity", identity(path, generation), self.at)
        self.model.setdefault(path, {})["identity"] = identity(path, generation)

    @rule(path=paths, role=st.sampled_from(["desired", "observed", "resume"]), content=contents)
    def save_a_document(self, path: str, role: Role, content: dict[str, Any]) -> None:
        self.at += 1
        if path in self.model:
            save(self.store, path, role, content, self.at)
            self.model[path][role] = content
        else:
            with pytest.raises(StoreConflict):
                save(self.store, path, role, content, self.at)

    @rule(path=paths)
    def remove_a_worker(self, path: str) -> None:
        self.at += 1
        self.store.save([removal(path, self.at)])
        self.model.pop(path, None)

    @rule(keep=st.integers(0, 20), age=st.integers(0, 20))
    def compact(self, keep: int, age: int) -> None:
        self.store.compact(keep, self.at - age)

    @precondition(lambda self: self.kind == "sqlite")
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = new_store(self.kind, Path(self.folder.name), origin=10**9)

    @rule(limit=st.integers(1, 5))
    def read_a_page(self, limit: int) -> None:
        self.follow(limit)

    def follow(self, limit: int) -> bool:
        """The reader applies what it is given. Returns whether there is more."""
        news = self.store.changes(self.mirrored, limit)
        if news.snapshot is not None:
            self.mirror = {
                path: {
                    role: content
                    for role in ("identity", "desired", "observed")
                    if (content := getattr(record, role)) is not None
                }
                for path, record in news.snapshot.workers.items()
            }
        for entry in news.entries:
            if entry.role == "removed":
                del self.mirror[entry.path]
                continue
            content = self.mirror.setdefault(entry.path, {}).setdefault(entry.role, {})
            for key in entry.changes.removed:
                del content[key]
            content |= entry.changes.added
            for key, change in entry.changes.modified.items():
                assert content[key] == change["old"]
                content[key] = change["new"]
        assert news.sync >= self.mirrored
        self.mirrored = news.sync
        return news.has_more

    @rule()
    def read_to_the_end(self) -> None:
        while self.follow(3):
            pass
        assert repr_of(self.mirror) == repr_of(
            {
                path: {role: content for role, content in roles.items() if role != "resume"}
                for path, roles in self.model.items()
            }
        )

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        everything = self.store.snapshot()
        assert everything.workers.keys() == self.model.keys()
        for path, record in everything.workers.items():
            roles = self.model[path]
            for role in ("identity", "desired", "observed", "resume"):
                assert repr_of(getattr(record, role)) == repr_of(roles.get(role))
            assert self.store.load(path) == record
            for role, revision in record.revisions.items():
                assert revision >= self.revisions.get((path, role), 0)
                self.revisions[path, role] = revision
        recalled = self.store.resume()
        assert self.model.keys() <= recalled.keys()
        for path, one in recalled.items():
            assert one.generation == self.generations[path]


def repr_of(content: Any) -> str:
    """Tells 1, 1.0 and True apart, and not the order of keys."""
    if isinstance(content, dict):
        return f"{{{', '.join(f'{k}: {repr_of(content[k])}' for k in sorted(content))}}}"
    return repr(content)


def machine(kind: str) -> Callable[[], Any]:
    return type(f"Contract_{kind}", (Contract,), {"kind": kind})


TestMemoryFollowsItsModel = machine("memory").TestCase  # type: ignore[attr-defined]
TestSqliteFollowsItsModel = machine("sqlite").TestCase  # type: ignore[attr-defined]
