"""Push and pull in one attempt: neither waits for the other, and each at most once at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest

from fsmv2.communicator import spool
from fsmv2.communicator.actions import pull as pull_module
from fsmv2.communicator.actions import sync as sync_module
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.actions.reset import ResetAction
from fsmv2.communicator.actions.sync import NEVER, TRIES_S, SyncAction
from fsmv2.communicator.outcomes import Credentials, Direction, SyncOutcome
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import decode_content
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import Secret

WAIT_S = 20.0
SLOW = Fault(delay_s=3600)


def names(folder: Path) -> list[str]:
    """Those that are not the spool's own notes."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


class Attempts:
    """Makes attempts against one relay, with folders of its own."""

    def __init__(self, relay: Relay, context: Any, folder: Path) -> None:
        self.relay = relay
        self.context = context
        self.outbox = folder / "out"
        self.inbox = folder / "in"
        made_for = Credentials(relay.url, Secret(DEMO_TOKEN), timeout_s=15.0)
        login = AuthenticateAction(made_for).execute(context)
        assert login.session is not None
        self.access = Access(made_for, login.session, 7, login.instance_uuid)

    def post(self, *payloads: Any, message_type: str = "status") -> None:
        for payload in payloads:
            spool.post(self.outbox, email="a@x", message_type=message_type, payload=payload)

    def action(self, **fields: Any) -> SyncAction:
        defaults = {"outbox": str(self.outbox), "inbox": str(self.inbox), "poll_interval_s": 0.02}
        fields = {**defaults, **fields}
        return SyncAction(fields.pop("access", self.access), **fields)

    def sync(self, **fields: Any) -> SyncOutcome:
        return self.action(**fields).execute(self.context)

    @contextmanager
    def under_way(self, **fields: Any) -> Iterator[list[SyncOutcome]]:
        """A sync in a thread; what it brought is in the list after the block, which heals what
        it waits for."""
        found: list[SyncOutcome] = []
        thread = threading.Thread(target=lambda: found.append(self.sync(**fields)))
        thread.start()
        try:
            yield found
        finally:
            self.relay.heal()
            thread.join(WAIT_S)
        assert found

    def pushed(self) -> list[Any]:
        return [entry.payload for entry in self.relay.pushed()]

    def files(self) -> list[str]:
        return names(self.outbox)

    def received(self) -> list[Any]:
        return [
            decode_content(message.content)[1]
            for path in spool.inbox_files(self.inbox)
            for message in spool.read_messages(path)
        ]


@pytest.fixture
def attempts(relay: Relay, context: Any, tmp_path: Path) -> Attempts:
    return Attempts(relay, context, tmp_path)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that counts on more stays, however long a busy machine takes for a step."""
    for limit in ("STAYS_S", "TRIES_S"):
        monkeypatch.setattr(sync_module, limit, 3600.0)


def is_open(relay: Relay, endpoint: str) -> bool:
    return relay.observed.at_a_time(endpoint) == 1


def test_slow_pull_holds_up_no_push(relay: Relay, attempts: Attempts) -> None:
    """Scenario 25: replies and statuses that come while a pull is open are pushed while it is open,
    in order, and what it was about to bring is in the inbox."""
    relay.send("ada@example.com", "action", "slow")
    relay.fault("pull", SLOW)
    with attempts.under_way() as found:
        assert relay.wait_for(lambda r: is_open(r, "pull"))
        for number in range(3):
            attempts.post(number, message_type="action-reply")
            attempts.post(number)
            assert relay.wait_for(lambda r, n=number: len(r.pushed()) == 2 * (n + 1))
        assert is_open(relay, "pull")
        assert attempts.received() == []
    arrived = [(entry.message_type, entry.payload) for entry in relay.pushed()]
    assert arrived == [(kind, n) for n in range(3) for kind in ("action-reply", "status")]
    assert (found[0].push.moved, found[0].pull.moved) == (6, 1)
    assert found[0].pull.problem is None
    assert attempts.received() == ["slow"]
    relay.observed.assert_at_most()


def test_a_communicator_has_two_connections_open_at_most(
    relay: Relay, attempts: Attempts, context: Any
) -> None:
    """While both directions are under way; after each mishap that costs one, after another login,
    and after a reset, which begins anew with both: the old ones are closed before."""
    for generation in range(3):
        attempts.access = msgspec.structs.replace(attempts.access, generation=generation)
        relay.heal()  # of what one direction had no more need of, when the other had ended it
        relay.fault("pull", SLOW)
        with attempts.under_way():
            assert relay.wait_for(lambda r: is_open(r, "pull"))
            attempts.post("beside")
            assert relay.wait_for(lambda r, n=generation: attempts.pushed().count("beside") > n)
        for mishap in (faults.dropped(), Fault(cut_bytes=5), Fault(close_after=True)):
            relay.fault("push", mishap)
            relay.fault("pull", mishap)
            attempts.post("again")
            attempts.sync()
        # It may meet a connection that is being closed: whatever comes of it, it opens no third.
        AuthenticateAction(attempts.access.credentials).execute(context)
    assert relay.observed.most_open_connections() == 2
    assert len(relay.observed.connections()) >= 6
    relay.observed.assert_at_most()


def test_pushes_begin_for_as_long_as_a_pull_is_open(
    relay: Relay, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the seconds in which new tries are made otherwise; no second pull begins then."""
    relay.fault("pull", SLOW)
    with attempts.under_way():
        assert relay.wait_for(lambda r: is_open(r, "pull"))
        monkeypatch.setattr(sync_module, "TRIES_S", 0.0)  # those seconds are over
        attempts.post("late")
        assert relay.wait_for(lambda r: len(r.pushed()) == 1)
        assert is_open(relay, "pull")
    assert len(relay.requests("pull")) == 1


