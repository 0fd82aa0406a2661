"""Which instance it is, from the login to the messages of an embedding program (scenario 75)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ordered_actions import KINDS
from playedline import WAIT_S, PlayedPool, send_order
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.outcomes import Credentials
from fsmv2.communicator.spool.instance import INSTANCE, instance_of, leave_instance
from fsmv2.communicator.switchboard import Switchboard, board
from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, encode_content
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
        mine.close(0.0)  # the order is never ended: nothing to wait for


FOREIGN_UUID = "11111111-1111-1111-1111-111111111111"


def append(pusher: Pusher, instance_uuid: str, *numbers: int) -> None:
    """Messages that say themselves whose they are."""
    messages = [
        Message(umh_instance=instance_uuid, email="a@x", content=encode_content("status", number))
        for number in numbers
    ]
    spool.append(pusher.outbox, [spool.encode(message) for message in messages])


def test_a_push_and_its_retry_say_the_instance_of_the_login(
    relay: Relay, context: Any, tmp_path: Path
) -> None:
    """Scenario 24: whatever the messages say themselves, in the batch that fails and in each of
    the single ones after it."""
    pusher = Pusher(relay, context, tmp_path)
    append(pusher, FOREIGN_UUID, 1, 2)
    relay.fault("push", Fault(status=503))
    assert pusher.push().problem is not None
    assert pusher.push().problem is None
    told = [
        [each["umhInstance"] for each in json.loads(request.body)["UMHMessages"]]
        for request in relay.requests("push")
    ]
    assert told == [[DEMO_UUID, DEMO_UUID], [DEMO_UUID], [DEMO_UUID]]
    assert pusher.arrived() == [1, 2]
    assert {entry.instance_uuid for entry in relay.pushed()} == {DEMO_UUID}
    assert pusher.left() == []


def test_where_the_login_has_told_no_instance_a_message_keeps_its_own(
    relay: Relay, context: Any, tmp_path: Path
) -> None:
    """Scenario 24, the empty UUID: the right one is taken as it is, a foreign one is refused by
    the relay and stays in the outbox."""
    pusher = Pusher(relay, context, tmp_path)
    pusher.access = msgspec.structs.replace(pusher.access, instance_uuid="")
    append(pusher, DEMO_UUID, 1)
    assert pusher.push().problem is None
    assert [(entry.payload, entry.instance_uuid) for entry in relay.pushed()] == [(1, DEMO_UUID)]
    append(pusher, FOREIGN_UUID, 2)
    stands = pusher.push()
    assert stands.problem is not None
    assert (stands.problem.status, stands.waiting, stands.refused) == (403, 1, 0)
    assert f'"umhInstance":"{FOREIGN_UUID}"' in relay.requests("push")[-1].body.decode()
    assert pusher.arrived() == [1]
    (kept,), _, _ = spool.outgoing(pusher.outbox, 9, 1 << 20)
    assert kept.message.umh_instance == FOREIGN_UUID


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
