"""Connections over sockets: which are kept, for how long, and how one is made where a host has
several addresses."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from problems import problem_of

from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import connections, dialing, http
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.communicator.transport.connections import CONNECTIONS_MAX, IDLE_S_MAX, KEEPALIVE_S
from fsmv2.communicator.transport.errors import Kind
from fsmv2.supervisor import Secret

WAIT_S = 20.0
MESSAGE = Message(email="ada@example.com", content=encode_content("status", 1))
HELD = Fault(delay_s=3600.0)


class Clock:
    """The real one, some time later; for modules in whose place of `time` it stands."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def time(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (http, connections):
        monkeypatch.setattr(module, "time", clock)
    return clock


def side_by_side(relay: Relay, *calls: tuple[str, Callable[[], Any]]) -> list[int]:
    """Make the calls so that each begins while those before are under way, and return the number of
    the connection that each came by."""
    with ThreadPoolExecutor(len(calls)) as pool:
        under_way: list[Future[Any]] = []
        try:
            for endpoint, call in calls:
                relay.fault(endpoint, HELD, times=None)
                under_way.append(pool.submit(call))
                count = len(under_way)
                assert relay.wait_for(lambda now, n=count: now.observed.at_a_time() == n, WAIT_S)
        finally:
            relay.heal()
        for future in under_way:
            future.result(WAIT_S)
    return [one.connection for one in relay.requests()[-len(calls) :]]


def test_a_connection_is_idle_for_itself(
    relay: Relay, client: http.HttpTransport, jwt: Secret, clock: Clock
) -> None:
    """Trap 3: one of two has all the work, and nobody asks how long the other has been idle when
    both are wanted again."""

    def push() -> None:
        client.push(jwt, [MESSAGE], DEMO_UUID)

    def pull() -> None:
        client.pull(jwt)

    assert set(side_by_side(relay, ("pull", pull), ("push", push))) == {1, 2}
    used = set()
    for _ in range(2):
        clock.ahead_s += 0.6 * IDLE_S_MAX
        pull()
        used.add(relay.requests()[-1].connection)
    assert len(used) == 1
    assert side_by_side(relay, ("pull", pull), ("push", push)) == [*used, 3]
    assert len(relay.pushed()) == 2


def test_two_connections_are_kept(relay: Relay, client: http.HttpTransport, jwt: Secret) -> None:
    """Section 1.6: a push and a pull have one each, also the next time; a third is closed."""
    pulls = [("pull", lambda: client.pull(jwt))] * 3
    first, second = (set(side_by_side(relay, *pulls)) for _ in range(2))
    assert len(first) == len(second) == 3
    assert len(first & second) == CONNECTIONS_MAX == 2


def test_the_kernel_asks_whether_a_silent_relay_is_there(
    relay: Relay, client: http.HttpTransport, jwt: Secret
) -> None:
    """Section 1.6: every 30 s, not after two hours."""
    client.pull(jwt)
    pool: Any = client._pool().connection_from_url(relay.url)
    (sock,) = [kept.sock for kept in pool.pool.queue if kept is not None]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        assert sock.getsockopt(socket.IPPROTO_TCP, option) == KEEPALIVE_S == 30


@contextmanager
def black_hole() -> Iterator[int]:
    """The port of a listener that takes no connection any more: its kernel answers none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting: list[socket.socket] = []
        try:
            while True:
                waiting.append(socket.socket())
                waiting[-1].settimeout(0.1)
                waiting[-1].connect(address)
        except TimeoutError:
            yield address[1]
        finally:
            for one in waiting:
                one.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> http.HttpTransport:
    """A transport for a host whose addresses are these of loopback."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    return http.transport_for(http.Relay("http://relay.example.com/api"))


def problem_text(client: http.HttpTransport) -> str:
    problem = problem_of(client.pull, Secret("jwt"))
    assert problem.kind is Kind.NETWORK
    return problem.text


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_all_addresses_of_a_host_have_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it each one's, these would take a minute."""
    monkeypatch.setattr(http, "CONNECT_S", 0.3)
    with black_hole() as port:
        client = resolve_to(monkeypatch, *[port] * 200)
        began_at = time.monotonic()
        assert "no connection within" in problem_text(client)
        assert time.monotonic() - began_at < WAIT_S


