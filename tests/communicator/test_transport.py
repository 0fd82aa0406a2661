"""The transport over real sockets: time, size, certificates, proxies, connections that break."""

from __future__ import annotations

import contextlib
import gzip
import logging
import random
import re
import select
import socket
import ssl
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from handmade import WAIT_S, read_head, serving
from problems import problem_of

from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import connections, http
from fsmv2.communicator.transport.codec import Message, decode_batch, encode_content
from fsmv2.communicator.transport.connections import Hold, held_to
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.communicator.transport.http import HttpTransport
from fsmv2.communicator.transport.token import double_hash
from fsmv2.supervisor import Secret

JSON = (("Content-Type", "application/json"),)
TOKEN = Secret(DEMO_TOKEN)
LATE_MAX = 5


def transport(url: str, **fields: Any) -> HttpTransport:
    return http.transport_for(http.Relay(url, **fields))


def logged_in(relay: Relay, **fields: Any) -> tuple[HttpTransport, Secret]:
    found = transport(relay.url, **fields)
    return found, found.authenticate(TOKEN).token


def message(payload: Any = 1) -> Message:
    return Message(email="ada@example.com", content=encode_content("status", payload))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting gets a little less time than usual, so that a request's whole time is short."""
    monkeypatch.setattr(http, "CONNECT_S", 0.3)


def ended_after(call: Any, at_least_s: float) -> Problem:
    """The problem of a call that took so long, and not as long as it may by default."""
    began = time.monotonic()
    problem = problem_of(call)
    assert at_least_s <= time.monotonic() - began < 8.0
    return problem


def told_after(call: Any, at_least_s: float, text: str) -> Problem:
    """The problem of several that says ``text``, or the last one: a busy machine may keep a relay
    from its next byte for longer than the short timeouts here; not each time."""
    for _ in range(LATE_MAX):
        problem = ended_after(call, at_least_s)
        if problem.text.endswith(text):
            break
    return problem


def answers(client: HttpTransport, jwt: Secret) -> bool:
    """Whether there is an answer to one of several pulls."""
    for _ in range(LATE_MAX):
        with contextlib.suppress(TransportError):
            client.pull(jwt)
            return True
    return False


def test_silence_is_a_network_error_at_the_timeout(relay: Relay) -> None:
    """Scenario 65: not sooner, nor at the time for the whole, which is longer; the error names
    it."""
    _, jwt = logged_in(relay)
    client = transport(relay.url, timeout_s=0.3)
    relay.fault("pull", Fault(delay_s=3600))
    problem = ended_after(lambda: client.pull(jwt), 0.3)
    assert problem.kind is Kind.NETWORK
    assert problem.text.endswith("no answer, or none that went on, within 0.3 s")
    assert answers(client, jwt)


@pytest.mark.parametrize("drip_head", [False, True], ids=["body", "headers"])
@pytest.mark.usefixtures("short")
def test_dripping_answer_is_a_network_error_at_the_time_for_the_whole(
    relay: Relay, drip_head: bool
) -> None:
    """Scenario 66: bytes that drip for ever, in the body or before it. Each comes well within the
    timeout, so only the time for the whole can end this, and the error names that."""
    _, jwt = logged_in(relay)
    client = transport(relay.url, timeout_s=0.3)
    for number in range(300):
        relay.send("ada@example.com", "action", number)
    relay.fault("pull", Fault(drip_s=0.05, drip_head=drip_head), times=None)
    whole = "the whole of it took longer than 0.6 s"
    problem = told_after(lambda: client.pull(jwt), 0.3, whole)
    assert problem.kind is Kind.NETWORK
    assert problem.text.endswith(whole)
    relay.heal()
    assert answers(client, jwt)


