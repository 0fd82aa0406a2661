"""Which instance it is, from the login to the messages of an embedding program (scenario 75)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ordered_actions import KINDS
from playedline import WAIT_S, PlayedPool, send_order

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.outcomes import Credentials
from fsmv2.communicator.spool.instance import INSTANCE, instance_of, leave_instance
from fsmv2.communicator.switchboard import Switchboard, board
from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.relay import Relay
from fsmv2.supervisor import Secret


def test_messages_say_the_instance_of_the_last_login(
    relay: Relay, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one at the start, and the one that comes while it runs."""
    monkeypatch.setattr(board, "INSTANCE_S", 0.0)
    made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
    login = AuthenticateAction(made_for).execute(context)
    assert login.session is not None
    access = Access(made_for, login.session, 7, login.instance_uuid)
    inbox = tmp_path / "in"
    assert PullAction(access, str(inbox)).execute(context).problem is None
    with Switchboard(tmp_path / "out", inbox, PlayedPool(), KINDS, instance_uuid="old") as mine:
        assert mine.identity.get_instance_uuid() == DEMO_UUID
        other = msgspec.structs.replace(access, instance_uuid="another")
        PullAction(other, str(inbox)).execute(context)
        ends_at = time.monotonic() + WAIT_S
        while mine.identity.get_instance_uuid() != "another":
            assert time.monotonic() < ends_at
            time.sleep(0.005)
        send_order(inbox, "u1")
        while not (taken := spool.outgoing(tmp_path / "out", 9, 1 << 20)[0]):
            assert time.monotonic() < ends_at
            time.sleep(0.005)
        assert {one.message.umh_instance for one in taken} == {"another"}


@pytest.mark.parametrize("found", [b"", b"\xff\x00", b"x" * 201, b"a\nb"])
def test_what_is_no_instance_is_none(tmp_path: Path, found: bytes) -> None:
    """Nor is an empty one left, nor one that is too long, nor anything where there is no room."""
    (tmp_path / INSTANCE).write_bytes(found)
    assert instance_of(tmp_path) == ""
    leave_instance(tmp_path, "one")
    for none in ("", "x" * 201):
        leave_instance(tmp_path, none)
    assert instance_of(tmp_path) == "one"
    leave_instance(tmp_path / INSTANCE / "under a file", "two")
    assert [path.name for path in tmp_path.iterdir()] == [INSTANCE]
    assert spool.usage(tmp_path).messages == 0
