"""The outbox and the relay together: what was taken arrives, whatever ends in between."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest
from decoding import before_decoding
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions import flush as flush_module
from fsmv2.communicator.actions import push as push_module
from fsmv2.communicator.actions.flush import FlushAction
from fsmv2.communicator.actions.reset import ResetAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.spool.disk import Disk
from fsmv2.communicator.states.flushing import FLUSHING_S_MAX
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import http
from fsmv2.communicator.transport.errors import Kind, Problem


class Killed(BaseException):
    """As if the proc were gone at this instruction."""


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    return Pusher(relay, context, tmp_path)


def test_500_messages_outlive_an_outage_with_resets(pusher: Pusher, relay: Relay) -> None:
    """Scenario 36: the backend is down, connections are reset four times, and all 500 arrive
    once and in order; also trap 30, that a reset wipes nothing."""
    relay.fault("push", faults.nginx_502(), times=None)
    for reset in range(10):
        pusher.post(*range(50 * reset, 50 * reset + 50))
        assert pusher.push().errors_in_row == reset + 1
        if reset % 2 and reset < 9:
            action = ResetAction(reset, pusher.stands.errors_in_row)
            generation = action.execute(pusher.context).generation
            pusher.access = msgspec.structs.replace(pusher.access, generation=generation)
    assert pusher.stands.waiting == 500
    reset = [fields for event, _, fields in pusher.context.logged if event == "connections reset"]
    assert [each["closed"] for each in reset] == [1] * 4
    assert len(relay.observed.connections()) == 5
    relay.heal()
    while pusher.stands.waiting:
        assert pusher.push().problem is None
    assert pusher.arrived() == list(range(500))


@pytest.mark.parametrize("at", ["before the request", "after the request"])
def test_a_kill_around_the_request_repeats_at_most_the_batch(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Scenarios 37 and 38: before it nothing was sent, and all is sent from the spool; after the
    relay had taken it, the batch in flight comes twice and nothing else does."""
    pusher.post(*range(8))
    pusher.push()
    pusher.post(*range(8, 20))
    with monkeypatch.context() as patch:
        where = (push_module.metrics, "request") if at.startswith("b") else (spool, "acknowledge")

        def killed(*_: Any, **__: Any) -> Any:
            raise Killed

        patch.setattr(*where, killed)
        with pytest.raises(Killed):
            pusher.push()
    pusher.push()
    twice = list(range(8, 20)) if at.startswith("a") else []
    assert pusher.arrived() == [*range(8), *twice, *range(8, 20)]


def test_a_push_worker_that_is_made_anew_goes_on(
    pusher: Pusher, relay: Relay, tmp_path: Path
) -> None:
    """Scenario 39: what waits is on disk, not in the worker; one by one after an error too."""
    pusher.post(*range(5))
    relay.fault("push", Fault())
    relay.fault("push", Fault(status=503))
    pusher.stands = Direction(1, Problem(Kind.SERVER_ERROR, "HTTP 503", 503))
    assert pusher.push().waiting == 4
    again = Pusher(relay, pusher.context, tmp_path)
    again.push()
    assert again.arrived() == [0, 1, 2, 3, 4]


