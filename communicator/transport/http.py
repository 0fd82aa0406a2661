"""The relay over HTTP/1.1.

Knows: paths, headers, cookies, timeouts, which replies are a success.
Does not know: states, files, when it is called. Import it inside an action, never at the top
of a module: the root must not load an HTTP client.
Invariants: no redirect is followed and nothing that was sent is retried; only what was sent whole
can be a success; a request is bounded in bytes and, as a whole, in time; after a network error the
relay's connections are dropped, so the next call resolves and connects anew, while a call under way
in another thread ends on its own connection; only this file reveals a secret. No word of the other
end's leaves it but in a session, an identity or a pulled reply: not in an error, a log record or a
`repr`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import urllib3
import urllib3.exceptions

from fsmv2.communicator.transport import codec, errors, pages, token
from fsmv2.communicator.transport.codec import CodecError, Message
from fsmv2.communicator.transport.connections import (
    Hold,
    held_to,
    new_manager,
    tls_fault,
)
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.communicator.transport.protocol import CONNECT_S, Login
from fsmv2.supervisor import Secret

BODY_BYTES_MAX = 64 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
# Pooled connections are dropped at this age, so that a relay that moved in DNS is found.
POOL_AGE_S_MAX = 300.0
# Communicators whose connections this proc keeps.
RELAYS_MAX = 32
NAME_BYTES_MAX = 128
# How often a request chooses its connections anew where others close them meanwhile.
BEGINS_MAX = 10


class Relay(msgspec.Struct, frozen=True):
    """Where a relay is and how to speak to it.

    ``timeout_s`` seconds is the longest silence of the relay; with the time for connecting it
    bounds a whole request too. ``generation`` counts the resets: where it is another, connections
    of before are not used again; None takes those there are. ``path`` is of the worker that asks:
    its connections are its own.
    """

    url: str
    timeout_s: float = 10.0
    allow_insecure_tls: bool = False
    generation: int | None = 0
    path: str = ""


class Reply(NamedTuple):
    """One HTTP response, read to its end."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"

    @property
    def is_html(self) -> bool:
        return pages.is_html(self.body, self._telling_type)

    @property
    def shape(self) -> str:
        """What came, in our words."""
        return pages.shape(self.body, self._telling_type, self.headers.get("server", ""))

    @property
    def _telling_type(self) -> str:
        """Its type, where that makes it a page. A success is one by its body alone: what a relay
        has taken or given is gone there, whatever it calls its word for it. Only where that came
        packed in a way we cannot undo there is nothing but the type."""
        packed = self.headers.get("content-encoding", "identity").strip().lower()
        is_read = packed in ("", "identity", *urllib3.HTTPResponse.CONTENT_DECODERS)
        if 200 <= self.status < 300 and is_read:
            return ""
        return self.headers.get("content-type", "")


# One entry per worker and relay, alive as long as this proc.
_transports: dict[tuple[str, str], HttpTransport] = {}
# A push and a pull of one attempt, each in its thread, look for theirs at the same moment.
_transports_guard = threading.Lock()


def transport_for(relay: Relay) -> HttpTransport:
    """This proc's transport for ``relay``, made on first use and anew when anything about it has
    changed: a worker has one for a URL, so it sees a reset once. From any thread."""
    key = (relay.path, relay.url)
    gone: list[HttpTransport] = []
    with _transports_guard:
        found = _transports.pop(key, None)
        if relay.generation is None:
            known = 0 if found is None else found.relay.generation
            relay = msgspec.structs.replace(relay, generation=known)
        if found is not None and found.relay != relay:
            gone.append(found)
            found = None
        _transports[key] = found = found or HttpTransport(relay)  # last used goes last
        while len(_transports) > RELAYS_MAX:
            gone.append(_transports.pop(next(iter(_transports))))
    for transport in gone:
        transport.close()
    return found


def close_of(path: str) -> int:
    """Close every idle connection that this proc has for the worker at ``path``, and return of how
    many relays. Requests under way end on the connections they have."""
    with _transports_guard:
        keys = [key for key in _transports if key[0] == path]
        gone = [_transports.pop(key) for key in keys]
    for transport in gone:
        transport.close()
    return len(gone)


def close_all() -> int:
    """The same for every worker."""
    with _transports_guard:
        gone = list(_transports.values())
        _transports.clear()
    for transport in gone:
        transport.close()
    return len(gone)


