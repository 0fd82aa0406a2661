"""The sync against the real relay stand-in, over a real socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsmv2.communicator import spool
from fsmv2.communicator.actions import push as push_module
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import INBOX_MESSAGES_MAX
from fsmv2.communicator.actions.sync import NEVER, TRIES_S, SyncAction
from fsmv2.communicator.outcomes import Credentials, Direction, LoginOutcome, SyncOutcome
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import decode_content, encode_content
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.communicator.transport.http import transport_for
from fsmv2.communicator.transport.protocol import CONNECT_S, TIMEOUT_S_MAX
from fsmv2.communicator.transport.token import double_hash
from fsmv2.ipc.codec import decode, encode
from fsmv2.supervisor import ActionContext, Secret

JSON = (("Content-Type", "application/json"),)


def credentials(relay: Relay, token: str | None = DEMO_TOKEN, **fields: Any) -> Credentials:
    return Credentials(relay.url, None if token is None else Secret(token), **fields)


def login(context: ActionContext, relay: Relay, **fields: Any) -> LoginOutcome:
    fields.setdefault("credentials", credentials(relay))
    return AuthenticateAction(**fields).execute(context)


def sync(context: ActionContext, relay: Relay, tmp_path: Path, **fields: Any) -> SyncOutcome:
    """Log in, then sync once with folders under ``tmp_path``."""
    made_for = fields.pop("credentials", credentials(relay))
    outcome = login(context, relay)
    assert outcome.session is not None
    fields = {"outbox": str(tmp_path / "out"), "inbox": str(tmp_path / "in"), **fields}
    access = Access(made_for, outcome.session, 7, outcome.instance_uuid)
    return SyncAction(access, **fields).execute(context)


def post(tmp_path: Path, *payloads: Any) -> list[Path]:
    return [
        spool.post(tmp_path / "out", email="ada@example.com", message_type="status", payload=p)
        for p in payloads
    ]


def received(tmp_path: Path) -> list[Any]:
    return [
        decode_content(message.content)[1]
        for path in spool.inbox_files(tmp_path / "in")
        for message in spool.read_messages(path)
    ]


def names(folder: Path) -> list[str]:
    """Those that are not the spool's own notes."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def test_sync_moves_messages_both_ways_in_order(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Scenarios 20 and 22: pushed once each, then deleted here; pulled once each, then on disk
    here."""
    post(tmp_path, {"n": 1}, {"n": 2}, {"n": 3})
    for number in (7, 8):
        relay.send("ada@example.com", "action", {"n": number})
    outcome = sync(context, relay, tmp_path)
    assert [entry.payload["n"] for entry in relay.pushed()] == [1, 2, 3]
    assert {entry.batch for entry in relay.pushed()} == {0}
    assert {entry.instance_uuid for entry in relay.pushed()} == {DEMO_UUID}  # scenario 24
    assert names(tmp_path / "out") == []
    assert received(tmp_path) == [{"n": 7}, {"n": 8}]
    assert (outcome.push.moved, outcome.pull.moved, outcome.pull.waiting) == (3, 2, 2)
    assert outcome.push.problem is outcome.pull.problem is None
    assert not outcome.token_rejected
    assert decode(encode(outcome), SyncOutcome) == outcome


def test_idle_sync_makes_no_push_and_writes_no_file(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Scenarios 21 and 23: an empty outbox is no request; an empty reply, or 204, is no file."""
    for status in (200, 204):
        relay.backend.idle_status = status
        outcome = sync(context, relay, tmp_path)
        assert outcome.pull.problem is None
    assert relay.requests("push") == []
    assert len(relay.requests("pull")) == 2
    assert names(tmp_path / "in") == []


