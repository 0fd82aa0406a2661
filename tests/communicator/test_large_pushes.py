"""A push that is larger than what the kernel holds: the relay may say or do something while it is
still being sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from handmade import WAIT_S, read_head, reset, serving
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import http
from fsmv2.communicator.transport.codec import Message
from fsmv2.communicator.transport.errors import Kind

LARGE = "eHh4" * (5 << 20)  # 20 MB that no buffer takes whole
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    pusher = Pusher(relay, context, tmp_path)
    spool.append(pusher.outbox, [spool.encode(Message(email="a@x", content=LARGE))])
    return pusher


def push_to(
    pusher: Pusher, answer: Callable[[socket.socket], None], ended: Callable[[], None] = list
) -> Direction:
    """One try at a relay that answers so; the session is the good one's."""
    good = pusher.access
    with serving(answer) as url:
        there = msgspec.structs.replace(good.credentials, relay_url=url)
        pusher.access = msgspec.structs.replace(good, credentials=there)
        try:
            return pusher.push()
        finally:
            pusher.access = good
            ended()


def begin(connection: socket.socket) -> int:
    """Read the head and 64 KB of the body; returns how much of it is left."""
    head, _, rest = read_head(connection).partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert length > len(LARGE)
    read = len(rest)
    while read < 64 * 1024 and (more := connection.recv(64 * 1024)):
        read += len(more)
    return length - read


def waits_and_arrives_once(pusher: Pusher) -> None:
    assert spool.usage(pusher.outbox).messages == 1
    assert pusher.kept() == []
    assert pusher.relay.pushed() == []
    stands = pusher.push()
    assert (stands.problem, stands.moved, stands.waiting) == (None, 1, 0)
    assert [entry.content for entry in pusher.relay.pushed()] == [LARGE]


def test_a_reset_in_the_midst_of_a_push_is_a_network_error(pusher: Pusher) -> None:
    """Scenario 67: while the client is still sending; the message waits, and the next push has
    it."""

    def resets(connection: socket.socket) -> None:
        begin(connection)
        reset(connection)

    problem = push_to(pusher, resets).problem
    assert problem is not None
    assert problem.kind is Kind.NETWORK
    assert "sending 1 messages, 209" in problem.text
    waits_and_arrives_once(pusher)


def ends(connection: socket.socket, left: int) -> None:
    connection.close()  # the kernel resets it, for what nobody has read


def drains(connection: socket.socket, left: int) -> None:
    while left and (more := connection.recv(min(left, 1 << 20))):
        left -= len(more)


@pytest.mark.parametrize("then", [ends, drains])
def test_a_refusal_that_comes_early_is_seen(pusher: Pusher, then: Any) -> None:
    """Scenarios 59 and 67: a relay that refuses for the length says so before it has the body, and
    goes, or reads on for a while; that is a 413 and no broken connection."""

    def refuses(connection: socket.socket) -> None:
        left = begin(connection)
        connection.sendall(TOO_LARGE)
        then(connection, left)

    problem = push_to(pusher, refuses).problem
    assert problem is not None
    assert (problem.kind, problem.status) == (Kind.UNKNOWN, 413)
    waits_and_arrives_once(pusher)


def test_a_refusal_whose_relay_reads_no_more_costs_nothing(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor goes: the client is sending when its time is over. The message waits all the same."""
    monkeypatch.setattr(http, "CONNECT_S", 0.2)
    credentials = msgspec.structs.replace(pusher.access.credentials, timeout_s=0.2)
    good, pusher.access = (
        pusher.access,
        msgspec.structs.replace(pusher.access, credentials=credentials),
    )
    over = threading.Event()

    def refuses(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client may be quicker
            begin(connection)
            connection.sendall(TOO_LARGE)
        over.wait(WAIT_S)

    problem = push_to(pusher, refuses, over.set).problem
    pusher.access = good
    assert problem is not None
    assert problem.kind is Kind.NETWORK
    waits_and_arrives_once(pusher)


def test_a_success_for_a_part_of_a_push_is_none(pusher: Pusher) -> None:
    """Whoever says so has not read what it was sent: the message would be gone."""

    def praises(connection: socket.socket) -> None:
        begin(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    problem = push_to(pusher, praises).problem
    assert problem is not None
    assert problem.kind is Kind.NETWORK
    assert "HTTP 200 before it had the whole of the request" in problem.text
    waits_and_arrives_once(pusher)


def test_sixty_megabytes_arrive_in_their_turn(relay: Relay, context: Any, tmp_path: Path) -> None:
    """Scenario 58: just below what a relay takes; those before and behind are there once and in
    order, and nothing is kept."""
    pusher = Pusher(relay, context, tmp_path)
    pusher.post(1)
    sixty = "eHh4" * 15_000_000
    spool.append(pusher.outbox, [spool.encode(Message(email="a@x", content=sixty))])
    pusher.post(2)
    stands = pusher.push()
    assert (stands.problem, stands.moved, stands.waiting, stands.refused) == (None, 3, 0, 0)
    first, second, third = relay.pushed()
    assert (first.payload, third.payload) == (1, 2)
    assert second.content == sixty
    assert pusher.left() == []
