"""A router between two folders, with a pool that is played."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ordered_actions import KINDS

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds, segments
from fsmv2.communicator.switchboard import Counts, Identity, Inbound, Outbound, Router, Subscribers
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content
from fsmv2.supervisor import Action, ActionResult

WAIT_S = 20.0


def send_order(inbox: Path, *uuids: str, kind: str = "add", **fields: Any) -> None:
    """One order of Ada's for each, as a pull leaves them."""
    payload = {"left": 1, **fields} if kind == "add" else fields
    bodies = [{"actionType": kind, "actionUUID": uuid, "actionPayload": payload} for uuid in uuids]
    lines = [
        spool.encode(Message(email="ada@x", content=encode_content("action", body), trace_id="t1"))
        for body in bodies
    ]
    segments.publish(inbox, segments.new_stem(()), lines)


def payloads_in(outbox: Path) -> list[dict[str, Any]]:
    """The payload of every reply in ``outbox``, in order."""
    contents = [
        decode_content(one.message.content) for one in spool.outgoing(outbox, 9_999, 1 << 30)[0]
    ]
    return [payload for kind, payload in contents if kind == "action-reply"]


def replies_in(outbox: Path) -> list[tuple[str, str]]:
    """UUID and state of every reply in ``outbox``, in order."""
    return [
        (each["actionUUID"], each["actionReplyState"].removeprefix("action-"))
        for each in payloads_in(outbox)
    ]


def reply_to(outbox: Path, uuid: str) -> dict[str, Any]:
    """The last reply to an order, of which there must be one."""
    mine = [each for each in payloads_in(outbox) if each["actionUUID"] == uuid]
    assert [each for each in mine if each["actionReplyState"][7:] in ("success", "failure")] == [
        mine[-1]
    ]
    return mine[-1]


class PlayedPool:
    """Takes actions; the test says how each ends."""

    def __init__(self) -> None:
        self.taken: list[tuple[Action, Future[ActionResult]]] = []
        self.error: BaseException | None = None

    def submit(self, action: Action) -> Future[ActionResult]:
        if self.error is not None:
            raise self.error
        future: Future[ActionResult] = Future()
        self.taken.append((action, future))
        return future

    def end(self, index: int = -1, status: Any = "succeeded", **fields: Any) -> None:
        result = ActionResult(status=status, action_type="Add", attempt_id=1, **fields)
        self.taken[index][1].set_result(result)


class Line:
    """A router between two folders."""

    def __init__(
        self,
        folder: Path,
        bounds: Bounds | None = None,
        kinds: Mapping[str, type[Action]] = KINDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.pool = PlayedPool()
        self.counts = Counts()
        self.subscribers = Subscribers(clock)
        self.identity = Identity("uuid-1")
        self.outbound = Outbound(folder / "out", bounds, self.counts)
        self.router = Router(
            Inbound(folder / "in", self.counts),
            self.outbound,
            self.subscribers,
            self.identity,
            self.pool,
            kinds,
        )
        self.outbound.start()

    def send(self, *contents: str, email: str = "ada@x") -> None:
        lines = [spool.encode(Message(email=email, content=c, trace_id="t1")) for c in contents]
        segments.publish(self.folder / "in", segments.new_stem(()), lines)

    def order(self, uuid: str = "u1", kind: str = "add", payload: Any = None) -> None:
        fields = {"left": 1} if payload is None else payload
        body = {"actionType": kind, "actionUUID": uuid, "actionPayload": fields}
        self.send(encode_content("action", body))

    def run(self) -> None:
        """Until nothing more happens: everything is settled that can be."""
        while self.router.step():
            pass
        assert self.outbound.flush(WAIT_S)
        self.router.settle(all_of_it=True)

    def replies(self) -> list[tuple[str, Any]]:
        """State and payload of everything in the outbox, in order."""
        found = []
        for one in spool.outgoing(self.folder / "out", 999, 1 << 30)[0]:
            kind, payload = decode_content(one.message.content)
            assert (kind, one.message.email, one.message.trace_id) == (
                "action-reply",
                "ada@x",
                "t1",
            )
            assert one.message.umh_instance == "uuid-1"
            found.append((payload["actionReplyState"].removeprefix("action-"), payload))
        return found

    def states(self) -> list[str]:
        return [state for state, _ in self.replies()]

    def left(self) -> int:
        """Messages that would come again after a kill."""
        return spool.usage(self.folder / "in").messages
