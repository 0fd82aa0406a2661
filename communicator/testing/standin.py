"""The relay's stand-in: a real HTTP/1.1 server on loopback, for tests and for the demo.

What it answers is decided in `backend`, what goes wrong in `faults`; what it has seen is in
`observed`, who sits at the other end in `console`.

Knows: routing, which fault is due, when it listens.
Does not know: connections and framing (`server`), states, workers, any real host.
Invariants: binds to loopback unless told otherwise; one lock guards all state; `close` ends
every connection and every thread, also one that is in the middle of a fault. A chatter and an
outage are functions of the clock, so that no thread and no sleep is needed for them; delays, drips
and long polls are waited out on it where it is a `VirtualClock`, else in real time.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from fsmv2.communicator.testing.backend import (
    DEMO_NAME,
    DEMO_TOKEN,
    DEMO_UUID,
    Answer,
    Backend,
    Instance,
    Pushed,
)
from fsmv2.communicator.testing.clock import VirtualClock, wait_really
from fsmv2.communicator.testing.faults import LOGIN, PULL, PUSH, Fault, FaultBook, nginx_502
from fsmv2.communicator.testing.observed import Observed, Request
from fsmv2.communicator.testing.server import STATS_PATH, Server

CHATTER_BACKLOG_MAX = 100
_ROUTES = {
    "/v2/instance/login": (LOGIN, "POST"),
    "/v2/instance/pull": (PULL, "GET"),
    "/v2/instance/push": (PUSH, "POST"),
}


class Relay:
    """A relay with one registered instance. Every method may be called from any thread.

    ``token_life_s``: seconds a JWT lives. ``chatter_s``: a message for the instance every so
    many seconds. ``outage_every_s`` and ``outage_for_s``: of every so many seconds the last
    ones are answered with 502. ``clock``: epoch seconds, for expiries and all of the above; a
    `VirtualClock` also for what is waited for. `wait_for` is a test's own wait, in real time.
    ``tls``: serve https with this context.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        prefix: str = "/api",
        token: str = DEMO_TOKEN,
        token_life_s: float = 23 * 3600.0,
        chatter_s: float | None = None,
        outage_every_s: float | None = None,
        outage_for_s: float = 5.0,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.changed = threading.Condition()
        self.closing = threading.Event()
        self.prefix = prefix
        self.backend = Backend(clock, token_life_s)
        self.instance = self.backend.add_instance(token, DEMO_UUID, DEMO_NAME)
        self._faults = FaultBook()
        self._heals = 0
        self.observed = Observed()
        self._clock = clock
        self._wait = clock.wait if isinstance(clock, VirtualClock) else wait_really
        self._started_at = clock()
        self._chatter_s = chatter_s
        self._chattered = 0
        self._outage_every_s = outage_every_s
        self._outage_for_s = outage_for_s
        self._tls = tls
        self._connections = itertools.count(1)
        self._server = Server((host, port), self, self._connections, tls)
        self._address = (self._server.server_name, self._server.server_port)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Relay {self.url}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The base URL that a communicator is configured with."""
        return f"{self._origin}{self.prefix}"

    @property
    def stats_url(self) -> str:
        """Where `stats` is served as JSON."""
        return f"{self._origin}{STATS_PATH}"

    @property
    def _origin(self) -> str:
        host, port = self._address
        return f"{'https' if self._tls is not None else 'http'}://{host}:{port}"

    def now(self) -> float:
        """Epoch seconds, by the relay's clock."""
        return self._clock()

    def start(self) -> None:
        """Serve from a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """End every connection, every thread and the listening socket. May be called twice."""
        self.closing.set()
        with self.changed:
            self.changed.notify_all()
        self.refuse()

    def refuse(self) -> None:
        """Take no connection any more and end those there are, until `accept`."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.end_connections()
        self._server.server_close()

    def accept(self) -> None:
        """Listen again where it listened before `refuse`."""
        self._server = Server(self._address, self, self._connections, self._tls)
        self.start()

    def send(
        self, email: str, message_type: str, payload: Any, instance: Instance | None = None
    ) -> None:
        """Queue a message from a console user for the instance."""
        with self.changed:
            self.backend.queue(instance or self.instance, email, message_type, payload)
            self.changed.notify_all()

    def pushed(self) -> list[Pushed]:
        """Everything that was pushed, in order of arrival."""
        with self.changed:
            return list(self.backend.ledger)

    def requests(self, endpoint: str | None = None) -> list[Request]:
        """The last requests, oldest first, of one endpoint or of all."""
        with self.changed:
            return self.observed.requests(endpoint)

    def fault(self, endpoint: str, fault: Fault, times: int | None = 1) -> None:
        """Answer the next ``times`` requests of ``endpoint`` with ``fault``; None is until
        `heal`. Raises `ValueError` for an unknown endpoint."""
        with self.changed:
            self._faults.set(endpoint, fault, times)

    def chance(self, seed: int, rate: float, faults: Sequence[Fault]) -> None:
        """Let each request meet one of ``faults`` with probability ``rate``, until `heal`."""
        with self.changed:
            self._faults.set_chance(seed, rate, faults)

    def heal(self, endpoint: str | None = None) -> None:
        """Forget the faults of ``endpoint``, or all, and end the delays that are under way."""
        with self.changed:
            self._faults.clear(endpoint)
            self._heals += 1
            self.changed.notify_all()

    def delay(self, seconds: float) -> None:
        """Wait out a fault's delay, unless it is healed before. For the server."""
        with self.changed:
            heals = self._heals
            self._wait(self.changed, lambda: self.closing.is_set() or self._heals != heals, seconds)

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far."""
        with self.changed:
            self.backend.revoke_tokens()

    def delete_instance(self, deleted: bool = True) -> None:
        """Answer the instance with 404 from now on, or no longer."""
        with self.changed:
            self.instance.deleted = deleted

    def wait_for(self, predicate: Callable[[Relay], bool], timeout_s: float = 20.0) -> bool:
        """Wait until ``predicate`` holds, looked at after every request; False at the timeout.

        The predicate may call this object's methods.
        """
        with self.changed:
            return self.changed.wait_for(lambda: predicate(self), timeout_s)

    def stats(self) -> dict[str, Any]:
        """Counts since the start, as the control endpoint serves them."""
        with self.changed:
            self._chatter()
            return {
                **self.backend.counts,
                "requests": self.observed.in_all,
                "messages_pushed": len(self.backend.ledger),
                "messages_waiting": len(self.instance.queue),
                "outage": self._is_out(),
            }

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes, connection: int
    ) -> tuple[Answer, Fault | None]:
        """Decide and record the answer to one request. For the server."""
        with self.changed:
            self._chatter()
            endpoint, allowed = self._route(path)
            fault: Fault | None = None
            if not endpoint and path != (self.prefix or "/"):
                answer = Answer(404, b'{"error":"no such path"}')
            elif not endpoint:
                answer = Answer(200, b"{}")
            elif method != allowed:
                answer = Answer(405, b"", (("Allow", allowed),))
            else:
                fault = nginx_502() if self._is_out() else self._faults.take(endpoint)
                self._hold(endpoint, headers, fault)
                answer = self._effect(endpoint, headers, body, fault)
            status = 0 if fault is not None and fault.drop else answer.status
            self._record(method, path, headers, body, connection, status)
            return answer, fault

    def refuse_unread(
        self, method: str, path: str, headers: dict[str, str], status: int, connection: int
    ) -> Answer:
        """Record a request that is refused before its body is read. For the server."""
        with self.changed:
            self.backend.counts["refused"] += 1
            self._record(method, path, headers, b"", connection, status)
            return Answer(status)

    def _record(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        connection: int,
        status: int,
    ) -> None:
        self.observed.add(
            Request(
                method=method,
                path=path,
                endpoint=self._route(path)[0],
                headers=headers,
                body=body,
                connection=connection,
                at=self._clock(),
                status=status,
            )
        )
        self.changed.notify_all()

    def connected(self, open_now: int) -> None:
        """Note how many connections are open. For the server."""
        with self.changed:
            self.observed.connected(open_now)
            self.changed.notify_all()

    @contextlib.contextmanager
    def under_way(self, path: str) -> Iterator[Callable[[], None]]:
        """Count a request until what this yields is called, at the latest until the block ends.
        For the server."""
        endpoint, _ = self._route(path)
        left = [endpoint]

        def ended() -> None:
            with self.changed:
                if left:
                    self.observed.end(left.pop())
                    self.changed.notify_all()

        with self.changed:
            self.observed.begin(endpoint)
            self.changed.notify_all()
        try:
            yield ended
        finally:
            ended()

    def _route(self, path: str) -> tuple[str, str]:
        known = path.startswith(self.prefix)
        return _ROUTES.get(path[len(self.prefix) :], ("", "")) if known else ("", "")

    def _hold(self, endpoint: str, headers: dict[str, str], fault: Fault | None) -> None:
        """Wait with a pull that asks for it until there is a message."""
        if endpoint == PULL and fault is None and self.backend.long_poll_s > 0:
            self._wait(
                self.changed,
                lambda: self.closing.is_set() or not self.backend.waits_for_messages(headers),
                self.backend.long_poll_s,
            )

    def _effect(
        self, endpoint: str, headers: dict[str, str], body: bytes, fault: Fault | None
    ) -> Answer:
        answer = Answer(0)
        if fault is None or fault.commit or not fault.replaces:
            if endpoint == LOGIN:
                answer = self.backend.login(headers)
            elif endpoint == PULL:
                answer = self.backend.pull(headers)
            else:
                answer = self.backend.push(headers, body)
        if fault is not None and fault.status is not None:
            return Answer(fault.status, fault.body, fault.headers)
        return answer

    def _is_out(self) -> bool:
        if self._outage_every_s is None:
            return False
        into = (self._clock() - self._started_at) % self._outage_every_s
        return into >= self._outage_every_s - self._outage_for_s

    def _chatter(self) -> None:
        if self._chatter_s is None:
            return
        due = int((self._clock() - self._started_at) / self._chatter_s)
        while self._chattered < due:
            self._chattered += 1
            if len(self.instance.queue) < CHATTER_BACKLOG_MAX:
                payload = {"resubscribed": self._chattered > 1, "count": self._chattered}
                self.backend.queue(self.instance, "ada@example.com", "subscribe", payload)
