"""What a relay stand-in has seen, and what may be said of it.

Knows: requests in order, connections, how many of either there were at a time.
Does not know: answers, faults.
Invariants: the last `REQUESTS_KEPT_MAX` requests are kept, counts are of all; an assertion that
fails says which requests broke it. Not thread-safe: its owner holds the lock.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

REQUESTS_KEPT_MAX = 10_000


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


class Observed:
    """The requests of a relay, as evidence."""

    def __init__(self) -> None:
        self.in_all = 0
        self._kept: deque[Request] = deque(maxlen=REQUESTS_KEPT_MAX)
        self._under_way: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._most_open = 0

    def add(self, request: Request) -> None:
        """Record ``request``, once it is decided how it is answered."""
        self.in_all += 1
        self._kept.append(request)

    def begin(self, endpoint: str) -> None:
        """A request of ``endpoint`` is under way from now on."""
        for name in (endpoint, ""):
            self._under_way[name] += 1
            self._most[name] = max(self._most[name], self._under_way[name])

    def end(self, endpoint: str) -> None:
        """Its last byte is about to leave, or its connection is gone."""
        for name in (endpoint, ""):
            self._under_way[name] -= 1

    def connected(self, open_now: int) -> None:
        """A connection has come, with which ``open_now`` are open."""
        self._most_open = max(self._most_open, open_now)

    def at_a_time(self, endpoint: str = "") -> int:
        """How many requests of ``endpoint`` are under way; of all with ""."""
        return self._under_way[endpoint]

    def requests(self, endpoint: str | None = None) -> list[Request]:
        """Those that are kept, oldest first, of one endpoint or of all."""
        return [one for one in self._kept if endpoint in (None, one.endpoint)]

    def most_at_a_time(self, endpoint: str = "") -> int:
        """The most requests of ``endpoint`` that were under way at a moment; of all with ""."""
        return self._most[endpoint]

    def most_open_connections(self) -> int:
        """The most connections that were open at a moment, with requests under way or idle."""
        return self._most_open

    def connections(self) -> set[int]:
        """The numbers of the connections that requests came by."""
        return {one.connection for one in self._kept}

    def assert_rate(self, calls_max: int, within_s: float, endpoint: str | None = None) -> None:
        """Raise `AssertionError` where more than ``calls_max`` requests came within any
        ``within_s`` seconds of the relay's clock."""
        moments = [one.at for one in self.requests(endpoint)]
        for first, last in zip(moments, moments[calls_max:], strict=False):
            assert last - first >= within_s, (
                f"got {calls_max + 1} requests of {endpoint or 'all endpoints'} within "
                f"{last - first:.3f} s, want at most {calls_max} in {within_s:g} s"
            )

    def assert_at_most(
        self, connections_max: int = 2, requests_max: int = 2, each_max: int = 1
    ) -> None:
        """Raise `AssertionError` where more was there at a time than of one communicator may be:
        ``connections_max`` open connections, also idle ones; requests under way, ``requests_max``
        of all and ``each_max`` of an endpoint."""
        assert self._most_open <= connections_max, (
            f"got {self._most_open} connections open at a time, want at most {connections_max}"
        )
        for endpoint, most in self._most.items():
            wanted = each_max if endpoint else requests_max
            assert most <= wanted, (
                f"got {most} requests of {endpoint or 'all endpoints'} at a time, "
                f"want at most {wanted}"
            )