def test_large_push_may_take_longer_than_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 58: what a slow line takes its time for is not cut at the time for connecting."""
    monkeypatch.setattr(http, "CONNECT_S", 0.2)
    sent = threading.Event()

    def slow(connection: socket.socket) -> None:
        head, _, rest = read_head(connection).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        sent.wait(0.5)  # the client's buffer is full by now, and stays so
        left = length - len(rest)
        while left:
            left -= len(connection.recv(min(left, 1 << 20)))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    large = Message(content="x" * (20 << 20))
    with serving(slow) as url:
        transport(url, timeout_s=15.0).push(Secret("jwt"), [large], "")


@pytest.mark.usefixtures("short")
def test_push_that_nobody_reads_ends() -> None:
    """A relay that takes no byte more is a network error, not a hang."""
    read = threading.Event()
    large = Message(content="x" * (20 << 20))
    with serving(lambda connection: read.wait(WAIT_S)) as url:
        client = transport(url, timeout_s=0.3)
        problem = ended_after(lambda: client.push(Secret("jwt"), [large], ""), 0.6)
        read.set()
    assert problem.kind is Kind.NETWORK
    assert problem.text.endswith("the whole of it took longer than 0.6 s")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (faults.dropped(), "ProtocolError, Connection reset by peer"),
        (Fault(cut_bytes=1), "ProtocolError"),
        (Fault(drop=True, cut_bytes=1), "ProtocolError, Connection reset by peer"),
    ],
    ids=["reset", "cut body", "reset in the body"],
)
def test_broken_connection_is_a_network_error_and_the_next_call_works(
    relay: Relay, fault: Fault, told: str
) -> None:
    """Scenario 67, on a push and on a pull; a reset is told from an end that comes too early."""
    client, jwt = logged_in(relay)
    relay.send("ada@example.com", "action", 1)
    for call in (lambda: client.push(jwt, [message()], DEMO_UUID), lambda: client.pull(jwt)):
        relay.fault("push", fault)
        relay.fault("pull", fault)
        problem = problem_of(call)
        assert problem.kind is Kind.NETWORK
        assert problem.text == f"cannot reach the relay: {told}"
        relay.heal()
        call()


def test_connection_closed_after_an_answer_is_noticed(relay: Relay) -> None:
    """Scenario 67: a keep-alive that was promised and not kept costs no push."""
    client, jwt = logged_in(relay)
    relay.fault("push", Fault(close_after=True))
    client.push(jwt, [message(1)], DEMO_UUID)
    # Until the end of the connection has come to us: before that nobody could notice.
    pool: Any = client._pool().connection_from_url(relay.url)
    (kept,) = [connection for connection in pool.pool.queue if connection is not None]
    assert select.select([kept.sock], [], [], WAIT_S)[0]
    client.push(jwt, [message(2)], DEMO_UUID)
    assert [entry.payload for entry in relay.pushed()] == [1, 2]
    assert len(relay.observed.connections()) == 2


def test_connections_have_an_age_and_are_not_left_idle(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a relay that moved in DNS is found, and no firewall forgets one of ours."""
    client, jwt = logged_in(relay)
    client.pull(jwt)
    assert relay.observed.connections() == {1}
    monkeypatch.setattr(connections, "IDLE_S_MAX", 0.0)
    client.pull(jwt)
    assert relay.observed.connections() == {1, 2}
    monkeypatch.undo()
    monkeypatch.setattr(http, "POOL_AGE_S_MAX", 0.0)
    client.pull(jwt)
    assert relay.observed.connections() == {1, 2, 3}


def test_a_new_generation_is_a_new_transport_once(relay: Relay) -> None:
    """Scenario 48: whoever sees it first drops the connections; the second time is no news."""
    client, jwt = logged_in(relay)
    assert transport(relay.url) is client
    anew = transport(relay.url, generation=1)
    assert anew is not client
    assert transport(relay.url, generation=1) is anew
    anew.pull(jwt)
    assert relay.observed.connections() == {1, 2}


