"""The relay's stand-in in a process of its own, so that its work is nobody else's.

Knows: how it is told what to queue, what it tells of what arrives.
Does not know: what is measured.
Invariants: what has arrived is told once and forgotten here, so that a long run grows nothing.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, Self

from fsmv2.communicator.testing.relay import Relay

EMAIL = "ada@example.com"


def _serve(pipe: Connection, token: str) -> None:
    with Relay(token=token) as relay:
        pipe.send(relay.url)
        while True:
            order, body = pipe.recv()
            if order == "end":
                return
            if order == "queue":
                for message_type, payload in body:
                    relay.send(EMAIL, message_type, payload)
                continue
            with relay.changed:
                if order == "stats":
                    answer: Any = relay.stats()
                else:
                    ledger = relay.backend.ledger
                    answer = [(one.message_type, one.payload, one.at) for one in ledger]
                    ledger.clear()
            pipe.send(answer)


class FarRelay:
    """``with FarRelay(token) as relay``: its `url`, and what may be asked of it."""

    def __init__(self, token: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, far = spawn.Pipe()
        self._lock = threading.Lock()
        self._process = spawn.Process(target=_serve, args=(far, token), daemon=True)
        self._process.start()
        far.close()
        self.url: str = self._pipe.recv()
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(("end", None))
        self._process.join(10)

    def queue(self, messages: list[tuple[str, Any]]) -> None:
        """Have these wait for the instance."""
        with self._lock:
            self._pipe.send(("queue", messages))

    def arrived(self) -> list[tuple[str, Any, float]]:
        """Type, payload and epoch seconds of what was pushed since the last call."""
        return self._ask("arrived")

    def stats(self) -> dict[str, Any]:
        """Counts since its start."""
        return self._ask("stats")

    def _ask(self, order: str) -> Any:
        with self._lock:
            self._pipe.send((order, None))
            return self._pipe.recv()


def now() -> float:
    """The clock that both processes have."""
    return time.time()
