"""Commands over HTTP: who may give one, and what they come to whatever the root does."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.ipc import FrameBuffer, FrameError, decode, encode, pack_frame
from fsmv2.ipc.messages import (
    Command,
    CommandAnswered,
    ForceBreaker,
    FromOps,
    KillAction,
    OpsReady,
    Published,
    ReleaseType,
    ReloadConfig,
    ToOps,
)
from fsmv2.supervisor import opsprocess
from fsmv2.supervisor.commandline.cli import EXIT_CODES
from fsmv2.supervisor.commands import Commands
from fsmv2.supervisor.config.access import (
    TOKEN_CHARS_MAX,
    digest_of,
    is_token,
    misfit,
    read_token,
    take_token,
    token_of,
)
from fsmv2.supervisor.config.checkprocess import Verdict
from fsmv2.supervisor.config.config import load_text
from fsmv2.supervisor.config.configfault import ConfigError
from fsmv2.supervisor.config.plans import PlanDocument, PlannedChange
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event, OperatorCommanded
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.system.poller import Poller
from fsmv2.supervisor.web.app import make_app
from fsmv2.supervisor.web.commands import NAME_CHARS_MAX, WAITING_MAX, Desk
from fsmv2.supervisor.web.state import PublishedState

TOKEN = "0123456789abcdef-the-token"
DIGEST = digest_of(Secret(TOKEN))
KILL = "/api/v1/actions/7/kill"
RELEASE = "/api/v1/action-types/Hang/release"
RELOAD, PLAN = "/api/v1/reload", "/api/v1/plan"


# --- the token ------------------------------------------------------------------------------


def test_the_token_of_the_config_goes_before_the_environments(tmp_path: Path) -> None:
    """Config, then variable, then file; an empty variable is none."""
    file = tmp_path / "token"
    file.write_text("file-0123456789abcdef\n")
    both = {"FSMV2_TOKEN": "variable-0123456789", "FSMV2_TOKEN_FILE": str(file)}
    configured = Secret("config-0123456789")
    assert token_of(configured, both) == configured
    assert token_of(None, both) == Secret("variable-0123456789")
    assert token_of(None, {**both, "FSMV2_TOKEN": ""}) == Secret("file-0123456789abcdef")
    assert token_of(None, {"FSMV2_TOKEN": "", "FSMV2_TOKEN_FILE": ""}) is None


def test_a_taken_token_is_not_inherited_by_what_is_started_then() -> None:
    environment = {"FSMV2_TOKEN": TOKEN, "PATH": "/bin"}
    assert take_token(None, environment) == Secret(TOKEN)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "text",
    ["short", "x" * (TOKEN_CHARS_MAX + 1), "0123456789 abcdef", "0123456789äbcdef", "abc=" * 5],
    ids=["short", "long", "space", "umlaut", "padding inside"],
)
def test_an_unusable_token_is_refused_and_never_repeated(tmp_path: Path, text: str) -> None:
    """Wherever it stands: config, variable or file."""
    assert misfit(text)
    (tmp_path / "token").write_text(text, "utf-8")
    with pytest.raises(SpecError) as by_variable:
        token_of(None, {"FSMV2_TOKEN": text})
    with pytest.raises(SpecError) as by_file:
        read_token(str(tmp_path / "token"))
    with pytest.raises(ConfigError) as by_config:
        load_text(json.dumps({"name": "s", "http": {"token": text}}), "json")
    for caught in (by_variable, by_file, by_config):
        assert text not in str(caught.value)
        assert "want" in str(caught.value)
    assert "http.token" in str(by_config.value) or "http" in str(by_config.value)


def test_a_token_file_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(SpecError, match="cannot read the token from"):
            read_token(str(path))


def test_settings_hide_the_token() -> None:
    settings = load_text(json.dumps({"name": "s", "http": {"token": TOKEN}}), "json")
    assert settings.http.token == Secret(TOKEN)
    assert TOKEN not in repr(settings)


def test_only_the_token_is_the_token() -> None:
    """No token set: nothing is, not even nothing."""
    assert is_token(TOKEN, DIGEST)
    for other in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\udcff", DIGEST.hex()):
        assert not is_token(other, DIGEST)
    assert not is_token("", digest_of(None))
    assert not is_token(TOKEN, b"")


# --- messages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (KillAction(1, "127.0.0.1:5", 7), FromOps),
        (ReleaseType(2, "127.0.0.1:5", "Hang"), FromOps),
        (ReloadConfig(3, "127.0.0.1:5", True), FromOps),
        (OpsReady(5), FromOps),
        (CommandAnswered(1, "done", "Hang", "site/a"), ToOps),
        (Published("tree", b"{}"), ToOps),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_message_crosses_and_only_in_its_direction(message: Any, kind: Any) -> None:
    assert decode(encode(message), kind) == message
    with pytest.raises(FrameError):
        decode(encode(message), ToOps if kind is FromOps else FromOps)


def test_an_outcome_nobody_knows_is_refused() -> None:
    with pytest.raises(FrameError):
        decode(encode(["command_answered", 1, "perhaps", "", ""]), ToOps)


# --- routes ---------------------------------------------------------------------------------


class Answering:
    """A desk whose root answers at once, or never (``outcome`` None)."""

    def __init__(self, outcome: Any = "done", digest: bytes = DIGEST, takes: bool = True) -> None:
        self.sent: list[Command] = []
        self._outcome = outcome
        self._takes = takes
        self.detail = ""
        self.desk = Desk(self._send, digest, timeout_s=0.01 if outcome is None else 20.0)

    def _send(self, command: Command) -> bool:
        self.sent.append(command)
        if self._takes and self._outcome is not None:
            what = ("Hang", "site/a", self.detail)
            self.desk.take(CommandAnswered(command.number, self._outcome, *what))
        return self._takes


def post(
    desk: Desk, path: str, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, Any, dict[str, str]]:
    """One request without a server: status, decoded body, headers."""
    app = make_app(PublishedState(), None, "127.0.0.1", lambda: 1.0, desk=desk)  # type: ignore[arg-type]
    return asyncio.run(_post(app, path, headers or {}, method))


async def _post(
    app: Any, path: str, headers: dict[str, str], method: str = "POST"
) -> tuple[int, Any, dict[str, str]]:
    start: dict[str, Any] = {}
    body = bytearray()

    async def receive() -> Any:
        pytest.fail("the body of a command is not read")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        body.extend(message.get("body", b""))

    route, _, query = path.partition("?")
    shown = {"host": "localhost", **headers}
    scope = {
        "type": "http", "method": method, "path": route, "raw_path": route.encode(),
        "query_string": query.encode(), "http_version": "1.1", "scheme": "http", "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in shown.items()],
        "server": ("localhost", 80), "client": ("127.0.0.1", 5555),
    }  # fmt: skip
    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], json.loads(body or b"null"), found


AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def test_without_a_token_set_every_command_is_refused_and_says_how_to_allow_them() -> None:
    root = Answering(digest=b"")
    for headers in ({}, AUTHORIZED, {"authorization": "Bearer "}):
        status, body, _ = post(root.desk, KILL, headers)
        assert status == 403
        for way in ("http.token", "FSMV2_TOKEN", "FSMV2_TOKEN_FILE"):
            assert way in body["error"]
    assert root.sent == []


@pytest.mark.parametrize("path", [KILL, RELEASE, RELOAD, PLAN])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": f"Bearer \xff{TOKEN}"},
        {"cookie": f"token={TOKEN}"},
        {"x-token": TOKEN},
    ],
    ids=["none", "scheme", "empty", "wrong", "basic", "bare", "bytes", "cookie", "other header"],
)
def test_a_command_without_the_token_in_its_header_is_not_sent(
    path: str, headers: dict[str, str]
) -> None:
    root = Answering()
    status, body, found = post(root.desk, path, headers)
    assert status == 401
    assert found["www-authenticate"].startswith("Bearer")
    assert "Authorization: Bearer TOKEN" in body["error"]
    assert TOKEN not in json.dumps(body)
    assert root.sent == []


def test_a_path_is_looked_at_only_after_the_token() -> None:
    """Who may not ask learns nothing, not even whether the number makes sense."""
    root = Answering()
    assert post(root.desk, "/api/v1/actions/x/kill")[0] == 401
    assert post(root.desk, f"/api/v1/action-types/{'x' * 500}/release")[0] == 401


def test_a_kill_is_sent_with_who_asked_and_answered_with_whose_action_it_was() -> None:
    root = Answering()
    status, body, headers = post(root.desk, KILL, AUTHORIZED)
    assert root.sent == [KillAction(1, "127.0.0.1:5555", 7)]
    assert status == 202
    assert body == {
        "outcome": "done", "attempt_id": 7, "action_type": "Hang", "path": "site/a"
    }  # fmt: skip
    assert headers["connection"] == "close"
    assert headers["cache-control"] == "no-store"
    assert not any(name.startswith("access-control") for name in headers)


def test_a_release_is_sent_with_who_asked() -> None:
    root = Answering()
    status, body, _ = post(root.desk, RELEASE, {"authorization": f"bearer {TOKEN}"})
    assert root.sent == [ReleaseType(1, "127.0.0.1:5555", "Hang")]
    assert (status, body) == (200, {"outcome": "done", "action_type": "Hang"})


@pytest.mark.parametrize(
    ("path", "state", "for_s", "held_s"),
    [
        ("/api/v1/breaker/open", "open", 600.0, 600.0),
        ("/api/v1/breaker/closed?for_s=30", "closed", 30.0, 30.0),
        ("/api/v1/breaker/auto", "auto", 600.0, 0.0),
    ],
)
def test_a_word_on_the_breaker_is_sent_with_who_asked_and_for_how_long(
    path: str, state: str, for_s: float, held_s: float
) -> None:
    root = Answering()
    status, body, _ = post(root.desk, path, AUTHORIZED)
    assert root.sent == [ForceBreaker(1, "127.0.0.1:5555", state, for_s)]  # type: ignore[arg-type]
    assert (status, body) == (200, {"outcome": "done", "state": state, "for_s": held_s})
    refusing = Answering("refused")
    refusing.detail = "cannot hold the breaker: the config says breaker.mode: off"
    status, body, _ = post(refusing.desk, path, AUTHORIZED)
    assert (status, body["error"]) == (409, refusing.detail)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/breaker/ajar", 404),
        ("/api/v1/breaker/open?for_s=0", 400),
        ("/api/v1/breaker/open?for_s=nan", 400),
        ("/api/v1/breaker/open?for_s=86401", 400),
        ("/api/v1/breaker/open?for_s=soon", 400),
    ],
)
def test_a_word_on_the_breaker_that_can_be_none_is_not_sent(path: str, status: int) -> None:
    root = Answering()
    found, body, _ = post(root.desk, path, AUTHORIZED)
    assert (found, root.sent) == (status, [])
    assert "want" in body["error"]


@pytest.mark.parametrize(("path", "dry"), [(RELOAD, False), (PLAN, True)])
def test_a_reload_is_sent_and_answered_with_what_the_root_says(path: str, dry: bool) -> None:
    root = Answering()
    status, body, _ = post(root.desk, path, AUTHORIZED)
    assert root.sent == [ReloadConfig(1, "127.0.0.1:5555", dry)]
    assert (status, body) == (200, {"outcome": "done"})
    refusing = Answering("refused")
    refusing.detail = "site.yaml:3:1: global: got 1, want a mapping"
    status, body, _ = post(refusing.desk, path, AUTHORIZED)
    assert status == 409
    assert body["error"] == f"cannot reload: {refusing.detail}"


@pytest.mark.parametrize(
    ("path", "outcome", "status", "see"),
    [
        (KILL, "no_such_attempt", 404, "fsmv2 tree"),
        (RELEASE, "not_in_quarantine", 409, "fsmv2 status"),
    ],
)
def test_what_the_root_cannot_do_is_told(path: str, outcome: str, status: int, see: str) -> None:
    """With the command that shows what could be."""
    found, body, _ = post(Answering(outcome).desk, path, AUTHORIZED)
    assert (found, body["outcome"]) == (status, outcome)
    assert body["error"].endswith(f", see {see}")


def test_a_name_that_means_several_types_is_told_with_those_it_means() -> None:
    answering = Answering("ambiguous")
    answering.detail = "want one of one:Hang, two:Hang"
    status, body, _ = post(answering.desk, RELEASE, AUTHORIZED)
    assert status == 409
    assert body == {"outcome": "ambiguous", "error": "want one of one:Hang, two:Hang"}


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "٣", "9" * 19, "9" * 5000, "1e3"])
def test_a_number_that_can_be_none_is_not_sent(number: str) -> None:
    root = Answering()
    status, body, _ = post(root.desk, f"/api/v1/actions/{number}/kill", AUTHORIZED)
    assert status == 404
    assert len(body["error"]) < 200
    assert root.sent == []


def test_a_name_that_is_too_long_is_not_sent() -> None:
    """What is sent fits one write to a pipe, which is whole or not at all."""
    root = Answering()
    name = "x" * (NAME_CHARS_MAX + 1)
    assert post(root.desk, f"/api/v1/action-types/{name}/release", AUTHORIZED)[0] == 404
    assert root.sent == []
    longest = "\U0001f525" * NAME_CHARS_MAX
    assert len(encode(ReleaseType(2**63, "x" * 60, longest))) < 4096 - 5


def test_a_root_that_does_not_answer_is_told_in_bounded_time() -> None:
    status, body, _ = post(Answering(outcome=None).desk, KILL, AUTHORIZED)
    assert status == 504
    assert "may carry it out later" in body["error"]


def test_a_root_that_takes_nothing_is_told() -> None:
    root = Answering(takes=False)
    assert post(root.desk, KILL, AUTHORIZED)[0] == 503


def test_no_more_commands_wait_than_are_allowed_and_each_gets_its_own_answer() -> None:
    """One over the limit is refused at once; answers may come in any order, late ones harm
    nobody, and afterwards there is room again."""
    sent: list[KillAction] = []

    def send(command: Any) -> bool:
        sent.append(command)
        return True

    async def check() -> None:
        desk = Desk(send, DIGEST, timeout_s=20.0)
        app = make_app(PublishedState(), None, "127.0.0.1", lambda: 1.0, desk=desk)  # type: ignore[arg-type]
        asked = [
            asyncio.create_task(_post(app, f"/api/v1/actions/{n}/kill", AUTHORIZED))
            for n in range(1, WAITING_MAX + 1)
        ]
        while len(sent) < WAITING_MAX:
            await asyncio.sleep(0)
        assert (await _post(app, KILL, AUTHORIZED))[0] == 503
        assert len(sent) == WAITING_MAX
        for command in reversed(sent):
            desk.take(CommandAnswered(command.number, "done", f"Type{command.attempt_id}"))
            desk.take(CommandAnswered(command.number, "no_such_attempt"))
        for number, task in enumerate(asked, 1):
            _, body, _ = await task
            assert (body["attempt_id"], body["action_type"]) == (number, f"Type{number}")
        desk.take(CommandAnswered(1, "done"))
        again = asyncio.create_task(_post(app, KILL, AUTHORIZED))
        while len(sent) == WAITING_MAX:
            await asyncio.sleep(0)
        desk.take(CommandAnswered(sent[-1].number, "done", "Hang"))
        assert (await again)[0] == 202

    asyncio.run(check())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_a_command_is_a_post_and_nothing_else(method: str) -> None:
    """OPTIONS too: a page of another site is never told that it may send the header."""
    root = Answering()
    status, body, headers = post(root.desk, KILL, AUTHORIZED, method)
    assert (status, root.sent) == (405, [])
    assert "want POST" in body["error"]
    assert headers["allow"] == "POST"


def test_a_page_of_another_name_gives_no_command() -> None:
    root = Answering()
    assert post(root.desk, KILL, {**AUTHORIZED, "host": "evil.example"})[0] == 421
    assert root.sent == []


def test_the_quarantined_types_are_listed_beside_the_actions() -> None:
    state = PublishedState()
    record = {"verdict": "timed_out", "deaths": 5, "held": 2, "retry_in_s": 1.5}
    state.take("tree", b'{"path": "site", "children": []}', 1.0)
    state.take("status", json.dumps({"pool": {"quarantined": {"Hang": record}}}).encode(), 1.0)
    app = make_app(state, None, "127.0.0.1", lambda: 1.0)  # type: ignore[arg-type]
    _, body, _ = asyncio.run(_post(app, "/api/v1/actions", {}, "GET"))
    assert body["quarantined"] == [{"name": "Hang", **record}]


def test_the_commands_have_an_exit_code_of_their_own() -> None:
    assert "refuses" in EXIT_CODES[6]


# --- the root's side ------------------------------------------------------------------------


class FakePool:
    """Has attempt 7, and ``Hang`` in quarantine."""

    def __init__(self, key: str = "site/a") -> None:
        self.flying = {7: SimpleNamespace(name="Hang", key=key)}
        self.asked: list[Any] = []

    def in_flight(self, attempt_id: int) -> Any:
        return self.flying.get(attempt_id)

    def cancel(self, attempt_id: int, cause: str) -> bool:
        self.asked.append((attempt_id, cause))
        # As a waiting attempt does: it has its result before this returns.
        return self.flying.pop(attempt_id, None) is not None

    def release(self, action_type: str) -> bool:
        self.asked.append(action_type)
        return action_type == "Hang"


@pytest.mark.parametrize(("key", "path"), [("site/a", "site/a"), ("site/a?", "site/a"), ("", "")])
def test_the_root_kills_by_an_operators_will_and_says_whose_action_it_was(
    key: str, path: str
) -> None:
    """Also of an observation, whose key is not quite the worker's path."""
    pool, told = FakePool(key), list[Event]()
    commands, answers = commands_on(pool, told.append), list[CommandAnswered]()
    commands.carry_out(KillAction(3, "there", 7), answers.append)
    assert answers == [CommandAnswered(3, "done", "Hang", path)]
    assert pool.asked == [(7, "operator")]
    commands.carry_out(KillAction(4, "there", 7), answers.append)
    assert answers[1].outcome == "no_such_attempt"
    assert [(e.target, e.outcome, e.client) for e in told if isinstance(e, OperatorCommanded)] == [
        ("#7", "done", "there"),
        ("#7", "no_such_attempt", "there"),
    ]


