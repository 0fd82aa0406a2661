"""The HTTP/1.1 server under the relay stand-in.

Knows: connections, framing, how a fault looks on the wire.
Does not know: paths, tokens, which fault is due; it asks the relay for each request.
Invariants: keep-alive unless a fault or a bad request ends the connection; an answer leaves in
one write; no wait outlives the relay.
"""

from __future__ import annotations

import http.server
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from fsmv2.communicator.testing.backend import Answer
from fsmv2.communicator.testing.faults import Fault

if TYPE_CHECKING:
    from fsmv2.communicator.testing.relay import Relay

BODY_BYTES_MAX = 64 * 1024 * 1024
TCP_ESTABLISHED = 1  # as in netinet/tcp.h
LENGTH_DIGITS_MAX = 20  # of more, int() may refuse to make a number
STATS_PATH = "/_relay/stats"
# A socket that is closed with it resets its connection, as a proxy that died does.
_LINGER_0 = struct.pack("ii", 1, 0)


class Server(http.server.ThreadingHTTPServer):
    """Accepts; one thread per connection, all ended and joined by the relay's `close`."""

    # Joined at close, not abandoned: a test must not leave a socket behind.
    daemon_threads = False
    block_on_close = True

    def __init__(
        self,
        address: tuple[str, int],
        relay: Relay,
        connections: Iterator[int],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.relay = relay
        self.connections = connections
        self.tls = tls
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        # Without HTTPServer's reverse lookup of the name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            # The handshake is the connection's own thread's: here it would hold up all others.
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def track(self, connection: socket.socket, is_open: bool) -> None:
        """Remember an open connection, or forget a closed one."""
        with self._guard:
            if is_open:
                self._open.add(connection)
                self.relay.connected(sum(map(_is_established, self._open)))
            else:
                self._open.discard(connection)
        if is_open and self.relay.closing.is_set():
            self.end_connections()

    def end_connections(self) -> None:
        """Shut every connection down; their threads then end by themselves."""
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the other end was quicker

    def shutdown_request(self, request: Any) -> None:
        # A shutdown would send an end of file, which the client sees before the reset.
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_LINGER_0)) == _LINGER_0:
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Who does not like our certificate ends the handshake: that is what it is for.
        if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


def _is_established(connection: socket.socket) -> bool:
    """Whether neither end has closed it: the kernel knows it before the thread that reads does."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False
    return info[0] == TCP_ESTABLISHED


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads requests, asks the relay, writes what it says or what the fault makes of it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.number = next(self.server.connections)
        self.server.track(self.connection, True)

    def finish(self) -> None:
        self.server.track(self.connection, False)
        super().finish()

    def log_message(self, *args: Any) -> None:
        """Nothing: requests are recorded, not printed."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: any method has an answer here, and what cannot be
        read is recorded like every request."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._serve()
        else:  # the headers are still those of the request before
            self._refuse_unread(code, self.path if self.command else "", {})

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdecimal()):
            self._refuse_unread(HTTPStatus.LENGTH_REQUIRED, path, headers)
            return
        if len(length) > LENGTH_DIGITS_MAX or int(length) > BODY_BYTES_MAX:
            self._refuse_unread(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, path, headers)
            return
        body = self.rfile.read(int(length))
        if path == STATS_PATH:
            self._reply(Answer(200, msgspec.json.encode(self.server.relay.stats())), None)
            return
        with self.server.relay.under_way(path) as ended:
            answer, fault = self.server.relay.answer(self.command, path, headers, body, self.number)
            self._reply(answer, fault, ended=ended)

    def _refuse_unread(self, status: int, path: str, headers: dict[str, str]) -> None:
        """Answer a request whose body, at least, was not read: nothing can follow it."""
        with self.server.relay.under_way(path) as ended:
            method = self.command or ""
            answer = self.server.relay.refuse_unread(method, path, headers, status, self.number)
            self._reply(answer, None, close=True, ended=ended)

    do_GET = _serve  # noqa: N815 - http.server's naming
    do_POST = _serve  # noqa: N815 - http.server's naming
    do_PUT = _serve  # noqa: N815 - http.server's naming
    do_DELETE = _serve  # noqa: N815 - http.server's naming
    do_PATCH = _serve  # noqa: N815 - http.server's naming
    do_HEAD = _serve  # noqa: N815 - http.server's naming

    def _reply(
        self,
        answer: Answer,
        fault: Fault | None,
        close: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        fault = fault or Fault()
        if fault.delay_s:
            self.server.relay.delay(fault.delay_s)
        body = answer.body if fault.keep_bytes is None else answer.body[: fault.keep_bytes]
        data = self._head(answer, len(body), close or fault.cut_bytes is not None)
        drips_from = 0 if fault.drip_head else len(data)
        data += b"" if self.command == "HEAD" else body[: fault.cut_bytes]
        if fault.drop and fault.cut_bytes is None:
            data = b""
        if fault.drip_s:
            self.wfile.write(data[:drips_from])
            for byte in data[drips_from:-1]:
                self.wfile.write(bytes((byte,)))
                self.server.relay.delay(fault.drip_s)
                if self.server.relay.closing.is_set():
                    self.close_connection = True
                    return
            data = data[max(drips_from, len(data) - 1) :]
        # Before the last byte: who has it may ask again, and has one request under way then.
        ended()
        self.wfile.write(data)
        if fault.drop:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        if fault.drop or fault.close_after:
            self.close_connection = True

    def _head(self, answer: Answer, length: int, close: bool) -> bytes:
        lines = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('',))[0]}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if answer.status != 204:
            lines.append(f"Content-Length: {length}")
        if close:
            self.close_connection = True
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