def test_two_threads_get_one_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push and a pull of one attempt ask for it at the same moment."""
    made = threading.Barrier(2)
    init = HttpTransport.__init__

    def slow_init(self: HttpTransport, relay: http.Relay) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            made.wait(0.3)  # where both get in, both are here
        init(self, relay)

    monkeypatch.setattr(HttpTransport, "__init__", slow_init)
    for url in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(transport, [url] * 2)
        assert first is second
        made.reset()


def test_two_communicators_of_one_relay_have_connections_of_their_own(relay: Relay) -> None:
    """In one proc, whatever each has configured and however often it was reset: neither drops the
    other's with its next request, and a reset of one is none of the other's."""
    one = transport(relay.url, path="root/one", generation=1)
    other = transport(relay.url, path="root/other", timeout_s=5.0)
    assert transport(relay.url, path="root/one", generation=1) is one
    assert transport(relay.url, path="root/other", timeout_s=5.0) is other
    for each in (one, other):
        assert each.pull(each.authenticate(TOKEN).token)
    assert len(relay.observed.connections()) == 2
    assert http.close_of("root/one") == 1
    assert transport(relay.url, path="root/one", generation=1) is not one
    assert transport(relay.url, path="root/other", timeout_s=5.0) is other
    assert other.pull(other.authenticate(TOKEN).token)
    assert len(relay.observed.connections()) == 2


def test_a_login_takes_the_connections_there_are(relay: Relay) -> None:
    """It knows of no resets; were that a count of its own, the sync after it would begin anew."""
    made = transport(relay.url, generation=3)
    assert transport(relay.url, generation=None) is made
    assert transport(relay.url, generation=3) is made
    assert transport(relay.url, generation=4) is not made


def test_changing_relays_in_many_threads_loses_no_transport_and_none_is_left_open() -> None:
    """Scenario 49: resets, other relays and closing at any moment; at most so many are kept."""
    made: set[HttpTransport] = set()

    def change(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(300):
            url = f"http://127.0.0.1:{dice.randrange(1, 80)}"
            made.add(transport(url, generation=dice.randrange(3)))
            if dice.random() < 0.02:
                http.close_all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert len(http._transports) <= http.RELAYS_MAX
    for key, kept in http._transports.items():
        assert (kept.relay.path, kept.relay.url) == key
        assert kept in made


def test_answers_are_capped_also_when_they_are_packed(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB behind 64 kB of gzip: read up to the limit and no further, an unknown error."""
    monkeypatch.setattr(http, "BODY_BYTES_MAX", 1 << 20)
    client, jwt = logged_in(relay)
    packed = (*JSON, ("Content-Encoding", "gzip"))
    relay.fault("pull", Fault(status=200, body=gzip.compress(b'{"a":1}'), headers=packed))
    assert client.pull(jwt) == b'{"a":1}'
    for body, headers in ((bytes(2 << 20), JSON), (gzip.compress(bytes(64 << 20), 1), packed)):
        relay.fault("pull", Fault(status=200, body=body, headers=headers))
        tracemalloc.start()
        try:
            problem = problem_of(client.pull, jwt)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (problem.kind, problem.status) == (Kind.UNKNOWN, 200)
        assert "more than 1048576 bytes" in problem.text
        assert peak < 16 << 20
    assert client.pull(jwt) is not None


def test_no_redirect_is_followed(relay: Relay) -> None:
    """Scenario 70 and its like: a push that is sent elsewhere is not delivered."""
    client, jwt = logged_in(relay)
    for status in (301, 302, 303, 307, 308):
        for endpoint in ("push", "pull", "login"):
            relay.fault(endpoint, faults.redirect(f"{relay.url}/v2/instance/{endpoint}", status))
        for call in (
            lambda: client.push(jwt, [message()], DEMO_UUID),
            lambda: client.pull(jwt),
            lambda: client.authenticate(TOKEN),
        ):
            assert problem_of(call).status == status
    assert relay.pushed() == []


def test_error_of_a_login_is_told_without_a_word_of_it(relay: Relay) -> None:
    """Its body may hold anything, and be of any size."""
    body = f'{{"error":"no {DEMO_TOKEN} {"é " * 300}"}}'.encode()
    relay.fault("login", Fault(status=500, body=body, headers=JSON))
    problem = problem_of(transport(relay.url).authenticate, TOKEN)
    assert problem.text == f"HTTP 500 (server_error): got {len(body):,} bytes of body"