def test_connecting_is_held_to_the_time_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A resolver that was slow may have left less than connecting has otherwise."""
    monkeypatch.setattr(http, "CONNECT_S", 10 * WAIT_S)
    with black_hole() as port:
        client = resolve_to(monkeypatch, port)
        found = socket.getaddrinfo("", 0)

        def slowly(*_: Any, **__: Any) -> Any:
            clock.ahead_s += 10 * WAIT_S + client.relay.timeout_s - 0.3
            return found

        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        began_at = time.monotonic()
        assert problem_text(client)
        assert time.monotonic() - began_at < WAIT_S


def port_of(relay: Relay) -> int:
    return int(relay.url.rpartition(":")[2].partition("/")[0])


def test_a_dead_address_starves_no_living_one(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an IPv6 that goes nowhere."""
    with black_hole() as port:
        client = resolve_to(monkeypatch, port, port_of(relay))
        assert client.authenticate(Secret(DEMO_TOKEN)).instance_uuid == DEMO_UUID


@pytest.mark.parametrize(
    ("count", "head_start_s", "turns"),
    [(4, 9.0, [0.25] * 4), (2, 0.25, [0.25, 0.25, 0.5]), (1, 9.0, [1.0])],
    ids=["many", "few", "one"],
)
def test_each_address_has_its_turn_within_the_time(
    monkeypatch: pytest.MonkeyPatch, count: int, head_start_s: float, turns: list[float]
) -> None:
    clock = Clock()
    clock.monotonic = lambda: clock.ahead_s  # type: ignore[method-assign]
    seen: list[float] = []

    class Silent(dialing.selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            seen.append(timeout or 0.0)
            clock.ahead_s += seen[-1]
            return []

    monkeypatch.setattr(dialing, "time", clock)
    monkeypatch.setattr(dialing, "HEAD_START_S", head_start_s)
    monkeypatch.setattr(dialing.selectors, "DefaultSelector", Silent)
    address = dialing.Address(socket.AF_INET, ("127.0.0.1", closed_port()))
    with pytest.raises(TimeoutError):
        dialing.connect([address] * count, 1.0)
    assert seen == pytest.approx(turns)


def test_a_slow_address_is_not_given_up_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its turn while those before go on: who answers late is in time all the same."""
    turns: list[float] = []

    class Selector(dialing.selectors.DefaultSelector):
        """Tells of nobody until all have begun."""

        def select(self, timeout: float | None = None) -> Any:
            turns.append(timeout or 0.0)
            return super().select(timeout) if len(turns) == 3 else []

    monkeypatch.setattr(dialing.selectors, "DefaultSelector", Selector)
    with black_hole() as port, socket.create_server(("127.0.0.1", 0)) as slow:
        places = [slow.getsockname(), ("127.0.0.1", port), ("127.0.0.1", port)]
        addresses = [dialing.Address(socket.AF_INET, place) for place in places]
        with dialing.connect(addresses, WAIT_S) as sock:
            assert sock.getpeername() == slow.getsockname()
            assert sock.getblocking()
    assert turns[:2] == [dialing.HEAD_START_S] * 2


def test_a_refused_address_costs_no_time_and_is_told_if_none_is_better(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "HEAD_START_S", 10 * WAIT_S)
    monkeypatch.setattr(http, "CONNECT_S", 30 * WAIT_S)
    client = resolve_to(monkeypatch, closed_port(), port_of(relay))
    assert client.authenticate(Secret(DEMO_TOKEN)).instance_uuid == DEMO_UUID
    http.close_all()
    refused = resolve_to(monkeypatch, closed_port(), closed_port())
    assert "Connection refused" in problem_text(refused)


def test_no_socket_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of those that lost nor of those that failed."""
    made: list[socket.socket] = []
    begin = dialing._begin

    def noted(*arguments: Any) -> socket.socket:
        made.append(begin(*arguments))
        return made[-1]

    monkeypatch.setattr(dialing, "_begin", noted)
    with black_hole() as port, socket.create_server(("127.0.0.1", 0)) as living:
        places = [("127.0.0.1", port), ("127.0.0.1", closed_port()), living.getsockname()]
        addresses = [dialing.Address(socket.AF_INET, place) for place in places]
        with dialing.connect(addresses, WAIT_S):
            assert [sock.fileno() == -1 for sock in made] == [True, True, False]
        with pytest.raises(TimeoutError):
            dialing.connect(addresses[:1], 0.1)
    assert all(sock.fileno() == -1 for sock in made)
    with pytest.raises(OSError, match="no address") as caught:
        dialing.connect([], WAIT_S)
    assert caught.value.errno == errno.EADDRNOTAVAIL
