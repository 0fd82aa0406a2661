"""The communicator's inner half: what pulled messages lead to, and what is there to be pushed.

For programs that embed it: `Switchboard` is all of it, its parts can be had one by one.
"""

from fsmv2.communicator.switchboard.accepted import Runner
from fsmv2.communicator.switchboard.board import LeftOver, Switchboard
from fsmv2.communicator.switchboard.counts import COUNTED, Counts
from fsmv2.communicator.switchboard.identity import Identity
from fsmv2.communicator.switchboard.inbound import Inbound, Incoming
from fsmv2.communicator.switchboard.outbound import Closed, Outbound
from fsmv2.communicator.switchboard.publisher import StatusPublisher
from fsmv2.communicator.switchboard.router import Router
from fsmv2.communicator.switchboard.subscribers import Subscriber, Subscribers

__all__ = [
    "COUNTED",
    "Closed",
    "Counts",
    "Identity",
    "Inbound",
    "Incoming",
    "LeftOver",
    "Outbound",
    "Router",
    "Runner",
    "StatusPublisher",
    "Subscriber",
    "Subscribers",
    "Switchboard",
]
