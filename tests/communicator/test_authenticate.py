"""The login against the real relay stand-in, over a real socket."""

from __future__ import annotations

import os
import socket
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.outcomes import Credentials, LoginOutcome
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_NAME, DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.errors import Kind
from fsmv2.communicator.transport.http import HttpTransport
from fsmv2.communicator.transport.token import double_hash
from fsmv2.ipc.codec import decode, encode
from fsmv2.supervisor import ActionContext, Secret

JSON = (("Content-Type", "application/json"),)


def credentials(relay: Relay, token: str | None = DEMO_TOKEN, **fields: Any) -> Credentials:
    return Credentials(relay.url, None if token is None else Secret(token), **fields)


def login(context: ActionContext, relay: Relay, **fields: Any) -> LoginOutcome:
    fields.setdefault("credentials", credentials(relay))
    return AuthenticateAction(**fields).execute(context)


def test_login_sends_the_double_hash_and_brings_a_session(
    context: ActionContext, relay: Relay
) -> None:
    """Scenario 1: bearer of the double hash, an empty body, the JWT from the cookie, life from
    its `exp`."""
    outcome = login(context, relay)
    (request,) = relay.requests("login")
    assert request.headers["authorization"] == f"Bearer {double_hash(DEMO_TOKEN)}"
    assert request.headers["content-type"] == "application/json"
    assert (request.body, request.headers["content-length"]) == (b"", "0")
    assert outcome.problem is None
    assert outcome.session is not None
    assert (outcome.instance_uuid, outcome.instance_name) == (DEMO_UUID, DEMO_NAME)
    life_s = outcome.session.expires_at - request.at
    assert 23 * 3600 - 60 < life_s < 23 * 3600 + 60
    assert outcome.session.expires_at - outcome.session.refresh_at == pytest.approx(600)
    assert decode(encode(outcome), LoginOutcome) == outcome


def test_a_login_carries_on_how_many_sessions_were_of_no_use(
    context: ActionContext, relay: Relay
) -> None:
    """One that fails in between does not make the loop begin anew."""
    assert login(context, relay, unused=3).unused == 3
    relay.fault("login", faults.dropped())
    failed = login(context, relay, unused=3)
    assert (failed.session, failed.unused) == (None, 3)


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (Fault(status=401, body=b'{"error":"no"}', headers=JSON), Kind.INVALID_TOKEN, 401),
        (Fault(status=404), Kind.INSTANCE_DELETED, 404),
        (Fault(status=503), Kind.SERVER_ERROR, 503),
        (Fault(status=200, body=b'{"uuid":"x"}', headers=JSON), Kind.INVALID_TOKEN, 200),
        (Fault(status=201, body=b"{}", headers=JSON), Kind.UNKNOWN, 201),
        (Fault(status=307, headers=(("Location", "/api/v2/instance/login"),)), Kind.UNKNOWN, 307),
        (faults.captive_portal(), Kind.UNKNOWN, 200),
        (faults.truncated_json(), Kind.UNKNOWN, 200),
        (faults.nginx_502(), Kind.SERVER_ERROR, 502),
        (faults.zscaler_block(), Kind.PROXY_BLOCK, 403),
        (faults.cloudflare_challenge(), Kind.CLOUDFLARE, 429),
        (faults.cloudflare_challenge(403), Kind.CLOUDFLARE, 403),
        (faults.cloudflare_challenge(503), Kind.CLOUDFLARE, 503),
        (faults.rate_limit(), Kind.RATE_LIMIT, 429),
        (faults.dropped(), Kind.NETWORK, None),
        (Fault(cut_bytes=5), Kind.NETWORK, None),
    ],
)
def test_failed_login_is_an_outcome_with_its_kind(
    context: ActionContext, relay: Relay, fault: Fault, kind: Kind, status: int | None
) -> None:
    """Scenarios 9, 10, 68 and 69: never an exception; one request each; the identity and the
    count are carried on."""
    relay.fault("login", fault)
    outcome = login(context, relay, errors_in_row=2, instance_uuid="kept")
    assert outcome.session is None
    assert outcome.problem is not None
    assert (outcome.problem.kind, outcome.problem.status) == (kind, status)
    assert (outcome.errors_in_row, outcome.instance_uuid) == (3, "kept")
    assert len(relay.requests("login")) == 1
    assert DEMO_TOKEN not in outcome.problem.text
    assert login(context, relay).session is not None, "the next login works"


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_reaches_the_outcome(
    context: ActionContext, relay: Relay, as_date: bool
) -> None:
    """Scenario 8: in seconds, whether the relay asked for seconds or named a moment."""
    began = time.time()
    asked = formatdate(began + 77, usegmt=True) if as_date else "77"
    relay.fault("login", faults.rate_limit(retry_after=asked))
    outcome = login(context, relay)
    took_s = time.time() - began
    assert outcome.problem is not None
    waits_s = outcome.problem.retry_after_s
    if as_date:
        assert waits_s is not None
        assert 76 - took_s <= waits_s <= 77, "a date has whole seconds"
    else:
        assert waits_s == 77


