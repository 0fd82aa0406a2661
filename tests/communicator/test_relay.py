"""The stand-in itself: a test double is only as good as its own tests."""

from __future__ import annotations

import http.client
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from relaycaller import BEARER, WAIT_S, Caller, Clock, calling

from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_NAME, DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay, main
from fsmv2.communicator.transport.codec import encode_content
from fsmv2.communicator.transport.errors import Kind, classify
from fsmv2.communicator.transport.token import double_hash


@pytest.fixture
def caller(relay: Relay) -> Iterator[Caller]:
    with calling(relay) as one:
        yield one


def test_login_sets_the_cookie_and_tells_no_expiry(caller: Caller) -> None:
    """The JWT is in the cookie only; the body has uuid and name."""
    got = caller.log_in()
    assert got.status == 200
    assert got.json == {"uuid": DEMO_UUID, "name": DEMO_NAME}
    value, *attributes = got.headers["Set-Cookie"].split("; ")
    assert value.startswith("token=ey")
    assert attributes == ["Path=/", "HttpOnly"]


def test_each_login_gives_a_new_token_and_the_old_one_lives_on(caller: Caller) -> None:
    """Until its own expiry."""
    caller.log_in()
    old = dict(caller.cookie)
    caller.log_in()
    assert caller.cookie != old
    caller.cookie = old
    assert caller.pull().status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {DEMO_TOKEN}"},
        {"Authorization": f"Basic {double_hash(DEMO_TOKEN)}"},
        {"Authorization": f"Bearer {double_hash('other')}"},
    ],
)
def test_login_wants_the_double_hash(caller: Caller, headers: dict[str, str]) -> None:
    """The plain token, or another scheme, is 401."""
    assert caller.log_in(headers).status == 401


def test_only_the_right_method_on_the_right_path(caller: Caller) -> None:
    """405 with Allow for a wrong method, 404 for anything else, and the base answers 200."""
    got = caller.ask("GET", "/api/v2/instance/login")
    assert (got.status, got.headers["Allow"]) == (405, "POST")
    assert caller.ask("POST", "/api/v2/instance/pull", b"").status == 405
    assert caller.ask("DELETE", "/api/v2/instance/push").status == 405
    for path in ("/", "/v2/instance/login", "/api//v2/instance/login", "/api/v2/auth", "/apix"):
        assert caller.ask("POST", path, b"").status == 404, path
    assert caller.ask("GET", "/api").status == 200


def test_push_and_pull_want_a_living_cookie(relay: Relay, caller: Caller) -> None:
    """Missing, unknown and revoked are 401; a deleted instance is 404, at login too."""
    assert caller.pull().status == 401
    caller.cookie = {"Cookie": "token=unknown"}
    assert caller.push(1).status == 401
    caller.log_in()
    assert caller.pull().status == 200
    relay.revoke_tokens()
    assert caller.pull().status == 401
    caller.log_in()
    relay.delete_instance()
    assert caller.pull().status == caller.push(1).status == caller.log_in().status == 404
    relay.delete_instance(False)
    assert caller.pull().status == 200


def test_token_expires_by_the_relays_clock() -> None:
    """At its `exp`, to the second."""
    clock = Clock()
    with Relay(clock=clock, token_life_s=300) as relay, calling(relay) as caller:
        caller.log_in()
        clock.now += 299
        assert caller.pull().status == 200
        clock.now += 1
        assert caller.pull().status == 401


def test_pull_is_destructive_and_in_order(relay: Relay, caller: Caller) -> None:
    """First in, first out, at most so many a reply, with nested trace ids; then nothing."""
    caller.log_in()
    relay.backend.pull_messages_max = 2
    for number in range(3):
        relay.send("ada@example.com", "action", number)
    replies = [caller.pull().json["UMHMessages"] for _ in range(3)]
    assert [len(reply) for reply in replies] == [2, 1, 0]
    contents = [message["content"] for reply in replies for message in reply]
    assert contents == [encode_content("action", number) for number in range(3)]
    assert replies[0][0]["metadata"]["traceId"]
    relay.backend.idle_status = 204
    got = caller.pull()
    assert (got.status, got.body) == (204, b"")


def test_push_is_all_or_nothing_and_kept_in_a_ledger(relay: Relay, caller: Caller) -> None:
    """With arrival, batch and content hash; one foreign instance refuses the whole batch."""
    caller.log_in()
    assert caller.push("a", "b").status == 200
    assert caller.push("a").status == 200
    assert caller.push("c", instance="00000000-0000-0000-0000-000000000001").status == 403
    assert caller.ask("POST", "/api/v2/instance/push", b"{").status == 400
    assert caller.ask("POST", "/api/v2/instance/push", b'{"umhMessages":[]}').status == 400
    ledger = relay.pushed()
    assert [(entry.arrival, entry.batch, entry.payload) for entry in ledger] == [
        (0, 0, "a"),
        (1, 0, "b"),
        (2, 1, "a"),
    ]
    assert ledger[0].content_hash == ledger[2].content_hash != ledger[1].content_hash


