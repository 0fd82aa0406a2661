"""What the communicator needs of a transport.

Knows: the four calls and their data.
Does not know: HTTP, or any other way to make them.
Invariants: every call either succeeds or raises `TransportError`; no call retries by itself,
because a pull is destructive and a push is not idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from fsmv2.communicator.transport.codec import Message
from fsmv2.supervisor import Secret

CONNECT_S = 3.0
# Two requests at the longest timeout fit into one sync (see actions/sync.py).
TIMEOUT_S_MAX = 15.0


class Login(msgspec.Struct, frozen=True):
    """What a login returned. An empty ``instance_uuid`` means "unchanged"."""

    token: Secret
    instance_uuid: str
    instance_name: str

    def __repr__(self) -> str:
        return f"<Login {self.token!r}>"


class Transport(Protocol):
    """One relay, spoken to from one proc."""

    def authenticate(self, auth_token: Secret) -> Login:
        """Log in with the instance's auth token; raises `TransportError`."""

    def push(self, token: Secret, messages: Sequence[Message], instance_uuid: str) -> None:
        """Deliver ``messages`` in one request; returning means the relay has them all.

        Raises `TransportError`; then the relay may have none or all of them.
        """

    def pull(self, token: Secret) -> bytes:
        """Take what waits at the relay: the reply's bytes, unread, empty where nothing waits.

        Destructive: what it returns exists nowhere else any more. Raises `TransportError`.
        """

    def close(self) -> None:
        """Close all connections. May be called twice; the next call connects anew."""