def test_the_root_releases_what_is_in_quarantine_and_says_when_nothing_is() -> None:
    told: list[Event] = []
    commands, answers = commands_on(FakePool(), told.append), list[CommandAnswered]()
    commands.carry_out(ReleaseType(1, "there", "Hang"), answers.append)
    commands.carry_out(ReleaseType(2, "there", "Beat"), answers.append)
    assert [answer.outcome for answer in answers] == ["done", "not_in_quarantine"]
    assert len(told) == 2


class FakeReloader:
    """Remembers who asks; the test gives the verdict."""

    path = "site.yaml"

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, Callable[[Verdict], None]]] = []

    def ask(self, cause: str, answer: Callable[[Verdict], None], *, dry: bool) -> None:
        self.asked.append((cause, dry, answer))


class FakeInfrastructure:
    """Takes one word, and only reports from then on."""

    mode = "report"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def force(self, *asked: Any) -> bool:
        self.asked.append(asked)
        return len(self.asked) == 1


@pytest.mark.parametrize(("dry", "verb"), [(False, "reload"), (True, "plan")])
def test_a_reload_is_answered_when_it_is_done_and_told_then(dry: bool, verb: str) -> None:
    """Accepted with its plan, or refused with all its faults."""
    told, answers = list[Event](), list[CommandAnswered]()
    reloader = FakeReloader()
    commands = Commands(FakePool(), reloader, FakeInfrastructure(), told.append)  # type: ignore[arg-type]
    plan = PlanDocument({"added": 1}, (), (PlannedChange("site/a", "added", "lamp"),))
    for verdict in (Verdict(plan=plan), Verdict(faults=("one", "two"))):
        commands.carry_out(ReloadConfig(len(answers), "there", dry), answers.append)
        assert len(answers) + 1 == len(reloader.asked)
        cause, asked_dry, answer = reloader.asked[-1]
        assert (cause, asked_dry) == ("an operator at there", dry)
        answer(verdict)
    assert [(one.number, one.outcome, one.detail) for one in answers] == [
        (0, "done", ""),
        (1, "refused", "one; two"),
    ]
    done, refused = (json.loads(one.document) for one in answers)
    assert done["plan"]["changes"][0]["path"] == "site/a"
    assert refused == {"faults": ["one", "two"], "config": "site.yaml"}
    assert [(e.command, e.outcome) for e in told if isinstance(e, OperatorCommanded)] == [
        (verb, "done"),
        (verb, "refused"),
    ]


