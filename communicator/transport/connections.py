"""Connections to a relay: urllib3's, held to one deadline over the whole of a request.

Knows: proxies from the environment, TLS options, keep-alive, where a socket's timeout is set.
Does not know: paths, headers, what a reply means. Like `http`, for procs only.
Invariants: inside `held_to` no send, no header and no body takes longer than what is left of the
time, however slowly the other end drips, and the client writes no log; loopback is never reached
through a proxy.

A socket's timeout starts anew with every byte. So before each read and each send it is set to
what is left: the one place where both go through is the connection's, and that of its response.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import urllib3
import urllib3.connection

# One for a push, one for a pull.
CONNECTIONS_MAX = 2

_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]
_held = threading.local()


@contextlib.contextmanager
def held_to(ends_at: float) -> Iterator[None]:
    """What this thread sends and receives inside the block ends at ``ends_at`` (monotonic), or when
    a block around it does, if that is earlier."""
    before = getattr(_held, "ends_at", None)
    _held.ends_at = ends_at if before is None else min(before, ends_at)
    try:
        yield
    finally:
        if before is None:
            del _held.ends_at
        else:
            _held.ends_at = before


def _is_not_ours(_record: logging.LogRecord) -> bool:
    return not hasattr(_held, "ends_at")


# It would quote headers that it cannot read, and say nothing that no `Problem` says. A logger's
# filter is not asked for those below it; and what others do with urllib3 in this process is theirs.
for _name in [name for name in logging.root.manager.loggerDict if name.startswith("urllib3.")]:
    logging.getLogger(_name).addFilter(_is_not_ours)


def left_s() -> float:
    """Seconds left of this thread's deadline; raises `TimeoutError` when there are none."""
    left = float(_held.ends_at) - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for the whole request is over")
    return left


class _HeldReader(io.RawIOBase):
    """A socket's reading end that looks at the deadline before each read."""

    def __init__(self, inner: io.RawIOBase, sock: Any) -> None:
        self._inner = inner
        self._sock = sock
        self._silence_s: float | None = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = left_s()
        self._sock.settimeout(left if self._silence_s is None else min(left, self._silence_s))
        count: int | None = self._inner.readinto(buffer)
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


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

    def send(self: Any, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        if self.sock is not None:
            # It stands at the time for connecting, which a large body may well exceed.
            self.sock.settimeout(left_s())
        super().send(data)  # type: ignore[misc]


class _HeldHttp(_Held, urllib3.connection.HTTPConnection):
    response_class = _HeldResponse


class _HeldHttps(_Held, urllib3.connection.HTTPSConnection):
    response_class = _HeldResponse


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HeldHttp


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HeldHttps


def new_manager(url: str, allow_insecure_tls: bool) -> urllib3.PoolManager:
    """Connections for ``url``, through the proxy that the environment names, if it does."""
    options: dict[str, Any] = {
        "num_pools": 2,
        "maxsize": CONNECTIONS_MAX,
        "socket_options": _KEEPALIVE,
    }
    if allow_insecure_tls:
        # The operator's choice, logged at every login; urllib3 would warn on each request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
    proxy = proxy_for(url)
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
        manager = urllib3.ProxyManager(bare, proxy_headers=headers, **options)
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for ``url``; loopback is always direct."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return None
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if found is None or "://" in found else f"http://{found}"


def certificate_fault(error: BaseException) -> str:
    """What is wrong with the other end's certificate, or an empty text."""
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