def test_unknown_token_is_refused(context: ActionContext, relay: Relay) -> None:
    """The relay knows tokens by their double hash only."""
    outcome = login(context, relay, credentials=credentials(relay, "wrong-token"))
    assert outcome.problem is not None
    assert outcome.problem.kind is Kind.INVALID_TOKEN


def test_relay_that_is_not_there_is_a_network_problem(
    context: ActionContext, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 68: refused connections and unresolvable names, told without the client's own
    text."""
    relay.close()
    outcome = login(context, relay)
    assert outcome.problem is not None
    assert outcome.problem.kind is Kind.NETWORK
    assert "refused" in outcome.problem.text

    def no_name(*args: object, **fields: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    lost = Credentials("http://relay.invalid/api", Secret(DEMO_TOKEN))
    outcome = login(context, relay, credentials=lost)
    assert outcome.problem is not None
    assert outcome.problem.kind is Kind.NETWORK


@pytest.mark.parametrize("fault", [Fault(delay_s=60.0), Fault(drip_s=0.3)])
def test_slow_relay_is_a_network_problem_at_the_timeout(
    context: ActionContext, relay: Relay, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 65: silence ends the request, and so does a body that drips for ever."""
    monkeypatch.setattr("fsmv2.communicator.transport.http.CONNECT_S", 0.5)
    relay.fault("login", fault)
    outcome = login(context, relay, credentials=credentials(relay, timeout_s=0.5))
    assert outcome.problem is not None
    assert outcome.problem.kind is Kind.NETWORK


def test_reply_without_uuid_keeps_the_last_one(context: Any, relay: Relay) -> None:
    """Scenario 11: empty means "unchanged", with a warning."""
    relay.backend.login_body = b"{}"
    outcome = login(context, relay, instance_uuid="3f0c")
    assert outcome.session is not None
    assert outcome.instance_uuid == "3f0c"
    assert context.logged == [("the login reply has no uuid, keeping the last one", "warning", {})]


def test_failure_of_our_own_in_a_login_propagates(
    context: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 14: what is no transport error is no outcome, and nothing is told of a relay that
    was not asked."""

    def broken(*arguments: Any) -> None:
        raise RuntimeError("s3cret")

    monkeypatch.setattr(HttpTransport, "authenticate", broken)
    with pytest.raises(RuntimeError, match="s3cret"):
        login(context, relay)
    assert context.logged == []
    assert relay.requests() == []


def test_auth_token_comes_from_config_file_or_environment(
    context: ActionContext, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order, and read in the proc at every login."""
    none = credentials(relay, None)
    outcome = login(context, relay, credentials=none)
    assert outcome.problem is not None
    assert outcome.problem.kind is Kind.INVALID_TOKEN
    assert "AUTH_TOKEN" in outcome.problem.text
    assert relay.requests() == []

    monkeypatch.setenv("AUTH_TOKEN", "half-\udcff")
    outcome = login(context, relay, credentials=credentials(relay, None))
    assert outcome.problem is not None
    assert "no single line of text" in outcome.problem.text
    monkeypatch.setenv("AUTH_TOKEN", "wrong-token")
    file = tmp_path / "token"
    from_file = credentials(relay, None, auth_token_file=str(file))
    outcome = login(context, relay, credentials=from_file)
    assert outcome.problem is not None
    assert "No such file" in outcome.problem.text
    file.write_text(f"{DEMO_TOKEN}\n")
    assert login(context, relay, credentials=from_file).session is not None

    monkeypatch.setenv("AUTH_TOKEN", DEMO_TOKEN)
    assert login(context, relay, credentials=none).session is not None


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("{folder}/none", "{folder}/none: No such file"),
        ("{folder}", "{folder}: Is a directory"),
        ("/" + "x" * 5_000, ": File name too long"),
        ("/a\0b", "can be no path"),
    ],
)
def test_a_token_file_that_cannot_be_read_is_told_with_its_path(
    context: Any, relay: Relay, tmp_path: Path, setting: str, shown: str
) -> None:
    made_for = credentials(relay, None, auth_token_file=setting.format(folder=tmp_path))
    outcome = login(context, relay, credentials=made_for)
    assert outcome.problem is not None
    assert shown.format(folder=tmp_path) in outcome.problem.text
    assert relay.requests() == []


