"""What the commands that ask a supervisor do with addresses, and with whoever answers there."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fsmv2.supervisor.commandline import client
from fsmv2.supervisor.commandline.address import address_of
from fsmv2.supervisor.commandline.answers import Tree
from fsmv2.supervisor.commandline.cli import cli
from fsmv2.supervisor.core.counting import several
from fsmv2.supervisor.core.errors import SpecError

TOKEN = "0123456789abcdef-the-token"
COMMANDS = (
    ("tree",), ("status",), ("explain", "site"), ("kill", "7"), ("release", "Hang"),
    ("breaker", "open"), ("reload",), ("plan", "site.yaml"),
)  # fmt: skip


def invoke(*arguments: str) -> Result:
    """A command of one who has a token; an exception is the command's own fault."""
    done = CliRunner().invoke(cli, arguments, env={"FSMV2_TOKEN": TOKEN})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert TOKEN not in done.output
    return done


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8642", "http://127.0.0.1:8642"),
        ("localhost:1", "http://localhost:1"),
        ("http://a-b.example:65535/", "http://a-b.example:65535"),
        ("HTTPS://h:443", "https://h:443"),
        ("[::1]:8642", "http://[::1]:8642"),
        ("::1:8642", "http://[::1]:8642"),
    ],
)
def test_an_address_is_a_host_and_a_port(listen: str, url: str) -> None:
    assert address_of(listen).url == url


@pytest.mark.parametrize(
    "listen",
    [
        "", "8642", ":8642", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536",
        "127.0.0.1:99999", "h:-1", "h:+1", "h: 80", "h:٣", "h:²", "h h:80", "h:80\n", "off",
        "ftp://h:80", "file:///etc/passwd", "http://h", "http://h:80/api", "h:80/", "::1", "[h]:80",
        "http://http://h:80", "fe80::1%\n:80", "-h:80",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_nobody_is_asked(listen: str) -> None:
    """Above all a port over 65535, which would wrap to another one, and take the token there."""
    with pytest.raises(SpecError):
        address_of(listen)
    for command in COMMANDS:
        done = invoke(*command, "--http", listen)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"cannot use --http: got {listen!r}, want HOST:PORT or http" in done.stderr


@pytest.mark.parametrize("listen", ["http://user:hunter22@h:80", "hunter22@h:80", "h:80?hunter22"])
def test_a_password_in_an_address_is_refused_and_not_shown(listen: str) -> None:
    done = invoke("tree", "--http", listen)
    assert done.exit_code == 2
    assert "(not shown), want HOST:PORT" in done.stderr
    assert "hunter22" not in done.output


# --- who answers ----------------------------------------------------------------------------


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads each request's head and lets ``answer`` do the rest: its address, and
    what it was asked."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = server.accept()[0]
                with connection, contextlib.suppress(OSError):
                    asked.append(connection.recv(1 << 16))
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def http_answer(body: bytes, head: str = "200 OK", kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {head}\r\ncontent-type: {kind}\r\n\r\n".encode() + body


FOREIGN = {
    "list": http_answer(b"[]"),
    "object": http_answer(b'{"a": 1}'),
    "done": http_answer(b'{"outcome": "done"}'),
    "echo": http_answer(b'{"you said": "%s"}'),
    "deep": http_answer(b"[" * 100_000),
    "page": http_answer(b"<!DOCTYPE html>\n<p>hello\x1b[31m", kind="text/html"),
    "bytes": http_answer(b"\xff\xfe"),
    "nothing": http_answer(b""),
    "not found": http_answer(b"<p>no</p>", "404 Not Found", "text/html"),
    "moved": http_answer(b"", "302 Found\r\nlocation: http://127.0.0.1:1/"),
    "ssh": b"SSH-2.0-Other\r\nand\r\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_who_answers_something_else_is_no_supervisor_and_confirms_nothing(name: str) -> None:
    """In one line, without its control characters, without the token it gives back."""

    def answer(connection: socket.socket) -> None:
        said = b" ".join(asked[-1].split(b"\r\n")[::-1])
        connection.sendall(FOREIGN[name].replace(b"%s", said))

    with answering(answer) as (listen, asked):
        for command in COMMANDS:
            done = invoke(*command, "--http", listen)
            assert (done.exit_code, done.stdout) == (5, ""), command
            said = f"fsmv2: no fsmv2 supervisor answers at http://{listen}: got "
            assert done.stderr.startswith(said), done.stderr
            assert ", want " in done.stderr
            assert done.stderr.count("\n") == 1
            assert done.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (("breaker", "open"), {"outcome": "done", "state": "closed", "for_s": 600}),
        (("kill", "7"), {"outcome": "done", "attempt_id": 8, "action_type": "A", "path": "p"}),
        (("release", "Hang"), {"outcome": "done", "action_type": "Other"}),
        (("release", "Hang"), {"outcome": "refused", "action_type": "Hang"}),
        (("reload",), {"outcome": "done", "config": "x", "plan": {"counts": {}, "changes": []}}),
        (("reload",), {"outcome": "done", "config": "x", "plan": {
            "counts": {}, "settings": [], "changes": []}}),
    ],
)  # fmt: skip
def test_a_command_has_to_be_confirmed_as_it_was_given(
    command: tuple[str, ...], answer: dict[str, Any]
) -> None:
    body = http_answer(json.dumps(answer).encode())
    with answering(lambda connection: connection.sendall(body)) as (listen, asked):
        done = invoke(*command, "--http", listen)
    assert (done.exit_code, done.stdout) == (5, "")
    assert "no fsmv2 supervisor answers at" in done.stderr
    assert len(asked) == 1


def test_a_command_that_is_confirmed_is_told() -> None:
    body = http_answer(b'{"outcome": "done", "state": "open", "for_s": 600, "newer": 1}')
    with answering(lambda connection: connection.sendall(body)) as (listen, asked):
        done = invoke("breaker", "open", "--http", f"http://{listen}")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "the infrastructure breaker is held open for 600 s\n"
    assert asked[0].startswith(b"POST /api/v1/breaker/open?for_s=600 HTTP/1.1\r\n")
    assert f"Authorization: Bearer {TOKEN}\r\n".encode() in asked[0]


@pytest.mark.parametrize(
    ("head", "code"), [("409 Conflict", 6), ("404 Not Found", 6), ("503 Service Unavailable", 5)]
)
def test_a_refusal_is_told_in_the_supervisors_words(head: str, code: int) -> None:
    body = http_answer(b'{"error": "cannot do it:\\n no"}', head)
    with answering(lambda connection: connection.sendall(body)) as (listen, _asked):
        done = invoke("kill", "7", "--http", listen)
        assert (done.exit_code, done.stderr) == (code, "fsmv2: cannot do it: no\n")


# --- what is shown --------------------------------------------------------------------------


def tree_of(depth: int = 0, **more: Any) -> dict[str, Any]:
    """A tree as it is published, ``depth`` workers deep."""
    node = {
        "path": "site", "name": "site", "worker_type": "root", "state": "running", "reason": "up",
        "since_s": 12.5, "circuit": "closed", "action": None, "children": [], "absent": [], **more,
    }  # fmt: skip
    return node if depth == 0 else tree_of(depth - 1, children=[node])


STATUS: dict[str, Any] = {
    "name": "site", "pid": 7, "version": "1", "ready": True, "reason": "ticking", "uptime_s": 9,
    "ticks": 5, "tick_p50_ms": None, "tick_p99_ms": 1.5, "workers": {"running": 2, "stopped": 0},
    "actions": {"succeeded": 3}, "infrastructure": {
        "state": "closed", "mode": "enforce", "causes": [], "down_s": 0, "waiting": 0,
        "forced": None, "forced_for_s": None, "limits": [],
    }, "pool": {"procs": [{"action": "Hang"}, {"action": None}], "queued": 1, "deaths": 0,
                "quarantined": {}},
    "circuits": [],
}  # fmt: skip
SILENT = {"ready": False, "reason": "the root has been silent for 15 s", "last_word_s": 15.2}


def show(command: str, document: dict[str, Any], *more: str) -> Result:
    body = http_answer(json.dumps(document).encode())
    with answering(lambda connection: connection.sendall(body)) as (listen, _asked):
        return invoke(command, "--http", listen, *more)


def test_a_root_that_is_silent_is_shown_with_the_age_of_its_word_and_a_code_of_its_own() -> None:
    for command, document in (("tree", tree_of()), ("status", STATUS)):
        fine = show(command, document)
        assert (fine.exit_code, fine.stderr) == (0, "")
        assert "silent" not in fine.stdout
        for more in ((), ("--json",)):
            old = show(command, {**document, **SILENT}, *more)
            assert (old.exit_code, old.stderr) == (
                5, "fsmv2: the root has been silent for 15 s\n"
            )  # fmt: skip
            assert "15.2" in old.stdout if more else "silent for 15 s" in old.stdout
    assert "ready       no: the root has been silent" in show("status", {**STATUS, **SILENT}).stdout
    assert show("tree", tree_of(**SILENT)).stdout.startswith("the root has been silent for 15 s;")


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ({"waits_s": 62.0, "running_s": 0.0}, "[#447 Hang waits 1 min 02 s]"),
        ({"waits_s": None, "running_s": 12.0}, "[#447 Hang 12.0 s]"),
    ],
)
def test_an_action_that_waits_is_not_shown_as_one_that_runs(
    times: dict[str, Any], shown: str
) -> None:
    action = {"attempt_id": 447, "type": "Hang", **times}
    assert show("tree", tree_of(action=action)).stdout.endswith(f"up  {shown}\n")


