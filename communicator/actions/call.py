"""What an action speaks to the relay with, and where that is resolved.

Knows: that the environment may stand in for the config, and that it is read in the proc.
Does not know: what is said.
Invariants: whatever cannot be resolved is a `TransportError`, so an outcome and no crash.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import NamedTuple

import msgspec

from fsmv2.communicator import metrics
from fsmv2.communicator.outcomes import Credentials, Session
from fsmv2.communicator.transport import address
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.communicator.transport.protocol import CONNECT_S, Transport
from fsmv2.supervisor import ActionContext, Secret


class Access(msgspec.Struct, frozen=True):
    """Who speaks to which relay: all that a push and a pull have in common. ``login_id`` is the
    attempt that made ``session``; ``generation`` counts the resets."""

    credentials: Credentials
    session: Session
    login_id: int
    instance_uuid: str
    generation: int = 0

    @property
    def request_s_max(self) -> float:
        """The longest that one request may take, in seconds."""
        return CONNECT_S + self.credentials.timeout_s

    def call(self, ctx: ActionContext) -> Call:
        """The means to make requests in this attempt; raises `TransportError`."""
        transport = transport_of(self.credentials, self.generation)
        return Call(ctx, transport, self.session.token, self.instance_uuid, self.request_s_max)


class Call(NamedTuple):
    """A transport, and who we are on it. ``instance_uuid`` empty means it was never told;
    ``request_s_max`` is the longest that one request may take."""

    ctx: ActionContext
    transport: Transport
    token: Secret
    instance_uuid: str
    request_s_max: float = 0.0

    @property
    def has_time(self) -> bool:
        """Whether a request that begins now ends within this attempt."""
        return not self.ctx.cancelled and self.ctx.deadline_s > self.request_s_max


def all_within(seconds: float) -> AbstractContextManager[None]:
    """What this thread asks of a relay inside the block is over when so many have passed."""
    from fsmv2.communicator.transport.connections import Hold, held_to  # in a proc only, as below

    return held_to(Hold(time.monotonic() + seconds))


def transport_of(credentials: Credentials, generation: int | None = None) -> Transport:
    """This proc's transport for the relay that ``credentials`` or the environment name.

    ``generation`` None, as for a login: with the connections there are. Raises `TransportError`
    where neither names one that can be used.
    """
    metrics.of(credentials.path)  # what this thread counts from here on
    # Here, not above: the module is imported in the root, the HTTP client must not be.
    from fsmv2.communicator.transport.http import Relay, transport_for

    try:
        url = credentials.relay_url or address.relay_url_of_environment()
        insecure = is_insecure(credentials)
    except ValueError as error:
        raise TransportError(Problem(Kind.UNKNOWN, f"cannot reach the relay: {error}")) from None
    return transport_for(Relay(url, credentials.timeout_s, insecure, generation, credentials.path))


def is_insecure(credentials: Credentials) -> bool:
    """Whether any certificate is taken; raises `ValueError` for an unusable variable."""
    if credentials.allow_insecure_tls is None:
        return address.insecure_by_environment()
    return credentials.allow_insecure_tls
