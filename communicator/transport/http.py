"""The relay over HTTP/1.1: the one file that knows urllib3.

Knows: paths, headers, cookies, timeouts, proxies, which replies are a success.
Does not know: states, files, when it is called. Import it inside an action, never at the top
of a module: the root must not load an HTTP client.
Invariants: no redirect is followed and nothing is retried; a body is bounded in bytes and in
time; after a network error the relay's connections are dropped, so the next call resolves and
connects anew; only this file reveals a secret, and no error text contains one.
"""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import urllib3
import urllib3.exceptions

from fsmv2.communicator.transport import codec, errors, token
from fsmv2.communicator.transport.codec import CodecError, Message
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.communicator.transport.protocol import CONNECT_S, Login
from fsmv2.supervisor import Secret

BODY_BYTES_MAX = 64 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
# Pooled connections are dropped at this age, so that a relay that moved in DNS is found.
POOL_AGE_S_MAX = 300.0
RELAYS_MAX = 8
NAME_BYTES_MAX = 128

_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]


# A hash, a JWT, a key: no word of an error message is as long as this.
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9_\-+/=.]{32,}")


class Relay(msgspec.Struct, frozen=True):
    """Where a relay is and how to speak to it: the key of this proc's connections.

    ``timeout_s`` seconds is the longest silence of the relay, and bounds a whole body too.
    """

    url: str
    timeout_s: float = 10.0
    allow_insecure_tls: bool = False


class Reply(NamedTuple):
    """One HTTP response, read to its end."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    @property
    def is_html(self) -> bool:
        return errors.is_html(self.body, self.headers.get("content-type", ""))


# One entry per relay, alive as long as this proc: killing the proc is what resets it.
_transports: dict[Relay, HttpTransport] = {}


def transport_for(relay: Relay) -> HttpTransport:
    """This proc's transport for ``relay``, made on first use."""
    found = _transports.pop(relay, None)
    if found is None:
        found = HttpTransport(relay)
    _transports[relay] = found  # last used goes last
    while len(_transports) > RELAYS_MAX:
        _transports.pop(next(iter(_transports))).close()
    return found


def close_all() -> None:
    """Close every connection of this proc and forget the relays."""
    while _transports:
        _transports.popitem()[1].close()


