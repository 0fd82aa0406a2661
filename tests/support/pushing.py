"""A push worker with nothing of its own, for tests of what becomes of messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.outcomes import Credentials, Direction
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.supervisor import Secret


class Pusher:
    """A push worker with nothing of its own but what an action carries; made anew at will."""

    def __init__(self, relay: Relay, context: Any, folder: Path) -> None:
        self.relay, self.context, self.outbox = relay, context, folder / "out"
        made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
        login = AuthenticateAction(made_for).execute(context)
        assert login.session is not None
        self.access = Access(made_for, login.session, 7, login.instance_uuid)
        self.stands = Direction()

    def post(self, *numbers: int) -> None:
        lines = [
            spool.encode(Message(email="a@x", content=encode_content("status", number)))
            for number in numbers
        ]
        spool.append(self.outbox, lines)

    def push(self) -> Direction:
        action = PushAction(self.access, str(self.outbox), self.stands)
        self.stands = action.execute(self.context)
        return self.stands

    def arrived(self) -> list[Any]:
        return [entry.payload for entry in self.relay.pushed()]

    def left(self) -> list[str]:
        """Files that wait or are kept aside."""
        return sorted(path.name for path in self.outbox.iterdir() if path.name[0] != ".")

    def kept(self) -> list[str]:
        """Those that are kept aside."""
        return [name for name in self.left() if name.endswith(".refused")]