class HttpTransport:
    """Implements `Transport` with urllib3. A push and a pull may run at a time."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self._base = relay.url.rstrip("/")
        self._guard = threading.Lock()
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
            raise TransportError(_problem(reply))
        _refuse_html(reply)
        jwt = _cookie(reply.headers, "token")
        if not token.is_cookie_safe(jwt):
            found = "no cookie 'token'" if not jwt else "a cookie 'token' that cannot be sent back"
            raise TransportError(
                Problem(Kind.INVALID_TOKEN, f"HTTP 200 ({Kind.INVALID_TOKEN}): {found}", 200)
            )
        try:
            uuid, name = codec.read_texts(reply.body, "login reply", ("uuid", "name"))
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
        # By its bytes and nothing else: what is thrown away here exists nowhere any more.
        if pages.is_html(reply.body):
            _refuse_html(reply)
        return reply.body

    def close(self) -> None:
        """Close all connections; the next call connects anew."""
        with self._guard:
            manager, self._manager = self._manager, None
        if manager is not None:
            # Clearing alone leaves them open for as long as anything refers to their pool.
            for key in manager.pools.keys():  # noqa: SIM118  (it has no iterator)
                manager.pools[key].close()
            manager.clear()

    def _request(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> Reply:
        timeout_s = self.relay.timeout_s
        response: urllib3.BaseHTTPResponse | None = None
        hold = Hold(time.monotonic() + CONNECT_S + timeout_s)
        begins = 0
        try:
            with held_to(hold):
                while response is None:
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
                    except urllib3.exceptions.ClosedPoolError:
                        # Another thread has closed the connections between their choice and
                        # their use: nothing was sent.
                        begins += 1
                        if begins == BEGINS_MAX:
                            raise
                reply = Reply(response.status, response.headers, _read(response))
                if response.status < 200:  # what follows is not this protocol's
                    text = f"cannot use the reply: got HTTP {response.status}, want a final status"
                    raise TransportError(Problem(Kind.UNKNOWN, text, response.status))
                if response.status < 300 and hold.was_cut:  # what it has not read it has not taken
                    text = f"got HTTP {response.status} before it had the whole of the request"
                    text = f"cannot reach the relay: {text}"
                    raise TransportError(Problem(Kind.NETWORK, text))
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._drop(response)
            text = f"cannot reach the relay: {_network_text(error, timeout_s, hold)}"
            raise TransportError(Problem(Kind.NETWORK, text)) from None
        except BaseException:
            self._drop(response)
            raise
        return reply

    def _drop(self, response: urllib3.BaseHTTPResponse | None) -> None:
        if response is not None:
            response.close()
        self.close()

    def _pool(self) -> urllib3.PoolManager:
        now = time.monotonic()
        if now - self._made_at > POOL_AGE_S_MAX:
            self.close()
        with self._guard:
            if self._manager is None:
                self._manager = self._connect()
                self._made_at = now
            return self._manager

    def _connect(self) -> urllib3.PoolManager:
        try:
            return new_manager(self.relay.url, self.relay.allow_insecure_tls)
        except ValueError:  # what it says of a proxy's URL may quote a password
            text = "cannot use the proxy of the environment, want http://[user:password@]host:port"
            raise TransportError(Problem(Kind.UNKNOWN, text)) from None


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """The body, to its end; raises `TransportError` at the size limit."""
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(CHUNK_BYTES):
        parts.append(chunk)
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            text = f"cannot read the reply: got more than {BODY_BYTES_MAX} bytes"
            raise TransportError(Problem(Kind.UNKNOWN, text, response.status))
    return b"".join(parts)


def _problem(reply: Reply) -> Problem:
    kind = errors.classify(reply.status, reply.body, reply.headers.get("server", ""))
    return Problem(
        kind=kind,
        text=f"HTTP {reply.status} ({kind}): got {reply.shape}",
        status=reply.status,
        retry_after_s=errors.parse_retry_after(reply.headers.get("retry-after"), time.time()),
        is_page=reply.is_html,
    )


def _unknown(reply: Reply, why: str) -> Problem:
    text = errors.clip(f"HTTP {reply.status} ({Kind.UNKNOWN}): {why}")
    return Problem(Kind.UNKNOWN, text, reply.status)


def _refuse_html(reply: Reply) -> None:
    if reply.is_html:
        raise TransportError(_unknown(reply, f"got {reply.shape}, want the relay's own answer"))


def _cookie(headers: urllib3.HTTPHeaderDict, name: str) -> str:
    """The value of the first Set-Cookie of that name, or an empty text."""
    for line in headers.getlist("set-cookie"):
        key, _, value = line.partition(";")[0].partition("=")
        if key.strip() == name:
            return value.strip().strip('"')
    return ""


def _network_text(error: Exception, timeout_s: float, hold: Hold) -> str:
    """What went wrong, from types and errno only: a client's own text may hold a proxy's
    password."""
    if hold.is_over:
        return f"the whole of it took longer than {hold.whole_s:g} s"
    if hold.is_unconnected:
        return f"no connection within {CONNECT_S:.0f} s"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return f"no answer, or none that went on, within {timeout_s:g} s"
    seen: BaseException | None = error
    while seen is not None:
        fault = tls_fault(seen)
        if fault:
            return errors.clip(fault, 160)
        if isinstance(seen, OSError) and isinstance(seen.errno, int) and seen.errno > 0:
            return f"{type(error).__name__}, {os.strerror(seen.errno)}"
        inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = seen.__cause__ or seen.__context__ or inner
    return type(error).__name__