def test_a_deep_tree_is_shown() -> None:
    assert len(show("tree", tree_of(depth=200)).stdout.splitlines()) == 202


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", http_answer(b"")], ids=["head", "body"])
def test_an_answer_that_comes_a_byte_at_a_time_is_given_up(head: bytes) -> None:
    """One limit for the whole request: each byte comes well within the time that one may take."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    late = pytest.raises(OSError, match=r"no whole answer within 0\.3 s; is it running")
    with answering(drip) as (listen, _asked), late:
        client.question(listen, "/api/v1/tree", 0.3, Tree)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "NaN"])
def test_seconds_are_a_number_and_come_to_an_end(seconds: str) -> None:
    """Refused before anything is asked or started."""
    for arguments in (
        ("breaker", "open", "--for", seconds, "--http", "127.0.0.1:1"),
        ("run", "nothing.yaml", "--seconds", seconds),
        ("demo", "--seconds", seconds),
    ):
        done = invoke(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "Invalid value for '--" in done.stderr


def test_check_counts_in_words(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    for text, says in (
        ("name: site\n", "fine: 0 workers, 0 plug-ins"),
        (
            "{name: site, plugins: [fsmv2.examples.faulty], workers: [{name: a, type: fails}]}",
            "fine: 1 worker of type fails, 1 plug-in",
        ),
    ):
        config.write_text(text)
        done = invoke("check", str(config))
        assert (done.exit_code, done.stdout) == (0, f"{config}: {says}\n")


def test_things_are_counted_in_words() -> None:
    assert [several(n, "time") for n in (0, 1, 2)] == ["0 times", "1 time", "2 times"]
    assert [several(n, "child", "children") for n in (1, 2)] == ["1 child", "2 children"]