@contextmanager
def relay_with(certificate: trustme.LeafCert) -> Iterator[Relay]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with Relay(tls=context) as relay:
        yield relay


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority is in the system's trust store, where a company's own belongs."""
    file = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


@pytest.mark.usefixtures("trusted")
def test_https_with_a_trusted_certificate(authority: trustme.CA) -> None:
    """The system's trust store decides."""
    with relay_with(authority.issue_cert("127.0.0.1")) as relay:
        client, jwt = logged_in(relay)
        client.push(jwt, [message()], DEMO_UUID)
        assert len(relay.pushed()) == 1


@pytest.mark.parametrize(
    ("host", "ended", "known", "told"),
    [
        ("127.0.0.1", True, True, "expired"),
        ("relay.example.com", False, True, "127.0.0.1"),
        ("127.0.0.1", False, False, "issuer certificate|self.signed"),
    ],
    ids=["expired", "wrong host", "unknown authority"],
)
@pytest.mark.usefixtures("trusted")
def test_certificate_that_is_no_good_is_a_network_error_with_its_reason(
    authority: trustme.CA, host: str, ended: bool, known: bool, told: str
) -> None:
    """Scenario 68; and whoever allows insecure TLS gets through with the very same one."""
    issuer = authority if known else trustme.CA()
    days = timedelta(days=1)
    now = datetime.now(UTC)
    certificate = issuer.issue_cert(
        host, not_before=now - 9 * days, not_after=now - days if ended else now + days
    )
    with relay_with(certificate) as relay:
        problem = problem_of(transport(relay.url).authenticate, TOKEN)
        assert problem.kind is Kind.NETWORK
        assert re.search(told, problem.text), problem.text
        assert transport(relay.url, allow_insecure_tls=True).authenticate(TOKEN)


REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names do not resolve; numbers do."""
    resolve = socket.getaddrinfo

    def refuse(host: Any, *arguments: Any, **fields: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        return resolve(host, *arguments, **fields)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 71: with its credentials, which are for the proxy alone."""
    heads: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(REPLY)

    no_dns(monkeypatch)
    with serving(proxy) as url:
        monkeypatch.setenv("HTTP_PROXY", url.replace("//", "//ada:hunter2@"))
        transport("http://relay.example.com/api").pull(Secret("jwt"))
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "GET http://relay.example.com/api/v2/instance/pull HTTP/1.1"
    assert "proxy-authorization: Basic YWRhOmh1bnRlcjI=".lower() in heads[0].decode().lower()


