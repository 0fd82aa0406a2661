"""What the ops process promises: it serves while its root lives, and ends with it."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fsmv2.ipc import FrameBuffer, decode, encode, metricfile, pack_frame
from fsmv2.ipc.messages import OpsReady, Published

DEADLINE_S = 20.0


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


def _until(ready: Callable[[], Any]) -> Any:
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if found := ready():
            return found
        select.select([], [], [], 0.01)
    pytest.fail(f"the condition did not come true within {DEADLINE_S} s")


class Ops:
    """A real ops process and the root's ends of its descriptors."""

    def __init__(self, folder: Path, root_pid: int | None = None) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        self.port: int = listening.getsockname()[1]
        channel_read, self.channel = os.pipe()
        self.ready_read, ready_write = os.pipe()
        fds = (channel_read, ready_write, listening.fileno())
        call = f"serve(*{fds!r}, {str(folder)!r}, {root_pid or os.getpid()}, 'site')"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from fsmv2.supervisor.web.server import serve; {call}"],
            pass_fds=fds,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.listening = listening
        os.close(channel_read)
        os.close(ready_write)

    def wait_ready(self) -> OpsReady:
        buffer = FrameBuffer()
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            if select.select([self.ready_read], [], [], 0.5)[0]:
                for body in buffer.feed(os.read(self.ready_read, 4096)):
                    return decode(body, OpsReady)
        pytest.fail("the ops process did not say that it serves")

    def publish(self, topic: str, document: Any) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        os.write(self.channel, pack_frame(encode(Published(topic, body))))

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def close(self) -> None:
        if self.channel >= 0:
            os.close(self.channel)
            self.channel = -1

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.close()
        self.listening.close()
        os.close(self.ready_read)


@pytest.fixture
def ops(tmp_path: Path) -> Iterator[Ops]:
    folder = tmp_path / "metrics"
    metricfile.prepare_folder(str(folder))
    process = Ops(folder)
    yield process
    process.end()


@pytest.mark.proc
def test_the_ops_process_says_ready_and_serves_what_was_published(ops: Ops) -> None:
    """The whole way: frames in, HTTP out, on the socket the root had bound."""
    assert ops.wait_ready().pid == ops.process.pid
    assert ops.ask("/livez")[0] == 503
    ops.publish("tree", TREE)
    ops.publish("status", STATUS)
    _until(lambda: ops.ask("/readyz")[0] == 200)
    assert json.loads(ops.ask("/api/v1/tree")[1]) == TREE
    status, body, headers = ops.ask("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>fsmv2</title>" in body
    assert headers["cache-control"] == "no-store"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "server" not in headers
    for path in ("/page.css", "/page.js", "/explain.js", "/icon.svg"):
        assert ops.ask(path)[0] == 200
    assert b'fsmv2_process_open_fds{process="ops"}' in ops.ask("/metrics")[1]
    assert ops.ask("/", "HEAD")[1] == b""
    assert ops.ask("/api/v1/events", "HEAD")[0] == 200
    status, body, _ = ops.ask("/api/v1/tree", "POST")
    assert (status, "error" in json.loads(body)) == (405, True)
    assert ops.ask("/", headers={"Host": "evil.example"})[0] == 421


@pytest.mark.proc
def test_events_stream_live_and_resume_after_the_last_one_seen(ops: Ops) -> None:
    ops.wait_ready()
    ops.publish("event", _event(1))
    ops.publish("event", _event(2))
    ops.publish("status", STATUS)
    _until(lambda: ops.ask("/readyz")[0] == 200)
    connection = http.client.HTTPConnection("127.0.0.1", ops.port, timeout=DEADLINE_S)
    connection.request("GET", "/api/v1/events", headers={"Last-Event-ID": "1"})
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = iter(answer.readline, b"")
    assert next(lines) == b"retry: 2000\n"
    assert [line for line in (next(lines), next(lines), next(lines)) if line.strip()] == [
        b"id: 2\n",
        b"data: " + _event(2) + b"\n",
    ]
    ops.publish("event", _event(3))
    assert next(lines) == b"\n"
    assert next(lines) == b"id: 3\n"
    ops.close()
    assert [line for line in lines if line.startswith(b"id")] == []
    connection.close()
    assert ops.process.wait(DEADLINE_S) == 0


@pytest.mark.proc
def test_it_ends_when_its_channel_ends(ops: Ops) -> None:
    ops.wait_ready()
    ops.close()
    assert ops.process.wait(DEADLINE_S) == 0
    assert ops.process.stderr is not None
    assert ops.process.stderr.read() == ""


@pytest.mark.proc
def test_it_ends_at_sigterm_and_not_at_the_terminals_ctrl_c(ops: Ops) -> None:
    ops.wait_ready()
    ops.process.send_signal(signal.SIGINT)
    ops.publish("status", STATUS)
    _until(lambda: ops.ask("/readyz")[0] == 200)
    ops.process.send_signal(signal.SIGTERM)
    assert ops.process.wait(DEADLINE_S) == 0


@pytest.mark.proc
def test_the_address_outlives_the_process(ops: Ops, tmp_path: Path) -> None:
    """The root holds the socket: a client that comes between two processes is served late,
    not refused."""
    ops.wait_ready()
    ops.process.kill()
    ops.process.wait(DEADLINE_S)
    with socket.create_connection(("127.0.0.1", ops.port), timeout=DEADLINE_S):
        pass


@pytest.mark.proc
def test_bytes_that_are_no_frames_end_it_with_a_reason(ops: Ops) -> None:
    """The root starts a new one; it does not guess where the next frame begins."""
    ops.wait_ready()
    os.write(ops.channel, b"\xff" * 64)
    assert ops.process.wait(DEADLINE_S) == 1
    assert ops.process.stderr is not None
    (line,) = ops.process.stderr.read().splitlines()
    assert "cannot read frame: got version 255" in json.loads(line)["message"]


@pytest.mark.proc
def test_it_ends_at_once_when_its_root_is_gone_already(tmp_path: Path) -> None:
    """It was started by a root that died before the kernel could be asked to watch."""
    orphan = Ops(tmp_path, root_pid=os.getppid())
    try:
        assert orphan.process.wait(DEADLINE_S) == 0
    finally:
        orphan.end()
