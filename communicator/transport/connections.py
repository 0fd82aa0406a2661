"""Connections to a relay: urllib3's, held to one deadline over the whole of a request.

Knows: TLS options, keep-alive, where a socket's timeout is set, how long a connection may be idle.
Does not know: paths, headers, what a reply means; how a host with several addresses is reached
(`dialing`), and through which proxy (`proxies`). Like `http`, for procs only.
Invariants: inside `held_to` no connecting, no send, no header and no body takes longer than what is
left of the time, however slowly the other end drips, and the client writes no log; nothing is sent
on a connection that was idle for longer than `IDLE_S_MAX`.

A socket's timeout starts anew with every byte. So before each read and each send it is set to
what is left: the one place where both go through is the connection's, and that of its response.
Beneath them TLS reads and sends of its own, in its handshake and, within a proxy's TLS, for as many
pieces as it likes; there its socket is held as well.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import math
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import urllib3
import urllib3.connection
import urllib3.exceptions
import urllib3.util.ssl_

from fsmv2.communicator.transport import dialing
from fsmv2.communicator.transport.proxies import proxy_for

# One for a push, one for a pull.
CONNECTIONS_MAX = 2
# A connection that was idle for longer is not used: firewalls forget one without a word after 30 s.
IDLE_S_MAX = 25.0
# So often the kernel asks the other end of a silent connection whether it is there still; it
# would begin after two hours.
KEEPALIVE_S = 30

_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), KEEPALIVE_S)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
        if hasattr(socket, name)
    ),
]
_held = threading.local()


class Hold:
    """One request's time, up to ``ends_at`` (monotonic), and what became of it.

    ``was_cut``: the other end has gone before it had the whole of the request; an answer may have
    come all the same, and urllib3 reads it, as a refusal often does not wait for the end.
    ``is_over``: this time is what ended it, and not a silence within. ``is_unconnected``: if it
    was not, then the time for connecting, of which TLS is a part.
    """

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self._began_at = time.monotonic()
        self.was_cut = False
        self.is_over = False
        self.is_unconnected = False

    @property
    def whole_s(self) -> float:
        """How long it is, to a tenth of a second."""
        return round(self.ends_at - self._began_at, 1)

    def left_s(self) -> float:
        """Seconds left; raises `TimeoutError` when there are none."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            self.is_over = True
            raise TimeoutError("the time for the whole request is over")
        return left


@contextlib.contextmanager
def held_to(hold: Hold) -> Iterator[None]:
    """What this thread sends and receives inside the block is held to ``hold``, and to the end of
    that of a block around it."""
    around: Hold | None = getattr(_held, "by", None)
    if around is not None:
        hold.ends_at = min(hold.ends_at, around.ends_at)
    _held.by = hold
    try:
        yield
    finally:
        if around is None:
            del _held.by
        else:
            _held.by = around


def _is_not_ours(_record: logging.LogRecord) -> bool:
    return not hasattr(_held, "by")


# It would quote headers that it cannot read, and say nothing that no `Problem` says. A logger's
# filter is not asked for those below it; and what others do with urllib3 in this process is theirs.
for _name in [name for name in logging.root.manager.loggerDict if name.startswith("urllib3.")]:
    logging.getLogger(_name).addFilter(_is_not_ours)


class _HeldReader(io.RawIOBase):
    """A socket's reading end that looks at the deadline before each read."""

    def __init__(self, inner: io.RawIOBase, sock: Any) -> None:
        self._inner = inner
        self._sock = sock
        self._silence_s: float | None = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        hold: Hold = _held.by
        left = hold.left_s()
        silence = math.inf if self._silence_s is None else self._silence_s
        self._sock.settimeout(min(left, silence))
        try:
            count: int | None = self._inner.readinto(buffer)
        except TimeoutError:
            hold.is_over = hold.is_over or left <= silence
            raise
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


class _HeldTls(ssl.SSLSocket):
    """Looks at the deadline before all that it does on the wire, whoever asks for it. The timeout
    that it is given is how long one of these may take."""

    def do_handshake(self, block: bool = False) -> None:
        with self._in_time():
            super().do_handshake(block)

    def read(self, *arguments: Any, **options: Any) -> Any:
        with self._in_time():
            return super().read(*arguments, **options)

    def send(self, data: Any, flags: int = 0) -> int:
        with self._in_time():
            return super().send(data, flags)

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        hold: Hold = _held.by
        left = hold.left_s()
        given = self.gettimeout()
        is_last = given is None or left <= given
        if is_last:
            self.settimeout(left)
        try:
            yield
        except TimeoutError:
            hold.is_over = hold.is_over or is_last
            raise