def test_pull_reply_is_read_whatever_the_case_of_its_keys(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Scenarios 23 and 26: outside and inside, and a null beside a message is none."""
    message = {
        "UMHInstance": DEMO_UUID,
        "EMAIL": "ada@example.com",
        "Content": encode_content("action", {"n": 7}, compress=False),
        "Metadata": {"TRACEID": "9b1d"},
    }
    body = json.dumps({"umhMessages": [None, message]}).encode()
    relay.fault("pull", Fault(status=200, body=body, headers=JSON))
    outcome = sync(context, relay, tmp_path)
    assert outcome.pull.problem is None
    assert (outcome.pull.moved, outcome.pull.refused) == (1, 0)
    assert received(tmp_path) == [{"n": 7}]
    (path,) = spool.inbox_files(tmp_path / "in")
    assert names(tmp_path / "in") == [path.name]
    (kept,) = spool.read_messages(path)
    assert (kept.umh_instance, kept.email) == (DEMO_UUID, "ada@example.com")
    assert kept.trace_id == "9b1d"


def test_connection_is_kept_over_actions(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Scenario 2: one TCP connection for each direction, for two logins and two syncs: it lives
    in the proc,
    not in a client."""
    post(tmp_path, 1)
    sync(context, relay, tmp_path)
    sync(context, relay, tmp_path)
    assert len(relay.requests()) == 5
    assert len(relay.observed.connections()) <= 2
    relay.observed.assert_at_most()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.nginx_502(), Kind.SERVER_ERROR),
        (faults.captive_portal(), Kind.UNKNOWN),
        (faults.zscaler_block(), Kind.PROXY_BLOCK),
        (faults.cloudflare_challenge(403), Kind.CLOUDFLARE),
        (faults.rate_limit("9"), Kind.RATE_LIMIT),
        (Fault(status=304), Kind.UNKNOWN),
        (Fault(status=302, headers=(("Location", "/api"),)), Kind.UNKNOWN),
        (Fault(status=404), Kind.INSTANCE_DELETED),
        (Fault(status=401), Kind.INVALID_TOKEN),
        (Fault(status=403), Kind.INVALID_TOKEN),
        (faults.dropped(), Kind.NETWORK),
    ],
)
def test_failed_push_keeps_every_message_and_hides_no_pull(
    context: ActionContext, relay: Relay, tmp_path: Path, fault: Fault, kind: Kind
) -> None:
    """Scenarios 69 and 70: only a 2xx that is no page deletes a message; the pull goes on all the
    same."""
    files = post(tmp_path, "a", "b")
    relay.send("ada@example.com", "action", "in")
    relay.fault("push", fault)
    before = Direction(errors_in_row=1)
    outcome = sync(context, relay, tmp_path, push=before)
    assert outcome.push.problem is not None
    assert outcome.push.problem.kind is kind
    assert (outcome.push.errors_in_row, outcome.push.waiting) == (2, 2)
    assert names(tmp_path / "out") == [path.name for path in files]
    assert relay.pushed() == []
    assert outcome.pull.problem is None
    assert received(tmp_path) == ["in"]
    assert outcome.token_rejected is (kind is Kind.INVALID_TOKEN)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.nginx_502(), Kind.SERVER_ERROR),
        (faults.captive_portal(), Kind.UNKNOWN),
        (Fault(status=201, body=b"{}"), Kind.UNKNOWN),
        (Fault(status=401), Kind.INVALID_TOKEN),
        (faults.dropped(), Kind.NETWORK),
    ],
)
def test_failed_pull_hides_no_push(
    context: ActionContext, relay: Relay, tmp_path: Path, fault: Fault, kind: Kind
) -> None:
    """Each direction has its own error and its own count."""
    post(tmp_path, "a")
    relay.fault("pull", fault)
    outcome = sync(context, relay, tmp_path, pull=Direction(errors_in_row=4))
    assert outcome.pull.problem is not None
    assert outcome.pull.problem.kind is kind
    assert outcome.pull.errors_in_row == 5
    assert (outcome.push.errors_in_row, outcome.push.moved) == (0, 1)
    assert outcome.token_rejected is (kind is Kind.INVALID_TOKEN)


