"""What one sync speaks with, in both directions."""

from __future__ import annotations

from typing import NamedTuple

from fsmv2.communicator.transport.protocol import Transport
from fsmv2.supervisor import ActionContext, Secret


class Call(NamedTuple):
    """A transport, and who we are on it. ``instance_uuid`` empty means it was never told."""

    ctx: ActionContext
    transport: Transport
    token: Secret
    instance_uuid: str