def test_connection_is_kept_and_requests_are_recorded(relay: Relay, caller: Caller) -> None:
    """Keep-alive over good and bad answers alike."""
    caller.log_in()
    caller.pull()
    caller.ask("GET", "/nowhere")
    records = relay.requests()
    assert [(r.method, r.endpoint, r.status) for r in records] == [
        ("POST", "login", 200),
        ("GET", "pull", 200),
        ("GET", "", 404),
    ]
    assert {record.connection for record in records} == {1}
    with calling(relay) as other:
        other.pull()
    assert relay.requests("pull")[-1].connection == 2
    assert double_hash(DEMO_TOKEN) not in repr(records)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.cloudflare_challenge(), Kind.CLOUDFLARE),
        (faults.cloudflare_challenge(403), Kind.CLOUDFLARE),
        (faults.zscaler_block(), Kind.PROXY_BLOCK),
        (faults.bluecoat_block(), Kind.PROXY_BLOCK),
        (faults.fortinet_block(), Kind.PROXY_BLOCK),
        (faults.redirect("http://elsewhere.invalid/", 307), Kind.UNKNOWN),
        (faults.nginx_502(), Kind.SERVER_ERROR),
        (faults.rate_limit("30"), Kind.RATE_LIMIT),
    ],
)
def test_presets_are_what_they_claim(
    relay: Relay, caller: Caller, fault: Fault, kind: Kind
) -> None:
    """Each is classified as itself, and is over after one request."""
    caller.log_in()
    relay.fault("pull", fault)
    got = caller.pull()
    assert (got.status, got.body) == (fault.status, fault.body)
    assert classify(got.status, got.body, got.headers.get("Server", "")) is kind
    assert caller.pull().status == 200


def test_faults_are_one_shot_or_persistent_per_endpoint(relay: Relay, caller: Caller) -> None:
    """One-shot faults come first and in order; a persistent one stays until healed."""
    caller.log_in()
    relay.fault("pull", Fault(status=500), times=None)
    relay.fault("pull", Fault(status=502))
    relay.fault("pull", Fault(status=503), times=2)
    assert [caller.pull().status for _ in range(6)] == [502, 503, 503, 500, 500, 500]
    assert caller.push(1).status == 200
    relay.heal("pull")
    assert caller.pull().status == 200
    with pytest.raises(ValueError, match="endpoint"):
        relay.fault("pulls", Fault(status=500))


def test_dropped_connection_takes_effect_or_not(relay: Relay, caller: Caller) -> None:
    """As it was told: before the request counted, or after."""
    caller.log_in()
    for commit, pushed in ((False, 0), (True, 1)):
        relay.fault("push", faults.dropped(commit=commit))
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            caller.push("a")
        assert len(relay.pushed()) == pushed
        caller.connection.close()
    assert relay.requests("push")[-1].status == 0


def test_bodies_can_be_cut(relay: Relay, caller: Caller) -> None:
    """Complete but truncated JSON, and a body shorter than its length said."""
    caller.log_in()
    relay.fault("pull", faults.truncated_json())
    assert caller.pull().body == b'{"UMHMessage'
    relay.fault("pull", Fault(cut_bytes=5))
    with pytest.raises(http.client.IncompleteRead):
        caller.pull()


def test_a_fault_under_way_does_not_hold_up_the_end() -> None:
    """`close` returns although an answer was to be delayed for an hour."""
    with Relay() as relay, calling(relay) as caller:
        relay.fault("login", Fault(delay_s=3600))
        caller.connection.request("POST", "/api/v2/instance/login", b"", BEARER)
        assert relay.wait_for(lambda r: len(r.requests("login")) == 1, WAIT_S)
    relay.close()


def test_chatter_and_outage_follow_the_clock() -> None:
    """A message every 10 s; of every 60 s the last 15 answer 502, and nothing is lost."""
    clock = Clock()
    relay = Relay(clock=clock, chatter_s=10, outage_every_s=60, outage_for_s=15)
    with relay, calling(relay) as caller:
        caller.log_in()
        clock.now += 25
        assert len(caller.pull().json["UMHMessages"]) == 2
        clock.now += 20
        assert [caller.pull().status, caller.push(1).status, caller.log_in().status] == [502] * 3
        assert relay.stats()["outage"] is True
        clock.now += 15
        assert len(caller.pull().json["UMHMessages"]) == 4