def test_revoked_token_is_reported(context: ActionContext, relay: Relay, tmp_path: Path) -> None:
    """So that the next decision is a login."""
    outcome = login(context, relay)
    assert outcome.session is not None
    relay.revoke_tokens()
    access = Access(credentials(relay), outcome.session, 7, "")
    synced = SyncAction(access, outbox=None, inbox=str(tmp_path / "in")).execute(context)
    assert synced.token_rejected
    assert synced.login_id == 7


def test_truncated_pull_reply_is_kept_and_the_next_pull_works(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """The relay has forgotten it, so we do not throw it away because we cannot read it."""
    relay.send("ada@example.com", "action", "lost")
    relay.fault("pull", faults.truncated_json())
    outcome = sync(context, relay, tmp_path)
    assert outcome.pull.problem is not None
    assert outcome.pull.problem.kind is Kind.UNKNOWN
    (kept,) = names(tmp_path / "in")
    assert kept.endswith(".unreadable")
    assert (tmp_path / "in" / kept).read_bytes() == b'{"UMHMessage'
    relay.send("ada@example.com", "action", "next")
    outcome = sync(context, relay, tmp_path, pull=outcome.pull)
    assert outcome.pull.errors_in_row == 0
    assert received(tmp_path) == ["next"]


def test_reply_saved_by_a_killed_attempt_is_delivered_before_the_next_pull(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """A kill between the sync to disk and the unpacking loses nothing."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    content = relay_content("from before")
    body = {"UMHMessages": [{"email": "ada@example.com", "content": content}]}
    (inbox / "00000000000000000001-1.reply").write_text(json.dumps(body))
    relay.send("ada@example.com", "action", "from after")
    outcome = sync(context, relay, tmp_path)
    assert received(tmp_path) == ["from before", "from after"]
    assert outcome.pull.moved == 2
    assert all(name.endswith(".jsonl") for name in names(inbox))


def relay_content(payload: Any) -> str:
    from fsmv2.communicator.transport.codec import encode_content

    return encode_content("action", payload)


def test_full_inbox_is_not_pulled_into(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Messages wait at the relay, where they are safe. It is no error, and ends a row of them: what
    is not tried does not fail."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    for number in range(INBOX_MESSAGES_MAX):
        (inbox / f"{number:020d}-1.json").write_text("{}")
    before = Direction(errors_in_row=2, problem=Problem(Kind.NETWORK, "reset"))
    outcome = sync(context, relay, tmp_path, pull=before)
    assert relay.requests("pull") == []
    assert (outcome.pull.held, outcome.pull.waiting) == (True, INBOX_MESSAGES_MAX)
    assert (outcome.pull.errors_in_row, outcome.pull.problem) == (0, None)


def test_inbox_that_cannot_be_written_is_found_before_the_pull(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """A destructive request is not made without a place for its answer."""
    (tmp_path / "in").write_text("a file, not a folder")
    outcome = sync(context, relay, tmp_path)
    assert outcome.pull.problem is not None
    assert "inbox" in outcome.pull.problem.text
    assert relay.requests("pull") == []


def test_after_a_failure_messages_go_one_by_one_in_order(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Scenario 30: so that one message the relay does not take cannot hold back the others."""
    relay.fault("push", Fault(status=503))
    post(tmp_path, 1, 2, 3)
    outcome = sync(context, relay, tmp_path)
    assert outcome.push.errors_in_row == 1
    outcome = sync(context, relay, tmp_path, push=outcome.push)
    assert [(entry.payload, entry.batch) for entry in relay.pushed()] == [(1, 0), (2, 1), (3, 2)]
    assert outcome.push.errors_in_row == 0


def test_outbox_file_that_is_no_message_is_set_aside(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """And the messages around it are sent."""
    (good,) = post(tmp_path, 1)
    bad = good.with_name("00-bad.json")
    bad.write_text("{")
    outcome = sync(context, relay, tmp_path)
    assert (outcome.push.refused, outcome.push.moved) == (1, 1)
    assert names(tmp_path / "out") == ["00-bad.json.refused"]


def test_lost_answer_duplicates_at_most_the_batch_in_flight(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Scenario 57: the relay took it and the answer was lost: sent again, because losing is
    worse."""
    post(tmp_path, 1, 2)
    relay.fault("push", faults.dropped(commit=True))
    outcome = sync(context, relay, tmp_path)
    assert outcome.push.problem is not None
    sync(context, relay, tmp_path, push=outcome.push)
    assert [entry.payload for entry in relay.pushed()] == [1, 2, 1, 2]
    assert len({entry.content_hash for entry in relay.pushed()}) == 2


def test_large_outbox_goes_in_batches(
    context: ActionContext, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, round after round, with a pull beside it and not behind it."""
    monkeypatch.setattr(push_module, "BATCH_MESSAGES_MAX", 10)
    monkeypatch.setattr(push_module, "REQUESTS_MAX", 2)
    post(tmp_path, *range(45))
    outcome = sync(context, relay, tmp_path)
    assert (outcome.push.moved, outcome.push.waiting) == (45, 0)
    assert len(relay.requests("pull")) == 1
    assert [entry.payload for entry in relay.pushed()] == list(range(45))
    assert {entry.batch for entry in relay.pushed()} == set(range(5))


def test_direction_that_waits_is_left_out_and_stays_as_it_was(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """Its error, its count, and the time since its last try go on."""
    post(tmp_path, 1)
    outcome = sync(context, relay, tmp_path, push=Direction(3, idle_s=5.0), push_in_s=NEVER)
    assert relay.requests("push") == []
    assert outcome.push.errors_in_row == 3
    assert 5.0 <= outcome.push.idle_s < 25.0
    assert 0.0 <= outcome.pull.idle_s < 20.0


def test_cancelled_sync_makes_no_request(context: Any, relay: Relay, tmp_path: Path) -> None:
    """On a stop nothing more is taken from the relay."""
    post(tmp_path, 1)
    outcome = login(context, relay)
    assert outcome.session is not None
    context.cancelled = True
    sync(context, relay, tmp_path)
    assert relay.requests("pull") == relay.requests("push") == []


def test_two_requests_at_the_longest_timeout_fit_into_one_sync() -> None:
    """The framework's kill is for what hangs, not for a relay that is slow within limits."""
    request_s_max = CONNECT_S + TIMEOUT_S_MAX
    # A pull that begins at the last moment, and a push that begins as the pull ends.
    assert SyncAction.timeout_s > TRIES_S + 2 * request_s_max
    assert AuthenticateAction.timeout_s > request_s_max


def test_nothing_secret_is_in_a_repr_a_log_or_an_error(
    context: Any, relay: Relay, tmp_path: Path
) -> None:
    """Not the auth token, its hash, the JWT or a message; also when a relay repeats them all."""
    body_secret = "valve-code-4711"
    post(tmp_path, {"code": body_secret})
    first = login(context, relay)
    assert first.session is not None
    jwt = first.session.token.reveal()
    hidden = [DEMO_TOKEN, double_hash(DEMO_TOKEN), jwt, body_secret]
    echo = " ".join(hidden).encode()
    shown: list[str] = [repr(first)]
    for fault in (
        Fault(status=500, body=echo),
        Fault(status=200, body=echo, headers=JSON),
        Fault(status=200, body=b"{" + echo, headers=(*JSON, ("Set-Cookie", f"token={jwt}"))),
    ):
        relay.fault("login", fault)
        shown.append(repr(login(context, relay)))
        for endpoint in ("push", "pull"):
            relay.fault(endpoint, fault)
        outcome = sync(context, relay, tmp_path)
        shown += [repr(outcome), str(outcome.push.problem), str(outcome.pull.problem)]
        relay.heal()
    shown += [repr(context.logged), repr(transport_for_repr(relay))]
    shown += [repr(msgspec.to_builtins(first, enc_hook=repr))]
    for text in shown:
        for secret in hidden:
            assert secret not in text


def transport_for_repr(relay: Relay) -> object:
    from fsmv2.communicator.transport import http

    return transport_for(http.Relay(relay.url))