class HttpTransport:
    """Implements `Transport` with urllib3."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._base = relay.url.rstrip("/")
        self._manager: urllib3.PoolManager | None = None
        self._made_at = 0.0

    def __repr__(self) -> str:
        return f"<HttpTransport {self._base}>"

    def authenticate(self, auth_token: Secret) -> Login:
        """Log in with the instance's auth token; raises `TransportError`."""
        bearer = token.double_hash(auth_token.reveal())
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        reply = self._request("POST", "/v2/instance/login", headers, b"")
        if reply.status != 200:
            # A login's error is shown with its text: no message can be in it, and what might
            # be a credential is taken out of it.
            text = reply.body[: errors.SCANNED_BYTES_MAX].decode("utf-8", "replace")
            text = text.replace(auth_token.reveal(), repr(auth_token))
            raise TransportError(_problem(reply, _TOKEN_LIKE.sub(repr(auth_token), text)))
        _refuse_html(reply)
        jwt = _cookie(reply.headers, "token")
        if not token.is_cookie_safe(jwt):
            found = "no cookie 'token'" if not jwt else "a cookie 'token' that cannot be sent back"
            raise TransportError(
                Problem(Kind.INVALID_TOKEN, f"HTTP 200 ({Kind.INVALID_TOKEN}): {found}", 200)
            )
        try:
            fields = codec.read_object(reply.body, "login reply")
            uuid, name = codec.read_text(fields, "uuid"), codec.read_text(fields, "name")
        except CodecError as error:
            raise TransportError(_unknown(reply, str(error))) from None
        return Login(Secret(jwt), errors.clip(uuid, 64), errors.clip(name, NAME_BYTES_MAX))

    def push(self, token: Secret, messages: Sequence[Message], instance_uuid: str) -> None:
        """Deliver ``messages`` in one request; raises `TransportError`."""
        headers = {
            "Cookie": f"token={token.reveal()}",
            "Content-Type": "application/json",
        }
        body = codec.encode_batch(messages, instance_uuid)
        reply = self._request("POST", "/v2/instance/push", headers, body)
        if not 200 <= reply.status < 300:
            raise TransportError(_problem(reply))
        # A captive portal answers 200 with a page: taken for a success, the batch would be lost.
        _refuse_html(reply)

    def pull(self, token: Secret) -> bytes:
        """Take what waits at the relay, as unread bytes; raises `TransportError`."""
        headers = {"Cookie": f"token={token.reveal()}"}
        reply = self._request("GET", "/v2/instance/pull", headers, None)
        if reply.status == 204:
            return b""
        if reply.status != 200:
            raise TransportError(_problem(reply))
        _refuse_html(reply)
        return reply.body

    def close(self) -> None:
        """Close all connections; the next call connects anew."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.clear()

    def _request(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> Reply:
        timeout_s = self._relay.timeout_s
        ends_at = time.monotonic() + CONNECT_S + timeout_s
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response = self._pool().request(
                method,
                self._base + path,
                body=body,
                headers={**headers, "User-Agent": "fsmv2-communicator"},
                retries=False,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s),
            )
            reply = Reply(response.status, response.headers, _read(response, ends_at))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._drop(response)
            text = f"cannot reach the relay: {_network_text(error, timeout_s)}"
            raise TransportError(Problem(Kind.NETWORK, text)) from None
        except BaseException:
            self._drop(response)
            raise
        response.release_conn()
        return reply

    def _drop(self, response: urllib3.BaseHTTPResponse | None) -> None:
        if response is not None:
            response.close()
        self.close()

    def _pool(self) -> urllib3.PoolManager:
        now = time.monotonic()
        if self._manager is not None and now - self._made_at > POOL_AGE_S_MAX:
            self.close()
        if self._manager is None:
            self._manager = _new_manager(self._relay)
            self._made_at = now
        return self._manager


def _new_manager(relay: Relay) -> urllib3.PoolManager:
    options: dict[str, Any] = {
        "num_pools": 2,
        "maxsize": 1,
        "socket_options": _KEEPALIVE,
    }
    if relay.allow_insecure_tls:
        # The operator's choice, logged at every login; urllib3 would warn on each request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
    proxy = _proxy_for(relay.url)
    if proxy is None:
        return urllib3.PoolManager(**options)
    parts = urllib.parse.urlsplit(proxy)
    headers = None
    if parts.username is not None:
        login = (
            f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        )
        headers = urllib3.make_headers(proxy_basic_auth=login)
    bare = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
    return urllib3.ProxyManager(bare, proxy_headers=headers, **options)


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for ``url``; loopback is always direct."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return None
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass(host):
        return None
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if found is None or "://" in found else f"http://{found}"


def _read(response: urllib3.BaseHTTPResponse, ends_at: float) -> bytes:
    """The body, to its end. Raises `TransportError` at the size limit and at ``ends_at``."""
    parts: list[bytes] = []
    size = 0
    # read1, not read: the socket's timeout starts anew with every byte, so that a relay that
    # drips one byte a second would hold read() for as long as it liked.
    while chunk := response.read1(CHUNK_BYTES):
        parts.append(chunk)
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            text = f"cannot read the reply: got more than {BODY_BYTES_MAX} bytes"
            raise TransportError(Problem(Kind.UNKNOWN, text, response.status))
        if time.monotonic() > ends_at:
            text = f"cannot read the reply: it had not ended in time, after {size} bytes"
            raise TransportError(Problem(Kind.NETWORK, text))
    return b"".join(parts)


def _problem(reply: Reply, excerpt: str = "") -> Problem:
    kind = errors.classify(reply.status, reply.body, reply.headers.get("server", ""))
    if reply.is_html:
        # Of a page only the title: it names the middlebox, and the rest may be anything.
        excerpt = f"a page titled {errors.page_title(reply.body)!r}"
    shown = excerpt or f"{len(reply.body)} bytes of body"
    return Problem(
        kind=kind,
        text=errors.clip(f"HTTP {reply.status} ({kind}): {shown}"),
        status=reply.status,
        retry_after_s=errors.parse_retry_after(reply.headers.get("retry-after"), time.time()),
    )


def _unknown(reply: Reply, why: str) -> Problem:
    text = errors.clip(f"HTTP {reply.status} ({Kind.UNKNOWN}): {why}")
    return Problem(Kind.UNKNOWN, text, reply.status)


def _refuse_html(reply: Reply) -> None:
    if reply.is_html:
        title = errors.page_title(reply.body)
        raise TransportError(
            _unknown(reply, f"got a page titled {title!r}, want the relay's own answer")
        )


def _cookie(headers: urllib3.HTTPHeaderDict, name: str) -> str:
    """The value of the first Set-Cookie of that name, or an empty text."""
    for line in headers.getlist("set-cookie"):
        key, _, value = line.partition(";")[0].partition("=")
        if key.strip() == name:
            return value.strip().strip('"')
    return ""


def _network_text(error: Exception, timeout_s: float) -> str:
    """What went wrong, from types and errno only: a client's own text may hold a proxy's
    password."""
    # A refused connection is a NewConnectionError, which urllib3 derives from the timeout's.
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError) and not refused:
        return f"no connection within {CONNECT_S:.0f} s"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return f"no answer within {timeout_s:g} s"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and isinstance(seen.errno, int) and seen.errno > 0:
            return f"{type(error).__name__}, {os.strerror(seen.errno)}"
        inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = seen.__cause__ or seen.__context__ or inner
    return type(error).__name__