def test_a_pipe_for_a_token_file_is_not_waited_for(
    context: Any, relay: Relay, tmp_path: Path
) -> None:
    """A link to a file is as good as the file: so secrets are mounted."""
    os.mkfifo(tmp_path / "pipe")
    piped = credentials(relay, None, auth_token_file=str(tmp_path / "pipe"))
    outcome = login(context, relay, credentials=piped)
    assert outcome.problem is not None
    assert f"auth_token_file {tmp_path}/pipe: got no regular file, want" in outcome.problem.text
    assert relay.requests() == []
    (tmp_path / "file").write_text(DEMO_TOKEN)
    (tmp_path / "link").symlink_to("file")
    linked = credentials(relay, None, auth_token_file=str(tmp_path / "link"))
    assert login(context, relay, credentials=linked).problem is None


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        (f"{DEMO_TOKEN}\nsecond\n".encode(), "no single line of text"),
        (f"{DEMO_TOKEN}\x00".encode(), "no single line of text"),
        (b"\xef\xbb\xbf" + DEMO_TOKEN.encode(), "no single line of text"),
        (b"\xff\xfe" + DEMO_TOKEN.encode("utf-16-le"), "no UTF-8"),
        (b" \n\n", "an empty file"),
        (DEMO_TOKEN.encode() + b" " * 16_384, "more than 16,384 bytes"),
        ("é".encode() * 8_193, "more than 16,384 bytes"),
    ],
    ids=["two lines", "NUL", "BOM", "UTF-16", "empty", "blanks", "cut in a character"],
)
def test_what_is_no_token_in_a_file_is_told_and_never_sent(
    context: ActionContext, relay: Relay, tmp_path: Path, raw: bytes, got: str
) -> None:
    """One line of text, or a problem that says what is in the file instead: not its first lines or
    bytes, which would be refused as a wrong token."""
    file = tmp_path / "token"
    file.write_bytes(raw)
    from_file = credentials(relay, None, auth_token_file=str(file))
    outcome = login(context, relay, credentials=from_file)
    assert outcome.problem is not None
    assert outcome.problem.kind is Kind.INVALID_TOKEN
    assert f"got {got}, want one line of text" in outcome.problem.text
    assert DEMO_TOKEN not in outcome.problem.text
    assert relay.requests() == []


def test_token_file_of_the_largest_size_is_taken(
    context: ActionContext, relay: Relay, tmp_path: Path
) -> None:
    """All 16,384 bytes of it, the end of the line among them."""
    file = tmp_path / "token"
    file.write_bytes(DEMO_TOKEN.encode().ljust(16_383) + b"\n")
    from_file = credentials(relay, None, auth_token_file=str(file))
    assert login(context, relay, credentials=from_file).session is not None


@pytest.mark.parametrize("by_variable", [False, True])
def test_unverified_tls_is_told_with_the_relay_it_is_about(
    context: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    """Also when its address comes from the environment."""
    monkeypatch.setenv("API_URL", relay.url)
    asked = msgspec.structs.replace(
        credentials(relay), relay_url="" if by_variable else relay.url, allow_insecure_tls=True
    )
    assert login(context, relay, credentials=asked).session is not None
    assert context.logged == [
        ("TLS certificates are not verified", "warning", {"relay": relay.url})
    ]
