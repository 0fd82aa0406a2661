"""What the ops process answers: what the root said, bounded, and to the right readers."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fsmv2.supervisor.core.facts import Cause, Explanation
from fsmv2.supervisor.store.protocol import put
from fsmv2.supervisor.store.sqlite import SqliteStore
from fsmv2.supervisor.web.app import Guard, allowed_hosts, make_app
from fsmv2.supervisor.web.exposition import Exposition
from fsmv2.supervisor.web.state import (
    ALIVE_S_MAX,
    LISTENERS_MAX,
    QUEUE_EVENTS_MAX,
    RESYNC,
    RING_EVENTS_MAX,
    PublishedState,
    actions_in_flight,
    find_worker,
)

DEADLINE_S = 20.0
WEB = Path(__file__).parent.parent / "supervisor" / "web"


def _node(path: str, *children: dict[str, Any], action: Any = None) -> dict[str, Any]:
    return {
        "path": path,
        "name": path.rsplit("/")[-1],
        "worker_type": "lamp",
        "action": action,
        "children": list(children),
    }


TREE = _node(
    "site",
    _node("site/a", _node("site/a/b", action={"attempt_id": 7, "type": "Run"})),
    _node("site/ab", action={"attempt_id": 8, "type": "Run"}),
)
STATUS = {"name": "site", "version": "9.9", "ready": True, "reason": "", "recent": [{"path": "x"}]}


def _event(seq: int) -> bytes:
    return json.dumps({"seq": seq, "ts": 1.0, "level": "info", "event": "e"}).encode()


# --- what was published ---------------------------------------------------------------------


def test_the_newest_document_replaces_the_one_before() -> None:
    state = PublishedState()
    assert state.tree_document() is None
    state.take("tree", b'{"path": "old"}', 1.0)
    state.take("tree", b'{"path": "new"}', 2.0)
    state.take("a topic of the future", b"?", 3.0)
    assert state.tree == b'{"path": "new"}'
    assert state.tree_document() == {"path": "new"}
    assert state.age_s(5.0) == 2.0


def test_a_document_that_is_no_object_is_no_document() -> None:
    state = PublishedState()
    for body in (b"[]", b"{", b"\xff"):
        state.take("status", body, 1.0)
        assert state.status_document() is None


def test_the_root_counts_as_alive_for_ten_seconds() -> None:
    state = PublishedState()
    assert not state.is_alive(0.0)
    state.take("event", _event(1), 100.0)
    assert state.is_alive(100.0 + ALIVE_S_MAX)
    assert not state.is_alive(100.1 + ALIVE_S_MAX)


def _taken(state: PublishedState, last_seq: int | None) -> list[int | None]:
    async def take() -> list[int | None]:
        listener = state.listen(last_seq)
        assert listener is not None
        listener.close()
        items = await listener.take(1.0) or []
        state.forget(listener)
        return [item.seq for item in items]

    return asyncio.run(take())


@pytest.mark.parametrize(
    ("last_seq", "expected"),
    [
        (None, [3, 4, 5]),
        (3, [4, 5]),
        (5, []),
        (2, [3, 4, 5]),
        (1, [None, 3, 4, 5]),
        (99, [None, 3, 4, 5]),
    ],
    ids=["new", "behind", "up to date", "just whole", "gap", "other life"],
)
def test_a_listener_goes_on_where_it_stopped(
    last_seq: int | None, expected: list[int | None]
) -> None:
    """A gap, or a number from a former root, is said with a resync first."""
    state = PublishedState()
    for seq in (3, 4, 5):
        state.take("event", _event(seq), 1.0)
    assert _taken(state, last_seq) == expected


def test_the_ring_keeps_the_last_500_events() -> None:
    state = PublishedState()
    for seq in range(1, 2_001):
        state.take("event", _event(seq), 1.0)
    seqs = _taken(state, None)
    assert len(seqs) == RING_EVENTS_MAX == 500
    assert seqs[-1] == 2_000


def test_a_listener_that_does_not_read_gets_a_resync_and_bounded_memory() -> None:
    async def check() -> None:
        state = PublishedState()
        slow = state.listen(None)
        assert slow is not None
        for seq in range(1, QUEUE_EVENTS_MAX + 11):
            state.take("event", _event(seq), 1.0)
        items = await slow.take(1.0)
        assert items is not None
        assert items[0] == RESYNC
        assert [item.seq for item in items[1:]] == list(range(601, 611))

    asyncio.run(check())


def test_a_silent_stream_wakes_for_its_ping_and_ends_when_closed() -> None:
    async def check() -> None:
        listener = PublishedState().listen(None)
        assert listener is not None
        assert await listener.take(0.0) == []
        listener.close()
        assert await listener.take(DEADLINE_S) is None

    asyncio.run(check())


def test_listeners_are_bounded() -> None:
    state = PublishedState()
    listeners = [state.listen(None) for _ in range(LISTENERS_MAX)]
    assert all(listeners)
    assert state.listen(None) is None
    assert listeners[0] is not None
    state.forget(listeners[0])
    assert state.listen(None) is not None


def test_an_event_cannot_break_out_of_its_line() -> None:
    """A line break in a document would start a field of the event stream."""
    state = PublishedState()
    state.take("event", b'{"seq": 1,\n"id": "\\n"}', 1.0)
    state.take("event", b"not json", 1.0)

    async def take() -> list[bytes]:
        listener = state.listen(None)
        assert listener is not None
        return [item.body for item in await listener.take(1.0) or []]

    (body,) = asyncio.run(take())
    assert b"\n" not in body


@pytest.mark.parametrize(
    ("path", "found", "nearest"),
    [
        ("site", "site", "site"),
        ("site/a", "site/a", "site/a"),
        ("site/ab", "site/ab", "site/ab"),
        ("site/a/b", "site/a/b", "site/a/b"),
        ("site/a/x/y", None, "site/a"),
        ("other/a", None, "site"),
        ("", None, "site"),
    ],
)
def test_a_worker_is_found_by_its_path(path: str, found: str | None, nearest: str) -> None:
    node, closest = find_worker(TREE, path)
    assert (node["path"] if node else None) == found
    assert closest["path"] == nearest


def test_actions_in_flight_are_listed_in_tree_order() -> None:
    assert [a["path"] for a in actions_in_flight(TREE)] == ["site/a/b", "site/ab"]


@pytest.mark.parametrize(
    ("bound", "host", "fine"),
    [
        ("127.0.0.1", "localhost:8642", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "[::1]:1", True),
        ("::1", "LOCALHOST", True),
        ("127.0.0.2", "127.0.0.2:80", True),
        ("127.0.0.1", "evil.example:8642", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "any.example", True),
        ("10.0.0.1", "any.example", True),
    ],
)
def test_a_rebound_name_gets_no_answer(bound: str, host: str, fine: bool) -> None:
    """On loopback only loopback names are answered; a page of another site has its own."""
    codes: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])
            assert (b"x-content-type-options", b"nosniff") in message["headers"]

    scope = {"type": "http", "method": "GET", "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(app, allowed_hosts(bound))(scope, _no_body, send))
    assert codes == [200 if fine else 421]


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def _get(app: Any, path: str) -> tuple[int, Any]:
    """One GET without a server: status and the decoded body."""
    status, body = [0], bytearray()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status[0] = message["status"]
        body.extend(message.get("body", b""))

    path, _, query = path.partition("?")
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "headers": [(b"host", b"localhost")], "http_version": "1.1",
        "scheme": "http", "server": ("localhost", 80), "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, _no_body, send))
    return status[0], json.loads(body)


def _app(
    folder: Path, clock: Callable[[], float], store_file: str = ""
) -> tuple[PublishedState, Any]:
    state = PublishedState()
    exposition = Exposition(str(folder), lambda: "9.9", dict, clock)
    return state, make_app(state, exposition, "127.0.0.1", clock, store_file=store_file)


def test_health_follows_the_root(tmp_path: Path) -> None:
    """Alive while it speaks, ready when it says so, and each refusal has a reason."""
    now = [100.0]
    state, app = _app(tmp_path, lambda: now[0])
    assert _get(app, "/livez")[0] == 503
    assert _get(app, "/readyz") == (
        503,
        {"ready": False, "reason": "the root has not said anything yet"},
    )
    state.take("tree", b"{}", 100.0)
    assert _get(app, "/livez") == (200, {"status": "alive", "last_word_s": 0.0})
    assert _get(app, "/readyz")[1]["reason"] == "no status came yet"
    state.take("status", b'{"ready": false, "reason": "2 workers start"}', 100.0)
    assert _get(app, "/readyz") == (503, {"ready": False, "reason": "2 workers start"})
    state.take("status", b'{"ready": true}', 100.0)
    assert _get(app, "/readyz")[0] == 200
    now[0] = 111.0
    assert _get(app, "/livez")[0] == 503
    assert "silent for 11 s" in _get(app, "/readyz")[1]["reason"]


def test_a_silent_roots_documents_say_how_old_they_are(tmp_path: Path) -> None:
    """What it said stands as it is while it speaks; then it is not ready any more, and why."""
    now = [100.0]
    state, app = _app(tmp_path, lambda: now[0])
    state.take("tree", json.dumps(TREE).encode(), 100.0)
    state.take("status", json.dumps(STATUS).encode(), 100.0)
    now[0] = 110.0
    assert _get(app, "/api/v1/tree") == (200, TREE)
    assert _get(app, "/api/v1/status") == (200, STATUS)
    now[0] = 115.0
    assert _get(app, "/api/v1/tree") == (200, {**TREE, "last_word_s": 15.0})
    reason = "the root has been silent for 15 s, want at most 10 s"
    silent = {"ready": False, "reason": reason, "last_word_s": 15.0}
    assert _get(app, "/api/v1/status") == (200, {**STATUS, **silent})
    state.take("status", json.dumps(STATUS).encode(), 115.0)
    assert _get(app, "/api/v1/status") == (200, STATUS)


def test_changes_are_given_in_pages_and_everything_to_a_reader_without_a_place(
    tmp_path: Path,
) -> None:
    file = str(tmp_path / "s.db")
    _, app = _app(tmp_path, lambda: 1.0, file)
    assert _get(app, "/api/v1/changes")[0] == 503
    store = SqliteStore(file, 1_000)
    store.save(
        [
            put("site/a", "identity", {"generation": 1}, 5.0),
            *(put("site/a", "observed", {"n": number}, 5.0) for number in range(4)),
            put("site/a", "resume", {"results": {"m:A": {}}}, 5.0),
        ]
    )
    status, news = _get(app, "/api/v1/changes")
    assert (status, news["sync"], news["entries"]) == (200, 1_006, [])
    assert news["snapshot"]["workers"]["site/a"]["observed"] == {"n": 3}
    assert news["snapshot"]["workers"]["site/a"]["resume"] is None
    status, news = _get(app, "/api/v1/changes?since=1002&limit=2")
    assert (status, news["sync"], news["has_more"], news["snapshot"]) == (200, 1_004, True, None)
    assert news["entries"][0]["changes"]["modified"] == {"n": {"old": 0, "new": 1}}
    store.close()
    for query in ("since=x", "since=-1", "since=" + "9" * 30, "limit=0", "limit=1001"):
        status, answer = _get(app, f"/api/v1/changes?{query}")
        assert status == 400
        assert answer["error"].startswith("cannot give changes: got ")
    status, answer = _get(_app(tmp_path, lambda: 1.0)[1], "/api/v1/changes")
    assert (status, answer["error"].endswith("want store.kind sqlite")) == (404, True)


def test_documents_and_unknown_paths_answer_json(tmp_path: Path) -> None:
    state, app = _app(tmp_path, lambda: 1.0)
    for path in ("/api/v1/tree", "/api/v1/workers/site", "/api/v1/actions"):
        assert _get(app, path) == (503, {"error": "no document from the root yet"})
    state.take("tree", json.dumps(TREE).encode(), 1.0)
    state.take("status", json.dumps(STATUS).encode(), 1.0)
    assert _get(app, "/api/v1/tree") == (200, TREE)
    assert _get(app, "/api/v1/status") == (200, STATUS)
    assert _get(app, "/api/v1/workers/site/a/b")[1]["path"] == "site/a/b"
    status, body = _get(app, "/api/v1/workers/site/a/nope")
    assert (status, body["nearest"], body["children"]) == (404, "site/a", ["b"])
    assert len(_get(app, "/api/v1/actions")[1]["in_flight"]) == 2
    assert _get(app, "/api/v1/actions")[1]["recent"] == [{"path": "x"}]
    assert _get(app, "/nope")[0] == 404


# --- metrics --------------------------------------------------------------------------------


def _exposition(folder: Path, now: list[float]) -> Exposition:
    return Exposition(str(folder), lambda: "9.9", lambda: {"root": os.getpid()}, lambda: now[0])


def _stock_file(folder: Path, name: str, value: float) -> None:
    import prometheus_client.mmap_dict as stock

    file = stock.MmapedDict(str(folder / name))
    file.write_value(stock.mmap_key("jobs", "jobs_total", [], [], "Jobs."), value, 0.0)
    file.close()


def test_one_bad_file_never_fails_a_scrape(tmp_path: Path) -> None:
    """Empty files are left alone (they may be in the making), broken ones are put aside."""
    _stock_file(tmp_path, "counter_w1.db", 3.0)
    _stock_file(tmp_path, "counter_w2.db", 4.0)
    (tmp_path / "counter_w3.db").write_bytes(b"")
    (tmp_path / "counter_w4.db").write_bytes(b"\x40\0\0\0" + b"\xff" * 96)
    (tmp_path / "strange.db").write_bytes(b"\0" * 100)
    text = _exposition(tmp_path, [1.0]).render("")[0].decode()
    assert "jobs_total 7.0" in text
    assert "fsmv2_metric_files_put_aside_total 1.0" in text
    assert (tmp_path / "counter_w4.db.bad").exists()
    assert (tmp_path / "counter_w3.db").exists()


def test_a_missing_folder_never_fails_a_scrape(tmp_path: Path) -> None:
    text = _exposition(tmp_path / "gone", [1.0]).render("")[0].decode()
    assert 'fsmv2_build_info{python="' in text


@pytest.mark.parametrize(
    ("accept", "parse"),
    [
        ("", parse_text),
        ("*/*", parse_text),
        ("application/openmetrics-text; version=1.0.0", parse_open),
        ("application/openmetrics-text; version=nonsense", parse_text),
    ],
)
def test_both_formats_are_understood_by_the_clients_own_parser(
    tmp_path: Path, accept: str, parse: Any
) -> None:
    _stock_file(tmp_path, "counter_w1.db", 3.0)
    body, content_type = _exposition(tmp_path, [1.0]).render(accept)
    families = {family.name: family for family in parse(body.decode())}
    assert families["fsmv2_build_info"].samples[0].labels["version"] == "9.9"
    cpu = families["fsmv2_process_cpu_seconds"]
    assert cpu.samples[0].labels == {"process": "root"}
    assert ("openmetrics" in content_type) == (parse is parse_open)


def test_a_scrape_is_computed_at_most_once_a_second(tmp_path: Path) -> None:
    now = [1.0]
    exposition = _exposition(tmp_path, now)
    _stock_file(tmp_path, "counter_w1.db", 3.0)
    exposition.render("")
    _stock_file(tmp_path, "counter_w1.db", 4.0)
    now[0] = 1.9
    assert b"jobs_total 3.0" in exposition.render("")[0]
    now[0] = 2.0
    assert b"jobs_total 4.0" in exposition.render("")[0]


# --- the page -------------------------------------------------------------------------------


def test_the_page_asks_no_other_host_and_inlines_nothing() -> None:
    """So that the policy default-src 'self' holds, and the page works without a network."""
    html, css, script = ((WEB / f"page.{kind}").read_text() for kind in ("html", "css", "js"))
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", html)
    for text in (html, css, script, (WEB / "explain.js").read_text()):
        assert not re.search(r"(https?:)?//[\w.-]+\.\w+", text)
    assert not re.search(r"url\(|@import", css)


def test_texts_of_workers_never_become_markup() -> None:
    script = "".join((WEB / name).read_text() for name in ("page.js", "explain.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", script)
    asked = set(re.findall(r'byId\("([\w-]+)"\)', script))
    offered = set(re.findall(r'id="([\w-]+)"', (WEB / "page.html").read_text()))
    assert asked <= offered


def test_the_page_shows_all_of_an_explanation() -> None:
    """Each field by the name under which it is published."""
    script = (WEB / "explain.js").read_text()
    whole = {field.name for field in msgspec.structs.fields(Explanation)}
    for name in whole - {"path", "worker_type", "runs", "reason"}:
        assert f"answer.{name}" in script, name
    for name in {field.name for field in msgspec.structs.fields(Cause)} - {"numbers"}:
        assert f"cause.{name}" in script, name  # the numbers are in its text


def test_a_large_tree_is_joined_from_parts_and_half_a_tree_is_none() -> None:
    state = PublishedState()
    state.take("tree+", b"missed its beginning", 1.0)
    state.take("tree>", b"and shows nothing", 1.0)
    assert state.tree is None

    for topic, body in (("tree<", b'{"path":'), ("tree+", b'"root"'), ("tree>", b"}")):
        assert state.tree is None
        state.take(topic, body, 1.0)
    assert state.tree == b'{"path":"root"}'

    # The second was broken off: the next one does not continue it.
    state.take("tree<", b"{broken", 2.0)
    state.take("tree", b"{}", 2.0)
    state.take("tree>", b"off}", 2.0)
    assert state.tree == b"{}"