def test_an_answer_that_no_frame_can_carry_is_cut_to_its_counts() -> None:
    reloader, answers = FakeReloader(), list[CommandAnswered]()
    commands = Commands(FakePool(), reloader, FakeInfrastructure(), lambda _event: None)  # type: ignore[arg-type]
    many = tuple(PlannedChange(f"site/{n}", "added", "x" * 100) for n in range(10_000))
    commands.carry_out(ReloadConfig(1, "there", False), answers.append)
    reloader.asked[0][2](Verdict(plan=PlanDocument({"added": 10_000}, (), many)))
    plan = json.loads(answers[0].document)["plan"]
    assert plan == {"counts": {"added": 10_000}, "settings": [], "changes": [], "left_out": 10_000}


def commands_on(pool: FakePool, emit: Callable[[Event], None]) -> Commands:
    breaker = FakeInfrastructure()
    return Commands(pool, FakeReloader(), breaker, emit, lambda: 5.0)  # type: ignore[arg-type]


def test_the_root_holds_the_breaker_and_says_when_there_is_none() -> None:
    told, answers, breaker = list[Event](), list[CommandAnswered](), FakeInfrastructure()
    commands = Commands(FakePool(), FakeReloader(), breaker, told.append, lambda: 5.0)  # type: ignore[arg-type]
    commands.carry_out(ForceBreaker(1, "there", "open", 60.0), answers.append)
    commands.carry_out(ForceBreaker(2, "there", "auto", 60.0), answers.append)
    assert breaker.asked == [("open", 60.0, "there", 5.0), (None, 60.0, "there", 5.0)]
    assert [(answer.number, answer.outcome) for answer in answers] == [(1, "done"), (2, "refused")]
    assert "breaker.mode: report, want enforce" in answers[1].detail
    assert [(e.command, e.target) for e in told if isinstance(e, OperatorCommanded)] == [
        ("breaker", "open"),
        ("breaker", "auto"),
    ]


