"""The relay's stand-in: a real HTTP/1.1 server on loopback, for tests and for the demo.

``with Relay() as relay:`` serves `relay.url`; ``python -m fsmv2.communicator.testing.relay``
does the same as a program. What it answers is decided in `backend`, what goes wrong in
`faults`.

Knows: routing, which fault is due, what was asked and in which order, the command line.
Does not know: connections and framing (`server`), states, workers, any real host.
Invariants: binds to loopback unless told otherwise; one lock guards all state; `close` ends
every connection and every thread, also one that is in the middle of a fault. A chatter and an
outage are functions of the clock, so that no thread and no sleep is needed for them.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from fsmv2.communicator.testing.backend import (
    DEMO_NAME,
    DEMO_TOKEN,
    DEMO_UUID,
    Answer,
    Backend,
    Instance,
    Pushed,
)
from fsmv2.communicator.testing.faults import LOGIN, PULL, PUSH, Fault, FaultBook, nginx_502
from fsmv2.communicator.testing.server import STATS_PATH, Server

REQUESTS_KEPT_MAX = 10_000
CHATTER_BACKLOG_MAX = 100
_ROUTES = {
    "/v2/instance/login": (LOGIN, "POST"),
    "/v2/instance/pull": (PULL, "GET"),
    "/v2/instance/push": (PUSH, "POST"),
}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came in. ``connection`` numbers TCP connections, ``at`` is the relay's
    clock in seconds, ``status`` what it was answered with (0 for a dropped connection)."""

    method: str
    path: str
    endpoint: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float
    status: int

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path} -> {self.status}>"


class Relay:
    """A relay with one registered instance. Every method may be called from any thread.

    ``token_life_s``: seconds a JWT lives. ``chatter_s``: a message for the instance every so
    many seconds. ``outage_every_s`` and ``outage_for_s``: of every so many seconds the last
    ones are answered with 502. ``clock``: epoch seconds, for expiries and all of the above.
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
    ) -> None:
        self.changed = threading.Condition()
        self.closing = threading.Event()
        self.prefix = prefix
        self.backend = Backend(clock, token_life_s)
        self.instance = self.backend.add_instance(token, DEMO_UUID, DEMO_NAME)
        self._faults = FaultBook()
        self._requests: deque[Request] = deque(maxlen=REQUESTS_KEPT_MAX)
        self._requests_in_all = 0
        self._clock = clock
        self._started_at = clock()
        self._chatter_s = chatter_s
        self._chattered = 0
        self._outage_every_s = outage_every_s
        self._outage_for_s = outage_for_s
        self._server = Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

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
        return f"http://{self._server.server_name}:{self._server.server_port}{self.prefix}"

    @property
    def stats_url(self) -> str:
        """Where `stats` is served as JSON."""
        return f"http://{self._server.server_name}:{self._server.server_port}{STATS_PATH}"

    def start(self) -> None:
        """Serve from a thread of its own until `close`."""
        self._thread.start()

    def close(self) -> None:
        """End every connection, every thread and the listening socket. May be called twice."""
        self.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def send(
        self, email: str, message_type: str, payload: Any, instance: Instance | None = None
    ) -> None:
        """Queue a message from a console user for the instance."""
        with self.changed:
            self.backend.queue(instance or self.instance, email, message_type, payload)

    def pushed(self) -> list[Pushed]:
        """Everything that was pushed, in order of arrival."""
        with self.changed:
            return list(self.backend.ledger)

    def requests(self, endpoint: str | None = None) -> list[Request]:
        """The last requests, oldest first, of one endpoint or of all."""
        with self.changed:
            return [one for one in self._requests if endpoint in (None, one.endpoint)]

    def fault(self, endpoint: str, fault: Fault, times: int | None = 1) -> None:
        """Answer the next ``times`` requests of ``endpoint`` with ``fault``; None is until
        `heal`. Raises `ValueError` for an unknown endpoint."""
        with self.changed:
            self._faults.set(endpoint, fault, times)

    def heal(self, endpoint: str | None = None) -> None:
        """Forget the faults of ``endpoint``, or all."""
        with self.changed:
            self._faults.clear(endpoint)

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
                "requests": self._requests_in_all,
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
            endpoint, allowed = _ROUTES.get(path.removeprefix(self.prefix), ("", ""))
            fault: Fault | None = None
            if not path.startswith(self.prefix) or (not endpoint and path != self.prefix):
                answer = Answer(404, b'{"error":"no such path"}')
            elif not endpoint:
                answer = Answer(200, b"{}")
            elif method != allowed:
                answer = Answer(405, b"", (("Allow", allowed),))
            else:
                fault = nginx_502() if self._is_out() else self._faults.take(endpoint)
                answer = self._effect(endpoint, headers, body, fault)
            self._requests_in_all += 1
            self._requests.append(
                Request(
                    method=method,
                    path=path,
                    endpoint=endpoint,
                    headers=headers,
                    body=body,
                    connection=connection,
                    at=self._clock(),
                    status=0 if fault is not None and fault.drop else answer.status,
                )
            )
            self.changed.notify_all()
            return answer, fault

    def _effect(
        self, endpoint: str, headers: dict[str, str], body: bytes, fault: Fault | None
    ) -> Answer:
        replaced = fault is not None and (fault.status is not None or fault.drop)
        answer = Answer(0)
        if not replaced or (fault is not None and fault.commit):
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


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT, ``--seconds``, or the end of ``--parent-pid``."""
    options = _parser().parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdecimal():
        print(f"cannot listen: got {options.listen!r}, want HOST:PORT", file=sys.stderr)
        return 2
    try:
        relay = Relay(
            host=host,
            port=int(port),
            token=options.token,
            token_life_s=options.token_life,
            chatter_s=options.chatter,
            outage_every_s=options.outage_every,
            outage_for_s=options.outage_for,
        )
    except (OSError, OverflowError) as error:
        print(f"cannot listen on {options.listen}: {error}", file=sys.stderr)
        return 3
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with relay:
        print(f"relay listening on {relay.url}", flush=True)
        _wait(woken, options.parent_pid, options.seconds)
    return 0


def _wait(woken: int, parent_pid: int | None, seconds: float | None) -> None:
    """Return on a signal, when the parent is gone, or after ``seconds``."""
    watched = [woken]
    if parent_pid is not None:
        # A pidfd, not the parent-death signal: that one fires when the thread that started us
        # ends, which in a threaded parent is long before its process does.
        try:
            watched.append(os.pidfd_open(parent_pid))
        except ProcessLookupError:
            return
    select.select(watched, [], [], seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fsmv2.communicator.testing.relay",
        description="A stand-in for the relay, on loopback.",
    )
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="end after N seconds")
    parser.add_argument("--token", default=DEMO_TOKEN, help="the instance's auth token")
    parser.add_argument(
        "--token-life", type=_seconds, default=82_800.0, metavar="N", help="seconds a JWT lives"
    )
    parser.add_argument(
        "--chatter", type=_seconds, metavar="N", help="a message for the instance every N seconds"
    )
    parser.add_argument(
        "--outage-every",
        type=_seconds,
        metavar="S",
        help="answer 502 at the end of every S seconds",
    )
    parser.add_argument(
        "--outage-for", type=_seconds, default=5.0, metavar="T", help="for T seconds (5)"
    )
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="end when PID has ended")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"got {text}, want more than 0 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
