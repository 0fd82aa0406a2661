"""`fsmv2 explain`, `fsmv2 runbook` and their HTTP: who may ask, how fast, what is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec import convert

from fsmv2.ipc import encode
from fsmv2.ipc.messages import Command, CommandAnswered, ExplainWorker, KillAction
from fsmv2.supervisor.commandline import client
from fsmv2.supervisor.commandline.cli import cli
from fsmv2.supervisor.commandline.cliexplain import explanation_text
from fsmv2.supervisor.core.runbooks import PAGES
from fsmv2.supervisor.web.app import make_app
from fsmv2.supervisor.web.commands import Desk
from fsmv2.supervisor.web.questions import PATH_BYTES_MAX, WAITING_MAX, QuestionRoutes
from fsmv2.supervisor.web.state import PublishedState

EXPLAIN = "/api/v1/explain/site/pump"
DOCUMENT: dict[str, Any] = {
    "path": "site/pump", "worker_type": "pump", "runs": False, "state": "opening",
    "phase": "starting", "desired_state": "running", "reason": "not open", "since_s": 75.0,
    "restarts": 2,
    "why": {
        "rule": "observation_stale", "text": "paused: observation 12.4 s old, limit 10.0 s",
        "next": "it is observed again", "numbers": {"age_s": 12.4}, "since_s": 3.0,
        "next_in_s": 0.5, "waits_for": ["observation"],
        "runbook": "/runbooks/observation-lost.md",
    },
    "also": [
        {
            "rule": "own", "text": "more\x1b[31m", "next": "later", "numbers": {}, "since_s": None,
            "next_in_s": None, "waits_for": [], "runbook": "",
        }
    ],
}  # fmt: skip


class Root:
    """A desk whose root answers at once, never (``outcome`` None), or takes nothing."""

    def __init__(self, outcome: Any = "done", takes: bool = True) -> None:
        self.sent: list[Command | ExplainWorker] = []
        self._outcome = outcome
        self._takes = takes
        self.waiting: list[Callable[[], None]] = []
        self.holds = False
        self.desk = Desk(self._send, timeout_s=0.01 if outcome is None else 20.0)

    def _send(self, message: Command | ExplainWorker) -> bool:
        self.sent.append(message)
        if self._takes and self._outcome is not None:
            body = json.dumps(DOCUMENT if self._outcome == "done" else {"error": "none"}).encode()
            answer = CommandAnswered(message.number, self._outcome, document=body)
            if self.holds:
                self.waiting.append(lambda: self.desk.take(answer))
            else:
                self.desk.take(answer)
        return self._takes


async def ask(app: Any, path: str, method: str = "GET") -> tuple[int, Any]:
    """One request without a server: status and body."""
    start: dict[str, Any] = {}
    body = bytearray()

    async def receive() -> Any:
        pytest.fail("no body is read")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        body.extend(message.get("body", b""))

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
        "headers": [(b"host", b"localhost")], "server": ("localhost", 80),
        "client": ("127.0.0.1", 5555),
    }  # fmt: skip
    await app(scope, receive, send)
    kind = dict(start["headers"])[b"content-type"]
    return start["status"], json.loads(body) if b"json" in kind else body.decode()


def app_of(desk: Desk | None = None) -> Any:
    """The application, with nothing published."""
    return make_app(PublishedState(), None, "127.0.0.1", lambda: 1.0, desk=desk)  # type: ignore[arg-type]


def get(desk: Desk | None, path: str) -> tuple[int, Any]:
    return asyncio.run(ask(app_of(desk), path))


# --- over HTTP ------------------------------------------------------------------------------


def test_an_explanation_is_the_roots_answer_and_needs_no_token() -> None:
    root = Root()
    assert get(root.desk, EXPLAIN) == (200, DOCUMENT)
    assert root.sent == [ExplainWorker(1, "site/pump")]
    assert get(root.desk, f"{EXPLAIN}/")[0] == 200


def test_a_worker_that_is_not_there_is_not_found() -> None:
    assert get(Root("no_such_worker").desk, EXPLAIN) == (404, {"error": "none"})


@pytest.mark.parametrize(("root", "status"), [(Root(None), 504), (Root(takes=False), 503)])
def test_a_root_that_does_not_answer_is_told_in_bounded_time(root: Root, status: int) -> None:
    found, body = get(root.desk, EXPLAIN)
    assert found == status
    assert body["error"] == "cannot explain 'site/pump': the root does not answer, see /livez"


def test_without_a_root_to_ask_nothing_is_explained() -> None:
    assert get(None, EXPLAIN)[0] == 503


def test_a_path_that_is_too_long_is_not_sent() -> None:
    """What is sent fits one write to a pipe, which is whole or not at all."""
    root = Root()
    assert get(root.desk, f"/api/v1/explain/{'ä' * (PATH_BYTES_MAX // 2 + 1)}")[0] == 404
    assert root.sent == []
    assert len(encode(ExplainWorker(2**63, "x" * PATH_BYTES_MAX))) < 4096 - 5


def test_one_question_is_on_its_way_at_a_time_and_a_crowd_is_sent_away() -> None:
    """However many ask, the root has one question, and commands have their places."""

    async def crowd() -> None:
        root = Root()
        root.holds = True
        app = app_of(root.desk)
        asked = [asyncio.create_task(ask(app, EXPLAIN)) for _ in range(WAITING_MAX)]
        while not root.waiting:
            await asyncio.sleep(0)
        assert (await ask(app, EXPLAIN))[0] == 503
        assert len(root.sent) == 1
        command = asyncio.create_task(root.desk.ask(lambda number: KillAction(number, "c", 7)))
        while len(root.sent) < 2:
            await asyncio.sleep(0)
        root.holds = False
        for give in root.waiting:
            give()
        assert (await command).outcome == "done"
        assert {status for status, _body in await asyncio.gather(*asked)} == {200}
        assert len(root.sent) == 1 + WAITING_MAX

    asyncio.run(crowd())


def test_a_pause_lies_between_two_questions() -> None:
    """So that readers cost the root a bounded share of its time."""

    async def two() -> float:
        root = Root()
        routes = QuestionRoutes(root.desk, pause_s=0.05)
        loop = asyncio.get_running_loop()
        request: Any = type("Request", (), {"path_params": {"path": "site"}})()
        began = loop.time()
        for _ in range(2):
            await routes.explain(request)
        return loop.time() - began

    assert asyncio.run(two()) >= 0.05


# --- runbooks -------------------------------------------------------------------------------


def test_runbooks_are_served_by_their_links() -> None:
    for page in PAGES:
        status, text = get(None, f"/runbooks/{page}.md")
        assert status == 200
        assert "## Symptom" in text
    assert "# Runbooks" in get(None, "/runbooks/README.md")[1]


@pytest.mark.parametrize("name", ["nope", "..%2Falerts.yaml", "circuit-open.md.md", ".."])
def test_what_is_no_runbook_is_not_served(name: str) -> None:
    status, body = get(None, f"/runbooks/{name}")
    assert status == 404
    assert "circuit-open" in body["error"]


def test_the_runbook_command_prints_a_page_or_the_index() -> None:
    assert "## Prevent" in CliRunner().invoke(cli, ["runbook", "disk-full"]).output
    assert "# Runbooks" in CliRunner().invoke(cli, ["runbook"]).output
    missing = CliRunner().invoke(cli, ["runbook", "nope"])
    assert missing.exit_code == 2
    assert "want one of circuit-open" in missing.stderr


# --- the command ----------------------------------------------------------------------------


def answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """Have the supervisor answer so; the addresses that were asked."""
    asked: list[str] = []

    def question(listen: str, path: str, wait_s: float, shape: Any) -> Any:
        asked.append(f"{listen}{path}")
        if isinstance(answer, Exception):
            raise answer
        convert(answer, shape)
        return answer

    monkeypatch.setattr(client, "question", question)
    return asked


def test_explain_prints_what_holds_a_worker_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, DOCUMENT)
    done = CliRunner().invoke(cli, ["explain", "/site/a b/", "--http", "h:1"])

    assert asked == ["h:1/api/v1/explain/site/a%20b"]
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "worker       site/pump, type pump, restarted 2 times",
        "state        opening (starting) for 1 min 15 s, should be running",
        "reason       not open",
        "why          paused: observation 12.4 s old, limit 10.0 s",
        "  rule       observation_stale",
        "  since      3.0 s",
        "  waits for  observation",
        "  next       in 0.5 s: it is observed again",
        "  runbook    fsmv2 runbook observation-lost, or http://h:1/runbooks/observation-lost.md",
        "also         more�[31m",
        "  rule       own",
        "  next       later",
    ]


def test_explain_prints_the_document_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, DOCUMENT)
    done = CliRunner().invoke(cli, ["explain", "site/pump", "--json"])
    assert json.loads(done.output) == DOCUMENT


@pytest.mark.parametrize(
    ("error", "code"), [(client.RefusedError("nobody there"), 6), (OSError("silence"), 5)]
)
def test_explain_ends_with_the_code_of_what_went_wrong(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    answers(monkeypatch, error)
    done = CliRunner().invoke(cli, ["explain", "site/pump"])
    assert (done.exit_code, done.stdout) == (code, "")
    assert str(error) in done.stderr


def test_a_link_with_a_host_of_its_own_is_shown_as_it_is() -> None:
    link = "https://wiki.example/observation-lost.md"
    document = {**DOCUMENT, "why": {**DOCUMENT["why"], "runbook": link}}
    assert f"fsmv2 runbook observation-lost, or {link}" in explanation_text(document, "h:1")


def test_a_page_that_is_none_of_ours_is_shown_by_its_address_only() -> None:
    """Of a worker type of somebody else's: no command of ours prints it."""
    document = {**DOCUMENT, "why": {**DOCUMENT["why"], "runbook": "https://wiki.example/pumps"}}
    text = explanation_text(document, "h:1")
    assert "  runbook    https://wiki.example/pumps" in text
    assert "fsmv2 runbook" not in text