def test_stats_are_served_beside_the_api(relay: Relay, caller: Caller) -> None:
    """For the demo; asking for them is not counted as a request."""
    caller.log_in()
    caller.push(1, 2)
    caller.pull()
    relay.send("ada@example.com", "action", 1)
    got = caller.ask("GET", "/_relay/stats")
    want = {
        "logins": 1,
        "pulls": 1,
        "pushes": 1,
        "refused": 0,
        "requests": 3,
        "messages_pushed": 2,
        "messages_waiting": 1,
        "outage": False,
    }
    assert got.json == want == relay.stats()
    assert relay.stats_url.endswith("/_relay/stats")


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], WAIT_S)[0], "no line in time"
    return process.stdout.readline()


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program, ended and reaped whatever happens."""
    line = [sys.executable, "-P", "-m", "fsmv2.communicator.testing.relay", *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_prints_its_url_and_ends_on_a_signal(number: signal.Signals) -> None:
    """One line, flushed; exit code 0."""
    with command("--listen", "127.0.0.1:0") as process:
        words = read_line(process).split()
        assert words[:3] == ["relay", "listening", "on"]
        assert words[3].startswith("http://127.0.0.1:")
        assert words[3].endswith("/api")
        process.send_signal(number)
        assert process.wait(WAIT_S) == 0


@pytest.mark.proc
def test_command_ends_with_its_parent() -> None:
    """When the process named by --parent-pid is gone, by whatever end."""
    with subprocess.Popen(["sleep", "600"]) as parent:
        try:
            with command("--parent-pid", str(parent.pid)) as process:
                read_line(process)
                assert process.poll() is None
                parent.kill()
                assert process.wait(WAIT_S) == 0
        finally:
            parent.kill()


@pytest.mark.proc
def test_command_ends_after_its_seconds_and_takes_a_token() -> None:
    """A demo that is forgotten ends by itself."""
    with command("--seconds", "0.2", "--token", "other") as process:
        assert "listening" in read_line(process)
        assert process.wait(WAIT_S) == 0


def test_command_refuses_what_it_cannot_listen_on(
    relay: Relay, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 for nonsense, 3 for a port that is taken."""
    assert main(["--listen", "nonsense"]) == 2
    taken = relay.url.removeprefix("http://").partition("/")[0]
    assert main(["--listen", taken]) == 3
    assert "cannot listen" in capsys.readouterr().err


def test_command_names_the_file_it_cannot_serve_https_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says nothing of listening, which it did not come to."""
    empty, locked = tmp_path / "empty.pem", tmp_path / "locked.pem"
    empty.touch()
    key = trustme.CA().private_key_pem.bytes()
    form, how = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pass")
    private = serialization.load_pem_private_key(key, None)
    locked.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, how))
    for path, why in (
        ("/nowhere.pem", "No such file or directory"),
        (str(tmp_path), "Is a directory"),
        (str(empty), "it has none that fit"),
        (str(locked), "it has none that fit"),
        ("/a\0b", "no file has such a name"),
    ):
        assert main(["--tls", path]) == 3
        told = capsys.readouterr().err
        assert told.startswith(f"cannot serve https with {path!r}: {why}"), told
        assert told.endswith(
            ", want a PEM file with a key, without a pass phrase, and its certificates\n"
        )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("--seconds=-1", "got '-1', want more than 0 seconds"),
        ("--seconds=x", "got 'x', want more than 0 seconds"),
        ("--fault=push=typo", "'typo' is no preset, want one of cloudflare-429, "),
        ("--fault=push=", "'' is no preset, want one of cloudflare-429, "),
        ("--fault=pish=drop", "'pish' is no endpoint, want one of login, pull, push"),
        ("--fault=push", "got 'push', want ENDPOINT=PRESET or ENDPOINT=PRESET:N"),
        ("--fault=push=drop:x", "got 'push=drop:x', want ENDPOINT=PRESET or ENDPOINT=PRESET:N"),
        ("--chance=1:2", "got '1:2', want SEED:RATE"),
        ("--chance=1:x", "got '1:x', want SEED:RATE"),
        ("--prefix=api", "want a path"),
        ("--prefix=/a?b", "want a path"),
        ("--prefix=/a//b", "want a path"),
    ],
)
def test_command_says_what_is_wrong_with_an_option(
    wrong: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([wrong])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("pid", [99_999_999, 0, -3, 1 << 80])
def test_command_refuses_a_parent_that_is_not_there(
    pid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would run on without, or end before anybody could use it."""
    assert main(["--parent-pid", str(pid)]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"cannot end with --parent-pid {pid}: ")
