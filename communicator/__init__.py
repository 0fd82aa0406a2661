"""The communicator: keeps an instance logged in at a relay and moves messages both ways.

Knows: its worker class, for ``plugins: [fsmv2.communicator]``.
Does not know: the engine; a plug-in like any user's, on public names only.
Invariants: importing it loads no HTTP client.
"""

from fsmv2.communicator.worker import Communicator, CommunicatorConfig

WORKERS = [Communicator]

__all__ = ["WORKERS", "Communicator", "CommunicatorConfig"]