def test_https_goes_through_a_tunnel_and_a_refusal_hides_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scenario 71: what the proxy refuses is a network error without its credentials."""
    heads: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    no_dns(monkeypatch)
    with serving(proxy) as url:
        monkeypatch.setenv("https_proxy", url.replace("//", "//ada:hunter2@"))
        client = transport("https://relay.example.com/api")
        problem = problem_of(client.pull, Secret("jwt"))
    assert heads[0].startswith(b"CONNECT relay.example.com:443 HTTP/1.")
    assert problem.kind is Kind.NETWORK
    assert "hunter2" not in problem.text
    assert b"jwt" not in heads[0]


@pytest.mark.parametrize("exempt", ["relay.example.com", ".example.com", "*"])
def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """Scenario 71: who is named there is spoken to directly, here in vain."""
    no_dns(monkeypatch)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", exempt)
    problem = problem_of(transport("http://relay.example.com/api").pull, Secret("jwt"))
    assert problem.kind is Kind.NETWORK
    assert "NameResolution" in problem.text


@pytest.mark.parametrize("exempt", ["other.example.com", "example.co", "y.example.com"])
def test_a_login_goes_through_the_proxy_where_no_proxy_names_others(
    monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    """Scenario 71: with the bearer of a login, and the cookie of the answer is the session's."""
    heads: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: token=a.b.c; Path=/; HttpOnly\r\n"
            b'Content-Length: 23\r\n\r\n{"uuid":"u","name":"n"}'
        )

    no_dns(monkeypatch)
    monkeypatch.setenv("NO_PROXY", exempt)
    with serving(proxy) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        login = transport("http://relay.example.com/api").authenticate(TOKEN)
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "POST http://relay.example.com/api/v2/instance/login HTTP/1.1"
    assert f"Authorization: Bearer {double_hash(DEMO_TOKEN)}" in lines
    assert (login.token.reveal(), login.instance_uuid, login.instance_name) == ("a.b.c", "u", "n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_loopback_is_direct(relay: Relay, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Scenario 71: whatever the environment says."""
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    login = transport(relay.url.replace("127.0.0.1", host)).authenticate(TOKEN)
    assert login.instance_uuid == DEMO_UUID


def test_5000_messages_come_in_one_reply(relay: Relay) -> None:
    """Scenario 62."""
    client, jwt = logged_in(relay)
    relay.backend.pull_messages_max = 5000
    for number in range(5000):
        relay.send("ada@example.com", "action", number)
    assert len(decode_batch(client.pull(jwt)).messages) == 5000


def test_the_client_is_silent_for_us_and_for_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """Other code of the same process may use urllib3 too, and wants to read what it says."""
    for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
        with held_to(Hold(time.monotonic() + 60.0)):
            logging.getLogger(f"urllib3.{name}").error("ours: %s", name)
        logging.getLogger(f"urllib3.{name}").error("theirs: %s", name)
    assert caplog.text.count("theirs") == 5
    assert "ours" not in caplog.text


@pytest.mark.parametrize("interim", [100, 102, 103, 199])
def test_an_interim_answer_is_not_the_answer(interim: int) -> None:
    """RFC 9110, 15.2. Taken for it, the real one would be read as that of the next request: a push
    that was refused would count as taken."""
    refused = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(
            f"HTTP/1.1 {interim} Soon\r\nLink: </x>\r\n\r\n".encode() * 3
            + b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"
        )
        read_head(connection)
        refused.set()
        connection.sendall(b"HTTP/1.1 204 None\r\n\r\n")

    with serving(answer) as url:
        client = transport(url)
        assert problem_of(client.pull, Secret("jwt")).status == 500
        assert not refused.is_set()
        assert client.pull(Secret("jwt")) == b""


def test_a_connection_that_speaks_another_protocol_now_is_not_used_again() -> None:
    """What it says later is no answer of ours."""
    closed = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        while connection.recv(65536):
            pass
        closed.set()

    with serving(answer) as url:
        problem = problem_of(transport(url).pull, Secret("jwt"))
        assert closed.wait(WAIT_S)
    assert (problem.kind, problem.status) == (Kind.UNKNOWN, 101)
    assert "want a final status" in problem.text


@pytest.mark.usefixtures("short")
def test_interim_answers_without_an_end_end_with_the_time() -> None:
    def answer(connection: socket.socket) -> None:
        read_head(connection)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 103 Soon\r\n\r\n")

    with serving(answer) as url:
        assert problem_of(transport(url, timeout_s=0.2).pull, Secret("jwt")).kind is Kind.NETWORK


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns at almost any instruction."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_connections_that_are_closed_between_choice_and_use_are_no_error(relay: Relay) -> None:
    """A failure of one direction, an age limit or a reset closes them at any moment; of the other
    direction's request nothing has been sent then, and it is healthy."""
    client, jwt = logged_in(relay)
    over = threading.Event()
    left = 0

    def close() -> None:
        nonlocal left
        while not over.wait(0.0002):
            if left > 0:
                left -= 1
                client.close()

    closing = threading.Thread(target=close)
    closing.start()
    try:
        for number in range(300):
            left = http.BEGINS_MAX - 2  # and one more may be on its way from the request before
            client.push(jwt, [message(number)], DEMO_UUID)
    finally:
        over.set()
        closing.join()
    assert [entry.payload for entry in relay.pushed()] == list(range(300))


def test_connections_that_are_always_closed_are_a_network_error(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not begin anew for ever."""
    client, jwt = logged_in(relay)
    real, begun = client._pool, []

    def closed() -> Any:
        begun.append(real())
        begun[-1].connection_from_url(relay.url).close()
        return begun[-1]

    monkeypatch.setattr(client, "_pool", closed)
    problem = problem_of(client.pull, jwt)
    assert (problem.kind, problem.text) == (
        Kind.NETWORK,
        "cannot reach the relay: ClosedPoolError",
    )
    assert len(begun) == http.BEGINS_MAX
    assert relay.requests("pull") == []
