"""What the relay's stand-in does not take: a client that errs must hear of it here."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from relaycaller import WAIT_S, Caller, calling

from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.testing.server import BODY_BYTES_MAX
from fsmv2.communicator.transport import http
from fsmv2.communicator.transport.codec import encode_content
from fsmv2.supervisor import Secret

PUSH = "/api/v2/instance/push"
GOOD = {"umhInstance": DEMO_UUID, "email": "a@x", "content": encode_content("status", 1)}


@pytest.fixture
def caller(relay: Relay) -> Iterator[Caller]:
    with calling(relay) as one:
        one.log_in()
        yield one


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    "element",
    [
        7,
        None,
        "text",
        {"content": 5},
        {**GOOD, "content": 5},
        {**GOOD, "traceId": 5},
        {**GOOD, "metadata": {"traceId": 5}},
        {**GOOD, "metadata": {"TraceId": "9b1d"}},
        {**GOOD, "size": 5},
        {**without("email"), "Email": "a@x"},
        {**without("umhInstance"), "instanceUUID": DEMO_UUID},
        {**without("content"), "Content": GOOD["content"]},
        without("content"),
        without("email"),
    ],
    ids=str,
)
def test_a_batch_with_an_unreadable_message_is_refused_whole(
    relay: Relay, caller: Caller, element: Any
) -> None:
    """400, and nothing of it is in the ledger: "taken" would be a lie."""
    for listed in ([element], [GOOD, element], [element, GOOD]):
        body = json.dumps({"UMHMessages": listed}).encode()
        assert caller.ask("POST", PUSH, body).status == 400
    assert relay.pushed() == []
    assert relay.stats()["pushes"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"umhMessages": [GOOD]},
        {"umhmessages": [GOOD], "note": "UMHMessages"},
        {"umhMessages": [{**GOOD, "email": "UMHMessages"}]},
        {"UMHMessages": [GOOD], "umhMessages": []},
        {"UMHMessages": None},
        {"UMHMessages": {"0": GOOD}},
        {},
        [GOOD],
        ["UMHMessages"],
    ],
    ids=str,
)
def test_the_list_has_its_own_name_and_no_other(relay: Relay, caller: Caller, body: Any) -> None:
    """To the letter, as a key of the object itself; the word in some text is no key."""
    assert caller.ask("POST", PUSH, json.dumps(body).encode()).status == 400
    assert relay.pushed() == []


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"null", b'{"UMHMessages":[]', b"[" * 200_000])
def test_what_is_no_json_is_refused(relay: Relay, caller: Caller, raw: bytes) -> None:
    """With an answer, and by the same connection."""
    assert caller.ask("POST", PUSH, raw).status == 400
    assert caller.push("good").status == 200
    assert [entry.payload for entry in relay.pushed()] == ["good"]


def test_what_a_client_may_write_is_taken(relay: Relay, caller: Caller) -> None:
    """Both places of a trace id, as old and new clients have it, an empty list, any content."""
    for more in ({}, {"traceId": "9b1d"}, {"metadata": {"traceId": "9b1d"}}, {"content": "opaque"}):
        assert caller.push_raw({**GOOD, **more}).status == 200
    assert caller.push_raw().status == 200
    assert [entry.trace_id for entry in relay.pushed()] == ["", "9b1d", "9b1d", ""]


def test_a_bearer_that_is_no_ascii_is_refused(relay: Relay, caller: Caller) -> None:
    """401 like any other unknown one, on a connection that goes on."""
    for bearer in ("tökén", "\xff" * 64):
        assert caller.log_in({"Authorization": f"Bearer {bearer}"}).status == 401
    caller.cookie = {"Cookie": "token=ÿ"}
    assert caller.pull().status == 401
    assert caller.log_in().status == 200
    assert relay.observed.connections() == {1}


def said(relay: Relay, request: bytes) -> bytes:
    """What comes back for ``request``, until the relay closes."""
    host, _, port = relay.url.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as file:
            return file.read()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Transfer-Encoding: chunked", 411),
        (b"Content-Length: many", 411),
        ("Content-Length: \u00b2".encode("latin-1"), 411),
        (f"Content-Length: {BODY_BYTES_MAX + 1}".encode(), 413),
        (b"Content-Length: " + b"9" * 5_000, 413),
    ],
    ids=["chunked", "no number", "no digit", "too large", "far too large"],
)
def test_a_request_whose_body_is_not_read_is_recorded(
    relay: Relay, head: bytes, status: int
) -> None:
    """As all others are, with its headers; and it was under way."""
    got = said(relay, b"POST " + PUSH.encode() + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 %d " % status)
    (one,) = relay.requests("push")
    assert (one.method, one.path, one.status, one.body) == ("POST", PUSH, status, b"")
    assert one.headers["host"] == "x"
    assert relay.observed.most_at_a_time("push") == 1
    assert relay.observed.at_a_time() == 0
    assert (relay.stats()["requests"], relay.stats()["refused"]) == (1, 1)


@pytest.mark.parametrize(
    ("request_line", "method", "status"),
    [
        (b"OPTIONS " + PUSH.encode() + b" HTTP/1.1", "OPTIONS", 405),
        (b"BREW " + PUSH.encode() + b" HTTP/1.1", "BREW", 405),
        (b"nonsense", "", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1", "", 414),
    ],
    ids=["options", "unknown method", "no request", "too long"],
)
def test_what_the_http_server_refuses_by_itself_is_recorded(
    relay: Relay, request_line: bytes, method: str, status: int
) -> None:
    """Wrong methods are 405 whatever they are called; also of what has no path there is a trace."""
    end = b"\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert said(relay, request_line + end).startswith(b"HTTP/1.1 %d " % status)
    assert [(one.method, one.status) for one in relay.requests()] == [(method, status)]


def test_a_path_without_the_prefix_is_none_of_the_three(relay: Relay, caller: Caller) -> None:
    """It is 404, and counted as no login."""
    caller.ask("POST", "/v2/instance/login", b"")
    assert [one.status for one in relay.requests("login")] == [200]
    assert relay.requests()[-1].endpoint == ""


@pytest.mark.parametrize("prefix", ["", "/some/where"])
def test_the_prefix_may_be_any(prefix: str) -> None:
    """A real client reaches it by the URL alone; the base answers, what is beside it does not."""
    with Relay(prefix=prefix) as relay, calling(relay) as caller:
        client = http.transport_for(http.Relay(relay.url))
        assert client.authenticate(Secret(DEMO_TOKEN)).instance_uuid == DEMO_UUID
        assert caller.ask("GET", prefix or "/").status == 200
        assert caller.ask("POST", f"{prefix}/v2/instance/login", b"").status == 401
        assert caller.ask("POST", "/api/v2/instance/login", b"").status == 404


@pytest.mark.proc
def test_command_takes_a_prefix() -> None:
    """With a / at its end or without."""
    line = [sys.executable, "-P", "-m", "fsmv2.communicator.testing.relay", "--prefix", "/else/"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], WAIT_S)[0], "no line in time"
            url = process.stdout.readline().split()[-1]
            assert url.endswith("/else")
            with calling(url) as caller:
                assert caller.ask("POST", "/else/v2/instance/login", b"").status == 401
                assert caller.ask("POST", "/api/v2/instance/login", b"").status == 404
        finally:
            process.terminate()
            assert process.wait(WAIT_S) == 0