@pytest.fixture
def stop_after_three(pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop comes, or time is over, during the third request of five messages."""
    monkeypatch.setattr(push_module, "BATCH_MESSAGES_MAX", 5)
    real = spool.acknowledge
    done = 0

    def counted(taken: Any) -> None:
        nonlocal done
        done += 1
        real(taken)
        pusher.context.cancelled = done == 3

    monkeypatch.setattr(spool, "acknowledge", counted)


@pytest.mark.usefixtures("stop_after_three")
def test_a_stop_ends_with_the_request_under_way_and_counts_what_is_left(
    pusher: Pusher, relay: Relay, tmp_path: Path
) -> None:
    """Fifty wait; the third request is finished and acknowledged; the rest is told and still
    there, and nothing is pulled any more."""
    pusher.post(*range(50))
    relay.send("ada@example.com", "action", "at the relay")
    assert pusher.push().waiting == 35
    outcome = SyncAction(pusher.access, str(pusher.outbox), str(tmp_path / "in")).execute(
        pusher.context
    )
    assert (outcome.push_tried, outcome.pull_tried) == (False, False)
    assert relay.requests("pull") == []
    assert spool.outgoing(pusher.outbox, 99, 1 << 20)[1] == 35
    pusher.context.cancelled = False
    pusher.push()
    assert pusher.arrived() == list(range(50))


@pytest.mark.usefixtures("stop_after_three")
def test_what_a_flush_leaves_is_counted_and_told(pusher: Pusher, relay: Relay) -> None:
    """Scenario 40: in the outcome, in the log and in the gauge; and it is there at the next
    start."""
    pusher.post(*range(50))
    flush = FlushAction(pusher.access, str(pusher.outbox))
    stands = flush.execute(pusher.context)
    assert (stands.moved, stands.waiting, stands.problem) == (15, 35, None)
    assert ("messages left in the outbox at a stop", "warning", {"count": 35}) in (
        pusher.context.logged
    )
    assert samples_of("fsmv2_communicator_waiting") == [35]
    pusher.context.cancelled = False
    assert flush.execute(pusher.context).moved == 35
    assert pusher.arrived() == list(range(50))
    assert relay.requests("pull") == []


def samples_of(name: str) -> list[float]:
    found = [one for family in prometheus_client.REGISTRY.collect() for one in family.samples]
    return [one.value for one in found if one.name == name and one.labels["direction"] == "push"]


def test_a_flush_ends_with_its_time_and_tells_what_is_left(
    pusher: Pusher,
    relay: Relay,
    context_for: Callable[[float], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scenario 40: no stop is held up by a long outbox; here its time passes with the third."""
    monkeypatch.setattr(push_module, "BATCH_MESSAGES_MAX", 1)
    pusher.post(*range(50))
    context = context_for(600.0)
    real = spool.acknowledge

    def slow(taken: Any) -> None:
        real(taken)
        if len(relay.pushed()) == 3:
            context._ends_at = time.monotonic() + flush_module.ANSWER_S

    monkeypatch.setattr(spool, "acknowledge", slow)
    stands = FlushAction(pusher.access, str(pusher.outbox)).execute(context)
    assert (stands.moved, stands.waiting, stands.problem) == (3, 47, None)
    left = {"count": stands.waiting}
    assert ("messages left in the outbox at a stop", "warning", left) in context.logged
    assert samples_of("fsmv2_communicator_waiting") == [stands.waiting]
    assert pusher.arrived() == list(range(stands.moved))


@pytest.mark.parametrize("relay_is", ["dripping", "silent in the handshake"])
def test_no_request_of_a_flush_outlives_it(
    pusher: Pusher,
    relay: Relay,
    context_for: Callable[[float], Any],
    monkeypatch: pytest.MonkeyPatch,
    relay_is: str,
) -> None:
    """Whatever a request may take else: what is left is counted and told before the kill."""
    monkeypatch.setattr(flush_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(http, "CONNECT_S", 30.0)
    pusher.post(1, 2, 3)
    access = pusher.access
    with socket.create_server(("127.0.0.1", 0)) as mute:
        if relay_is == "dripping":
            relay.fault("push", Fault(drip_s=0.05, drip_head=True), times=None)
        else:
            url = f"https://127.0.0.1:{mute.getsockname()[1]}"
            made_for = msgspec.structs.replace(access.credentials, relay_url=url)
            access = msgspec.structs.replace(access, credentials=made_for)
        for _ in range(5):
            context = context_for(1.0)
            stands = FlushAction(access, str(pusher.outbox)).execute(context)
            if stands.problem is not None:
                break  # else a busy machine had left it no time for a request
    assert context.deadline_s > -15.0
    assert stands.problem is not None
    assert (stands.problem.kind, stands.waiting) == (Kind.NETWORK, 3)
    if relay_is == "dripping":
        assert re.search(r"the whole of it took longer than 0\.\d s", stands.problem.text)
    assert any("left in the outbox" in event for event, *_ in context.logged)


@pytest.mark.parametrize("why", ["no session", "an error", "a slow relay"])
def test_a_flush_keeps_to_its_time_and_to_the_backoff(
    pusher: Pusher, relay: Relay, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a session, or while an error is waited out, it counts only; an answer is waited for
    a moment, whatever the config says."""
    monkeypatch.setattr(flush_module, "ANSWER_S", 0.05)
    pusher.post(1, 2, 3)
    relay.fault("push", Fault(delay_s=3600))
    before = Direction(3, Problem(Kind.SERVER_ERROR, "HTTP 503", 503))
    flush = FlushAction(
        None if why == "no session" else pusher.access,
        str(pusher.outbox),
        before if why == "an error" else Direction(),
    )
    began = time.monotonic()
    assert flush.execute(pusher.context).waiting == 3
    assert time.monotonic() - began < pusher.access.credentials.timeout_s / 2
    assert len(relay.requests("push")) == (1 if why == "a slow relay" else 0)
    assert FlushAction.timeout_s < FLUSHING_S_MAX


def test_nothing_is_pushed_from_a_folder_that_may_not_be_written(
    pusher: Pusher, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounted read-only, say: no delivery could be noted, so it would come again with each try."""
    pusher.post(1)
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "may_write", lambda *_: False)
        stands = pusher.push()
    assert stands.problem is not None
    assert "no delivery could be noted" in stands.problem.text
    assert relay.requests("push") == []
    assert pusher.push().problem is None
    assert pusher.arrived() == [1]


@pytest.mark.parametrize("where", ["reading", "decoding"])
def test_a_shortage_of_memory_sets_no_message_aside(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It may be over the next moment, and then the message is as good as any."""

    def short(*_: object) -> None:
        raise MemoryError

    pusher.post(1, 2, 3)
    with monkeypatch.context() as patch:
        if where == "reading":
            patch.setattr(Disk, "read", short)
        else:
            before_decoding(patch, short)
        stands = pusher.push()
    assert stands.problem is not None
    assert "memory" in stands.problem.text
    assert (stands.errors_in_row, stands.refused, pusher.kept()) == (1, 0, [])
    assert pusher.push().problem is None
    assert pusher.arrived() == [1, 2, 3]


@pytest.mark.parametrize(
    ("why", "sent"), [("it sends", 3), ("no session", 0), ("an error", 0), ("no time", 0)]
)
def test_a_flush_tells_what_it_has_sent_itself(pusher: Pusher, why: str, sent: int) -> None:
    """Not what the sync before it has."""
    pusher.post(1, 2, 3)
    problem = Problem(Kind.SERVER_ERROR, "HTTP 503", 503) if why == "an error" else None
    pusher.context.cancelled = why == "no time"
    flush = FlushAction(
        None if why == "no session" else pusher.access,
        str(pusher.outbox),
        before=Direction(moved=40, problem=problem),
    )
    stands = flush.execute(pusher.context)
    assert (stands.moved, len(pusher.arrived())) == (sent, sent)
    assert stands.waiting == 3 - sent
