"""A request where TLS is on the way: to the relay, through a tunnel, within the TLS of a proxy;
scenarios 66, 68 and 71."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from handmade import WAIT_S, read_head, serving
from problems import problem_of

from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import http
from fsmv2.communicator.transport.codec import Message, decode_batch
from fsmv2.communicator.transport.connections import Hold, held_to
from fsmv2.communicator.transport.errors import Kind
from fsmv2.communicator.transport.http import HttpTransport
from fsmv2.supervisor import Secret

TOKEN = Secret(DEMO_TOKEN)
HOST = "relay.example.com"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
WHOLE = "the whole of it took longer than 0.6 s"
DRIP_S = 0.02
LATE_MAX = 5


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting has 0.3 s, so that with a timeout of as much the whole has 0.6 s."""
    monkeypatch.setattr(http, "CONNECT_S", 0.3)


def client_of(url: str, timeout_s: float = 0.3) -> HttpTransport:
    return http.transport_for(http.Relay(url, timeout_s=timeout_s))


def problem_text(call: Callable[..., Any], *arguments: Any) -> str:
    began = time.monotonic()
    problem = problem_of(call, *arguments)
    assert time.monotonic() - began < WAIT_S / 2
    assert problem.kind is Kind.NETWORK
    return problem.text


def server_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


@pytest.fixture
def far_relay(authority: trustme.CA) -> Iterator[Relay]:
    """One that calls itself `HOST`, as who comes through a proxy knows it."""
    with Relay(tls=server_context(authority, HOST)) as relay:
        yield relay


class Proxy:
    """Serves one connection as a proxy that is spoken to in TLS. While it is slow, what the relay
    says drips."""

    def __init__(self, context: ssl.SSLContext, relay: Relay) -> None:
        self.is_slow = False
        self._context = context
        self._port = int(relay.url.rpartition(":")[2].partition("/")[0])

    def serve(self, connection: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),  # the client leaves when it likes
            self._context.wrap_socket(connection, server_side=True) as near,
            socket.create_connection(("127.0.0.1", self._port)) as far,
        ):
            assert read_head(near).startswith(f"CONNECT {HOST}:443 ".encode())
            near.sendall(ESTABLISHED)
            while True:
                for sock in [near] if near.pending() else select.select([near, far], [], [])[0]:
                    data = sock.recv(1 << 16)
                    if not data:
                        return
                    if sock is near:
                        far.sendall(data)
                    else:
                        self._pass_on(near, data)

    def _pass_on(self, near: ssl.SSLSocket, data: bytes) -> None:
        if not self.is_slow:
            near.sendall(data)
            return
        for byte in data:
            near.sendall(bytes([byte]))
            time.sleep(DRIP_S)


@pytest.fixture
def proxy(
    authority: trustme.CA, far_relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    found = Proxy(server_context(authority, "127.0.0.1"), far_relay)
    with serving(found.serve) as url:
        monkeypatch.setenv("HTTPS_PROXY", url.replace("http:", "https:"))
        yield found
        http.close_all()


@pytest.mark.usefixtures("proxy")
def test_a_relay_is_reached_within_the_tls_of_a_proxy(far_relay: Relay) -> None:
    """Each with its own certificate, which is looked at; also with more than one record."""
    client = client_of(f"https://{HOST}/api", 10.0)
    jwt = client.authenticate(TOKEN).token
    client.push(jwt, [Message(content="x" * 300_000)], DEMO_UUID)
    assert len(far_relay.pushed()) == 1
    far_relay.send("ada@example.com", "action", "y" * 300_000)
    assert len(decode_batch(client.pull(jwt)).messages) == 1


@pytest.mark.parametrize(("proxy_host", "relay_host"), [("x.org", HOST), ("127.0.0.1", "x.org")])
def test_the_certificates_of_both_are_looked_at(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, proxy_host: str, relay_host: str
) -> None:
    with Relay(tls=server_context(authority, relay_host)) as relay:
        proxy = Proxy(server_context(authority, proxy_host), relay)
        with serving(proxy.serve) as url:
            monkeypatch.setenv("HTTPS_PROXY", url.replace("http:", "https:"))
            text = problem_text(client_of(f"https://{HOST}/api", 10.0).authenticate, TOKEN)
    assert "its certificate is refused" in text


@pytest.mark.usefixtures("short")
def test_a_handshake_that_drips_within_a_proxys_tls_ends_with_the_whole(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes well within the time for connecting; on a busy machine not each time."""
    proxy.is_slow = True
    text = problem_text(client_of(f"https://{HOST}/api").authenticate, TOKEN)
    for _ in range(LATE_MAX):
        if text.endswith(WHOLE):
            break
        http.close_all()
        with serving(proxy.serve) as url:
            monkeypatch.setenv("HTTPS_PROXY", url.replace("http:", "https:"))
            text = problem_text(client_of(f"https://{HOST}/api").authenticate, TOKEN)
    assert text.endswith(WHOLE)


def test_an_answer_that_drips_within_a_proxys_tls_ends_with_the_whole(proxy: Proxy) -> None:
    """Here each byte comes well within the timeout, and none makes a record."""
    client = client_of(f"https://{HOST}/api", 10.0)
    jwt = client.authenticate(TOKEN).token
    proxy.is_slow = True
    with held_to(Hold(time.monotonic() + 0.3)):
        assert "the whole of it took longer than" in problem_text(client.pull, jwt)


@pytest.mark.usefixtures("short")
def test_tls_after_a_slow_tunnel_has_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as much again as there was before the tunnel."""
    over = threading.Event()

    def slow(connection: socket.socket) -> None:
        read_head(connection)
        over.wait(0.45)
        connection.sendall(ESTABLISHED)
        over.wait(WAIT_S)

    with serving(slow) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert problem_text(client_of(f"https://{HOST}/api").authenticate, TOKEN).endswith(WHOLE)
        over.set()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("is_tunnel", [False, True], ids=["direct", "tunnel"])
def test_silence_in_a_handshake_is_told_as_the_time_for_connecting(
    monkeypatch: pytest.MonkeyPatch, is_tunnel: bool
) -> None:
    """It ends at that, with much of the whole left, and it is no silence of an answer."""
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        if is_tunnel:
            read_head(connection)
            connection.sendall(ESTABLISHED)
        over.wait(WAIT_S)

    with serving(silent) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)  # loopback is direct all the same
        client = client_of(f"https://{HOST}/api" if is_tunnel else url.replace("http", "https"), 15)
        assert "no connection within" in problem_text(client.authenticate, TOKEN)
        over.set()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS failed: .*no TLS is spoken"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "TLS failed: .*handshake failure"),
        (b"", "TLS failed: .*eof|Connection reset by peer"),
    ],
    ids=["plain http", "alert", "end"],
)
def test_tls_that_fails_is_told_as_that(answer: bytes, told: str) -> None:
    """OpenSSL's numbers were read as the kernel's: "Operation not permitted"."""

    def plain(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with serving(plain) as url:
        client = client_of(url.replace("http:", "https:"), WAIT_S)
        assert re.search(told, problem_text(client.authenticate, TOKEN))