class _HeldResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp: Any = io.BufferedReader(_HeldReader(self.fp.detach(), sock))

    def _read_status(self) -> tuple[str, int, str]:
        """That of the final answer. The standard library skips 100 only and takes 103, say, for
        the answer; the real one would be read as that of the next request (RFC 9110, 15.2)."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 < found[1] < 200 or found[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return found
            http.client.parse_headers(self.fp)


class _Held:
    """What both kinds of connection do to their sockets."""

    _used_at = 0.0

    @property
    def is_connected(self: Any) -> bool:
        """What urllib3 asks of a connection that it has kept; where not, it connects anew. Of two,
        one may be idle for long while the other has all the work."""
        is_fresh = time.monotonic() - self._used_at <= IDLE_S_MAX
        return bool(is_fresh and super().is_connected)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        response = super().getresponse()  # type: ignore[misc]
        self._used_at = time.monotonic()
        return response

    def connect(self: Any) -> None:
        try:
            super().connect()  # type: ignore[misc]
        except (TimeoutError, urllib3.exceptions.ConnectTimeoutError) as error:
            # What is refused is a NewConnectionError, which urllib3 derives from the timeout's.
            refused = isinstance(error, urllib3.exceptions.NewConnectionError)
            _held.by.is_unconnected = not refused
            raise

    def _tunnel(self: Any) -> None:
        super()._tunnel()  # type: ignore[misc]
        self.sock.settimeout(self.timeout)  # for TLS through it

    def _new_conn(self: Any) -> socket.socket:
        """As urllib3's, but that each address of a host would have all of the time there."""
        try:
            addresses = dialing.resolve(self._dns_host, self.port)
        except socket.gaierror as error:
            raise urllib3.exceptions.NameResolutionError(self.host, self, error) from error
        except UnicodeError:
            raise urllib3.exceptions.LocationParseError("a host that is no name") from None
        # Counted from here: a resolver may need longer, and can still be right.
        hold: Hold = _held.by
        left_s = hold.left_s()
        within_s = min(self.timeout, left_s)
        try:
            sock = dialing.connect(addresses, within_s, self.socket_options)
        except TimeoutError as error:
            hold.is_over = left_s < self.timeout
            raise urllib3.exceptions.ConnectTimeoutError(self, "no answer") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(self, "no connection") from error
        sock.settimeout(self.timeout)  # for TLS, before the first send
        return sock

    def send(self: Any, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        hold: Hold = _held.by
        if self.sock is not None:
            # It stands at the time for connecting, which a large body may well exceed.
            self.sock.settimeout(hold.left_s())
        try:
            super().send(data)  # type: ignore[misc]
        except OSError as error:
            hold.was_cut = True
            hold.is_over = isinstance(error, TimeoutError)
            raise


class _HeldHttp(_Held, urllib3.connection.HTTPConnection):
    response_class = _HeldResponse


class _HeldHttps(_Held, urllib3.connection.HTTPSConnection):
    response_class = _HeldResponse


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HeldHttp


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HeldHttps


def _tls(allow_insecure_tls: bool) -> ssl.SSLContext:
    """As urllib3 would make it, with the system's trust store, but for its sockets."""
    checks = ssl.CERT_NONE if allow_insecure_tls else ssl.CERT_REQUIRED
    context = urllib3.util.ssl_.create_urllib3_context(cert_reqs=checks)
    context.load_default_certs()
    context.sslsocket_class = _HeldTls
    return context


def new_manager(url: str, allow_insecure_tls: bool) -> urllib3.PoolManager:
    """Connections for ``url``, through the proxy that the environment names, if it does."""
    options: dict[str, Any] = {
        "num_pools": 2,
        "maxsize": CONNECTIONS_MAX,
        "socket_options": _OPTIONS,
    }
    proxy = proxy_for(url)
    tls = None
    if any((one or "").lower().startswith("https:") for one in (url, proxy)):
        tls = options["ssl_context"] = _tls(allow_insecure_tls)
    if allow_insecure_tls:
        # The operator's choice, logged at every login; urllib3 would warn on each request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        parts = urllib.parse.urlsplit(proxy)
        headers = None
        if parts.username is not None:
            name, password = (
                urllib.parse.unquote(x or "") for x in (parts.username, parts.password)
            )
            headers = urllib3.make_headers(proxy_basic_auth=f"{name}:{password}")
        bare = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
        manager = urllib3.ProxyManager(
            bare, proxy_headers=headers, proxy_ssl_context=tls, **options
        )
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager


def tls_fault(error: BaseException) -> str:
    """What is wrong with the other end's TLS or its certificate, or an empty text. The errno of
    such an error is OpenSSL's: as a number of the kernel's it would tell of something else."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if not isinstance(error, ssl.SSLError):
        return ""
    why = (error.reason or type(error).__name__).replace("_", " ").lower()
    hint = ", as where no TLS is spoken" if error.reason == "WRONG_VERSION_NUMBER" else ""
    return f"TLS failed: {why}{hint}"