class FakeChild:
    """An ops process that is played by the test, which holds its ends of the pipes."""

    def __init__(self, feed_fd: int, say_fd: int) -> None:
        self.pid, self.killed = 5, False
        self.pidfd = os.eventfd(0)
        self.feed_fd, self.say_fd = os.dup(feed_fd), os.dup(say_fd)

    def kill(self) -> None:
        self.killed = True

    def wait(self) -> None:
        for fd in (self.pidfd, self.feed_fd, self.say_fd):
            os.close(fd)


class Played:
    """`OpsProcess` with that child."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(_name: str, _main: Any, feed: Any, say: Any, *rest: Any) -> Any:
            self.arguments = rest
            self.child = FakeChild(feed.fd, say.fd)
            return self.child

        monkeypatch.setattr(opsprocess.processes, "start", start)
        self.poller = Poller()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.heard: list[Event] = []
        self.ops = opsprocess.OpsProcess(
            self.server, "metrics", "site", self.heard.append, self.poller, DIGEST
        )
        self.ops.start(lambda: 1.0)

    def say(self, data: bytes) -> None:
        os.write(self.child.say_fd, data)
        self.poller.poll(0)

    def answers(self) -> list[Any]:
        os.set_blocking(self.child.feed_fd, False)
        try:
            data = os.read(self.child.feed_fd, 1 << 20)
        except BlockingIOError:
            return []
        return [decode(body, ToOps) for body in FrameBuffer().feed(data)]

    def close(self) -> None:
        self.ops.close()
        self.poller.close()
        self.server.close()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    found = Played(monkeypatch)
    yield found
    found.close()


def frame(message: Any) -> bytes:
    return pack_frame(encode(message))


def test_the_ops_process_is_given_the_tokens_digest_and_not_the_token(played: Played) -> None:
    assert DIGEST in played.arguments
    assert TOKEN not in str(played.arguments)


def test_a_command_of_the_ops_process_is_answered_on_its_own_channel(played: Played) -> None:
    """Before and after it said that it is ready; several in one piece, in order."""
    played.ops.on_command = commands_on(FakePool(), played.heard.append).carry_out
    played.say(frame(OpsReady(5)) + frame(KillAction(1, "c", 7)) + frame(ReleaseType(2, "c", "X")))
    assert played.ops.ready
    assert played.answers() == [
        CommandAnswered(1, "done", "Hang", "site/a"),
        CommandAnswered(2, "not_in_quarantine", "X"),
    ]
    assert [event.name() for event in played.heard] == [
        "ops_started",
        "operator_commanded",
        "operator_commanded",
    ]


def test_nobody_to_carry_out_commands_is_no_error(played: Played) -> None:
    played.say(frame(KillAction(1, "c", 7)))
    assert played.answers() == []
    assert not played.child.killed


def test_a_flood_of_commands_is_taken_in_portions(played: Played) -> None:
    """One look takes at most what one read gives: the tick comes in between."""
    taken: list[Command] = []

    def carry_out(command: Command, reply: Callable[[CommandAnswered], object]) -> None:
        taken.append(command)
        reply(CommandAnswered(command.number, "done"))

    played.ops.on_command = carry_out
    os.set_blocking(played.child.say_fd, False)
    with contextlib.suppress(PermissionError):  # a user may have many large pipes already
        fcntl.fcntl(played.child.say_fd, fcntl.F_SETPIPE_SZ, 1 << 19)
    one, many = frame(KillAction(1, "c", 7)), 0
    with contextlib.suppress(BlockingIOError):
        while os.write(played.child.say_fd, one):
            many += 1
    played.poller.poll(0)
    portion = (1 << 16) // len(one) + 1
    assert 0 < len(taken) <= portion
    while len(taken) < many:
        before = len(taken)
        played.poller.poll(0)
        assert before < len(taken) <= before + portion
    assert len(taken) == many


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, frame(Published("tree", b"{}")), frame(["kill_action", 1, "c"])],
    ids=["no frame", "the other direction", "a field missing"],
)
def test_an_ops_process_that_says_what_it_cannot_mean_is_replaced(
    played: Played, data: bytes
) -> None:
    played.ops.on_command = commands_on(FakePool(), played.heard.append).carry_out
    played.say(data)
    assert played.child.killed
    assert played.heard == []