@pytest.mark.usefixtures("patient")
def test_while_messages_move_an_attempt_stays_and_looks_again_soon(
    relay: Relay, attempts: Attempts
) -> None:
    """The answer to a message leaves in the attempt that brought it, though the next poll would
    be in an hour."""
    relay.send("ada@example.com", "action", "question")
    with attempts.under_way(lively_s=60.0, poll_interval_s=3600.0) as found:
        assert relay.wait_for(lambda r: len(r.requests("pull")) >= 3)
        attempts.post("answer")
        assert relay.wait_for(lambda r: len(r.pushed()) == 1)
        relay.send("ada@example.com", "action", "next question")
        assert relay.wait_for(lambda r: not r.instance.queue)
        relay.fault("pull", faults.nginx_502())  # ends it
        assert relay.wait_for(lambda r: r.requests("pull")[-1].status == 502)
    assert (found[0].push.moved, found[0].pull.moved) == (1, 2)


@pytest.mark.usefixtures("patient")
def test_an_attempt_that_stays_has_one_thread_more_whatever_moves(
    relay: Relay, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 76: none for a message, in either direction, and none for a try."""
    started: list[str] = []
    start = threading.Thread.start

    def counting(self: threading.Thread) -> None:
        is_relays = "process_request" in self.name
        if threading.current_thread() is not threading.main_thread() and not is_relays:
            started.append(self.name)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", counting)
    with attempts.under_way(lively_s=60.0, lively_left_s=60.0, poll_interval_s=3600.0) as found:
        for number in range(8):
            attempts.post(number)
            relay.send("ada@example.com", "action", number)
            assert relay.wait_for(lambda r, n=number: len(r.pushed()) > n and not r.instance.queue)
        relay.fault("pull", faults.nginx_502())  # ends it
        assert relay.wait_for(lambda r: r.requests("pull")[-1].status == 502)
    assert (found[0].push.moved, found[0].pull.moved) == (8, 8)
    assert started == ["pull"]


@pytest.mark.usefixtures("patient")
def test_an_attempt_that_begins_between_two_messages_waits_for_the_second(
    relay: Relay, attempts: Attempts
) -> None:
    """As long as the one before counted on more; and it says for how long more may come."""
    with attempts.under_way(lively_s=60.0, lively_left_s=60.0, poll_interval_s=3600.0) as found:
        assert relay.wait_for(lambda r: len(r.requests("pull")) >= 1)
        attempts.post("second")
        assert relay.wait_for(lambda r: len(r.pushed()) == 1)
        relay.fault("pull", faults.nginx_502())  # ends it
        assert relay.wait_for(lambda r: r.requests("pull")[-1].status == 502)
    assert 40.0 < found[0].lively_left_s <= 60.0


@pytest.mark.usefixtures("patient")
def test_an_attempt_that_has_waited_for_its_proc_keeps_none(
    relay: Relay, attempts: Attempts
) -> None:
    """Others wait for it. What is there is moved all the same, and more is still counted on."""
    relay.send("ada@example.com", "action", "question")
    attempts.post("status")
    outcome = attempts.sync(lively_s=3600.0, poll_interval_s=3600.0, asked_at=1.0)
    assert (outcome.push.moved, outcome.pull.moved) == (1, 1)
    assert outcome.lively_left_s > 1800.0


@pytest.mark.parametrize("messages", [9, 10])
@pytest.mark.usefixtures("patient")
def test_while_many_come_the_relay_is_asked_again_sooner(
    relay: Relay, attempts: Attempts, messages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is shared by ten messages costs each of them little."""
    monkeypatch.setattr(sync_module, "LIVELY_PULL_S", 3600.0)
    for number in range(messages):
        relay.send("ada@example.com", "action", number)
    outcome = attempts.sync(lively_s=1.5, poll_interval_s=3600.0)
    assert outcome.pull.moved == messages
    assert len(relay.requests("pull")) == (2 if messages == 10 else 1)


@pytest.mark.usefixtures("patient")
def test_an_error_ends_an_attempt_that_stays(relay: Relay, attempts: Attempts) -> None:
    """The root is to see it: the attempt does not look on for a minute."""
    relay.send("ada@example.com", "action", "question")
    with attempts.under_way(lively_s=60.0, poll_interval_s=3600.0) as found:
        assert relay.wait_for(lambda r: len(r.requests("pull")) >= 2)
        relay.fault("pull", Fault(status=503), times=None)
        assert relay.wait_for(lambda r: r.requests("pull")[-1].status == 503)
        pulls = len(relay.requests("pull"))
    assert found[0].pull.problem is not None
    assert len(relay.requests("pull")) == pulls


@pytest.mark.usefixtures("patient")
def test_slow_push_holds_up_no_pull(relay: Relay, attempts: Attempts) -> None:
    """Scenario 55: messages that come while a push is open are pulled while it is open."""
    relay.fault("push", SLOW)
    attempts.post("slow")
    with attempts.under_way() as found:
        assert relay.wait_for(lambda r: is_open(r, "push"))
        for number in range(3):
            relay.send("ada@example.com", "action", number)
            assert relay.wait_for(lambda r: not r.instance.queue)
        assert is_open(relay, "push")
    assert found[0].pull.moved == 3
    assert found[0].push.moved == 1
    relay.observed.assert_at_most()


def test_once_the_worker_is_to_stop_no_pull_begins_beside_a_push(
    relay: Relay, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 40: the push is waited for; meanwhile the relay deletes nothing."""
    monkeypatch.setattr(sync_module, "TRIES_S", 3600.0)
    relay.fault("push", SLOW)
    attempts.post("slow")
    with attempts.under_way(lively_s=60.0) as found:
        assert relay.wait_for(lambda r: is_open(r, "push"))
        assert relay.wait_for(lambda r: len(r.requests("pull")) >= 3)
        [pulling] = [thread for thread in threading.enumerate() if thread.name == "pull"]
        attempts.context.stopping = True
        pulling.join(10.0)
        assert not pulling.is_alive()
        assert is_open(relay, "push")
        relay.send("ada@example.com", "action", "late")
    assert relay.instance.queue
    assert attempts.pushed() == ["slow"]
    assert found[0].pull.problem is found[0].push.problem is None


@pytest.mark.usefixtures("patient")
def test_once_the_worker_is_to_stop_pushes_begin_beside_a_pull_only(
    relay: Relay, attempts: Attempts
) -> None:
    """It is waited for anyway. Afterwards the attempt makes room for the stop's own push, though
    messages move and the next poll would be in an hour."""
    relay.fault("pull", SLOW)
    with attempts.under_way(lively_s=3600.0, poll_interval_s=0.02) as found:
        assert relay.wait_for(lambda r: is_open(r, "pull"))
        attempts.context.stopping = True
        attempts.post("beside it")
        assert relay.wait_for(lambda r: len(r.pushed()) == 1)
    assert found[0].push.moved == 1
    assert len(relay.requests("pull")) == 1


def test_direction_that_has_failed_is_not_tried_again_beside_the_other(
    relay: Relay, attempts: Attempts
) -> None:
    """Its backoff is the root's to decide, however long the other goes on."""
    relay.fault("pull", faults.nginx_502(), times=None)
    relay.fault("push", SLOW)
    attempts.post(1)
    with attempts.under_way() as found:
        assert relay.wait_for(lambda r: is_open(r, "push") and bool(r.requests("pull")))
        assert not relay.wait_for(lambda r: len(r.requests("pull")) > 1, 0.2)
    assert (found[0].pull.errors_in_row, found[0].push.errors_in_row) == (1, 0)


def test_direction_that_waits_begins_in_time_beside_the_other(
    relay: Relay, attempts: Attempts
) -> None:
    """A backoff that ends while the other has a request under way is not made longer by it."""
    problem = Problem(Kind.SERVER_ERROR, "HTTP 502", 502)
    failed = Direction(1, problem, idle_s=1.9)
    relay.fault("push", SLOW)
    attempts.post(1)
    with attempts.under_way(pull=failed, pull_in_s=0.1) as found:
        assert relay.wait_for(lambda r: bool(r.requests("pull")) and is_open(r, "push"))
    assert found[0].pull_tried
    assert found[0].pull.errors_in_row == 0
    relay.fault("pull", SLOW)
    attempts.post(2)
    with attempts.under_way(push=failed, push_in_s=0.1) as found:
        assert relay.wait_for(lambda r: len(r.pushed()) == 2 and is_open(r, "pull"))
    assert found[0].push_tried


@pytest.mark.parametrize("in_s", [NEVER, TRIES_S + 1, TRIES_S - 1])
def test_direction_that_is_not_due_is_not_waited_for(
    relay: Relay, attempts: Attempts, in_s: float
) -> None:
    """The attempt ends with the other's last request."""
    attempts.post(1)
    outcome = attempts.sync(pull=Direction(2, idle_s=3.0), pull_in_s=in_s)
    assert (outcome.push_tried, outcome.pull_tried) == (True, False)
    assert outcome.pull.errors_in_row == 2
    assert outcome.pull.idle_s >= 3.0
    outcome = attempts.sync(push=Direction(2, idle_s=3.0), push_in_s=in_s)
    assert (outcome.push_tried, outcome.pull_tried) == (False, True)
    assert relay.requests("pull") != []


def test_failure_of_our_own_in_one_direction_is_told_after_the_other_has_ended(
    relay: Relay, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 14: what is no transport error propagates; a push under way ends as it would."""

    def broken(*arguments: Any) -> None:
        raise RuntimeError("a bug in pulling")

    monkeypatch.setattr(pull_module, "pull_inbox", broken)
    attempts.post(1)
    with pytest.raises(RuntimeError, match="a bug in pulling"):
        attempts.sync()
    assert attempts.pushed() == [1]


def test_a_reset_leaves_a_request_under_way_alone(relay: Relay, attempts: Attempts) -> None:
    """Scenario 49: it ends on the connection it has; the next one is made anew, at once."""
    relay.fault("push", SLOW)
    attempts.post("before")
    with attempts.under_way() as found:
        assert relay.wait_for(lambda r: is_open(r, "push"))
        before = relay.observed.connections()
        outcome = ResetAction(generation=1, errors_in_row=5).execute(attempts.context)
        assert outcome.generation == 1
    assert found[0].push.problem is None
    attempts.post("after")
    access = msgspec.structs.replace(attempts.access, generation=1)
    assert attempts.sync(access=access).generation == 1
    assert attempts.pushed() == ["before", "after"]
    assert relay.observed.connections() > before


def test_a_generation_has_connections_of_its_own_and_keeps_them(
    relay: Relay, attempts: Attempts
) -> None:
    """Scenario 48: without a `ResetAction` in this proc, for an attempt may come to another one
    than the reset did. Both directions are under way at a time, so each has a connection."""

    def used_by(generation: int) -> set[int]:
        before = len(relay.requests())
        relay.fault("push", SLOW)
        relay.fault("pull", SLOW)
        attempts.post(generation)
        access = msgspec.structs.replace(attempts.access, generation=generation)
        with attempts.under_way(access=access) as found:
            assert relay.wait_for(lambda r: is_open(r, "push") and is_open(r, "pull"))
        assert found[0].push.problem is found[0].pull.problem is None
        return {one.connection for one in relay.requests()[before:]}

    first, second, third = used_by(0), used_by(1), used_by(1)
    assert len(first) == len(second) == 2
    assert not first & second
    assert second == third
    assert attempts.pushed() == [0, 1, 1]


def test_each_direction_is_an_action_of_its_own(relay: Relay, attempts: Attempts) -> None:
    """A pool can run either alone."""
    attempts.post(1)
    relay.send("ada@example.com", "action", 2)
    push = PushAction(attempts.access, str(attempts.outbox)).execute(attempts.context)
    pull = PullAction(attempts.access, str(attempts.inbox)).execute(attempts.context)
    assert (push.moved, pull.moved) == (1, 1)


def test_single_sends_keep_the_order_and_stop_at_what_may_pass(
    relay: Relay, attempts: Attempts
) -> None:
    """Scenarios 30 and 31: after a 503 one by one; the second fails, the first is gone, two are
    left in order."""
    attempts.post(1, 2, 3)
    relay.fault("push", Fault(status=503))
    failed = attempts.sync().push
    relay.fault("push", Fault())
    relay.fault("push", Fault(status=503))
    outcome = attempts.sync(push=failed)
    assert (outcome.push.moved, outcome.push.waiting, outcome.push.errors_in_row) == (1, 2, 2)
    attempts.sync(push=outcome.push)
    assert attempts.pushed() == [1, 2, 3]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_only_the_message_that_is_refused_itself_is_set_aside(
    relay: Relay, attempts: Attempts, status: int
) -> None:
    """Scenario 32: the second of three; it is counted and kept, the first and third are sent."""
    attempts.post(1, 2, 3)
    relay.fault("push", Fault(status=status))
    failed = attempts.sync().push
    assert (failed.errors_in_row, failed.refused, failed.waiting) == (1, 0, 3)
    for fault in (Fault(), Fault(status=status), Fault(), Fault(status=status)):
        relay.fault("push", fault)
    outcome = attempts.sync(push=failed)
    assert (outcome.push.moved, outcome.push.refused, outcome.push.waiting) == (2, 1, 0)
    assert attempts.pushed() == [1, 3]
    assert [name.endswith(".jsonl.refused") for name in attempts.files()] == [True]


def test_proxy_that_answers_400_refuses_no_message(relay: Relay, attempts: Attempts) -> None:
    """Whatever status its page has."""
    attempts.post(1)
    for status in (400, 413, 422):
        relay.fault("push", faults.zscaler_block(status))
        outcome = attempts.sync(push=Direction(1, Problem(Kind.SERVER_ERROR, "HTTP 500", 500)))
        assert (outcome.push.refused, outcome.push.waiting) == (0, 1)


@pytest.mark.parametrize("status", [401, 404, 408, 409, 425, 429, 500, 503])
def test_any_other_status_keeps_every_message(
    relay: Relay, attempts: Attempts, status: int
) -> None:
    """Scenario 33, and trap 30: nothing is dropped for a status that says nothing of it."""
    attempts.post(1, 2)
    relay.fault("push", Fault(status=status), times=None)
    outcome = attempts.sync(push=Direction(1, Problem(Kind.SERVER_ERROR, "HTTP 500", 500)))
    assert (outcome.push.waiting, outcome.push.refused) == (2, 0)
    assert outcome.push.errors_in_row == 2
    assert len(relay.requests("push")) == 1
    assert outcome.token_rejected is (status == 401)
    assert all(name.endswith(".jsonl") for name in attempts.files())


def test_batch_that_is_too_large_is_sent_in_parts(relay: Relay, attempts: Attempts) -> None:
    """Scenario 59: only what is too large by itself is set aside."""
    relay.backend.push_bytes_max = 3000
    attempts.post(*(f"{number}{'x' * 500}" for number in range(6)))
    spool.post(attempts.outbox, email="a@x", message_type="status", payload=list(range(9999)))
    attempts.post("last")
    failed = attempts.sync().push
    assert failed.problem is not None
    assert failed.problem.status == 413
    outcome = attempts.sync(push=failed)
    assert (outcome.push.moved, outcome.push.refused, outcome.push.waiting) == (7, 1, 0)
    assert [str(payload)[0] for payload in attempts.pushed()] == [*"012345", "l"]


@pytest.mark.parametrize(
    ("free", "held", "pulls"),
    [(49, False, False), (50, False, True), (99, True, False), (100, True, True)],
)
def test_pulling_needs_room_and_more_of_it_to_begin_again(
    relay: Relay,
    attempts: Attempts,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    held: bool,
    pulls: bool,
) -> None:
    """Scenarios 27 and 28: skipped below 50, resumed at 100, no outcome; pushing goes on."""
    attempts.inbox.mkdir()
    for number in range(100 - free):
        (attempts.inbox / f"{number:020d}-1.json").write_text("{}")
    attempts.post("out")
    relay.send("ada@example.com", "action", "in")
    outcome = attempts.sync(pull=Direction(held=held), inbox_messages_max=100)
    assert bool(relay.requests("pull")) is pulls
    assert outcome.pull.held is not pulls
    assert (outcome.pull.moved, outcome.pull.rate.count) == ((1, 1) if pulls else (0, 0))
    assert outcome.pull.problem is None
    assert attempts.pushed() == ["out"]
    backpressure, entries = (
        prometheus_client.REGISTRY.get_sample_value(name, {"path": ""})
        for name in (
            "fsmv2_communicator_backpressure",
            "fsmv2_communicator_backpressure_entries_total",
        )
    )
    assert backpressure == (0 if pulls else 1)
    assert (entries or 0) == (1 if not pulls and not held else 0)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"UMHMessages":[{"email":"a"', True),
        (b'{"UMHMessages":{"email":"a"}}', True),
        (b'{"UMHMessages":[7]}', True),
        (b"\xef\xbb\xbf{}", True),
        (b"\xff" * (2 << 20), True),
        (b'{"UMHMessages":[],"UMHMessages":[null]}', False),
    ],
    ids=["truncated", "no list", "no object", "BOM", "2 MB of garbage", "key twice"],
)
def test_malformed_reply_is_one_error_and_the_next_pull_works(
    relay: Relay, attempts: Attempts, body: bytes, kept: bool
) -> None:
    """Scenario 63: it is kept for people, and nothing is lost behind it."""
    relay.fault("pull", Fault(status=200, body=body, headers=(("Content-Type", "text/json"),)))
    outcome = attempts.sync()
    assert (outcome.pull.problem is not None) is kept
    assert [name[-11:] for name in names(attempts.inbox)] == [".unreadable"] * kept
    relay.send("ada@example.com", "action", 1)
    outcome = attempts.sync(pull=outcome.pull)
    assert (outcome.pull.errors_in_row, outcome.pull.moved) == (0, 1)


def test_settings_of_the_environment_are_honoured(
    relay: Relay, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """API_URL, AUTH_TOKEN and ALLOW_INSECURE_TLS stand in for what the config leaves out, and an
    unusable one is an outcome that says so, without a request."""
    none = Credentials()
    outcome = AuthenticateAction(Credentials(auth_token=Secret("x"))).execute(context)
    assert outcome.problem is not None
    assert "API_URL" in outcome.problem.text
    for url in ("relay.example.com", "http://ada:hunter2@relay.example.com"):
        monkeypatch.setenv("API_URL", url)
        monkeypatch.setenv("AUTH_TOKEN", DEMO_TOKEN)
        outcome = AuthenticateAction(none).execute(context)
        assert outcome.problem is not None
        assert "API_URL" in outcome.problem.text
        assert "hunter2" not in outcome.problem.text
    monkeypatch.setenv("API_URL", f"{relay.url}/")
    monkeypatch.setenv("ALLOW_INSECURE_TLS", "perhaps")
    outcome = AuthenticateAction(none).execute(context)
    assert outcome.problem is not None
    assert "ALLOW_INSECURE_TLS has 7 characters that are neither yes nor no" in outcome.problem.text
    assert relay.requests() == []
    for value, warns in (("TRUE", True), ("0", False)):
        monkeypatch.setenv("ALLOW_INSECURE_TLS", value)
        context.logged.clear()
        outcome = AuthenticateAction(none).execute(context)
        assert outcome.session is not None
        assert ("TLS certificates are not verified" in str(context.logged)) is warns
    access = Access(none, outcome.session, 7, outcome.instance_uuid)
    assert SyncAction(access, None, str(tmp_path / "in")).execute(context).pull.problem is None


def test_one_folder_by_a_link_is_neither_pushed_nor_pulled(
    relay: Relay, attempts: Attempts, context: Any
) -> None:
    """What is pulled would be pushed back. Only a proc can see it: the root touches no disk."""
    attempts.post("waits")
    attempts.inbox.symlink_to(attempts.outbox)
    asked = len(relay.requests())
    outcome = attempts.sync()
    for direction in (outcome.push, outcome.pull):
        assert direction.problem is not None
        assert "one folder by a link, want two" in direction.problem.text
        assert direction.errors_in_row == 1
    assert len(relay.requests()) == asked
    assert len(attempts.files()) == 1
    assert "one folder by a link" in str(context.logged)
