"""Nothing that the other end says is ever shown: it may be what we have sent it."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.outcomes import Credentials, Session
from fsmv2.communicator.testing import faults
from fsmv2.communicator.transport import address, http
from fsmv2.communicator.transport.errors import Kind, TransportError
from fsmv2.communicator.transport.http import HttpTransport, Relay
from fsmv2.communicator.transport.pages import middlebox
from fsmv2.communicator.transport.token import double_hash
from fsmv2.supervisor import Secret

WAIT_S = 20.0
WINDOW = 7  # so many characters of a secret in a row are never chance


class Parrot:
    """A server that answers every request with the same bytes, each on its own connection."""

    def __init__(self) -> None:
        self.reply = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(WAIT_S)
                data = b""
                while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
                    data += more
                if not data:
                    return
                head, _, rest = data.partition(b"\r\n\r\n")
                length = int((head.lower().partition(b"content-length: ")[2] or b"0").split()[0])
                while len(rest) < length and (more := connection.recv(65536)):
                    rest += more
                connection.sendall(self.reply)

    def close(self) -> None:
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join(WAIT_S)
        self._listener.close()


@pytest.fixture(scope="module")
def parrot() -> Iterator[Parrot]:
    bird = Parrot()
    yield bird
    bird.close()


def echoed(place: str, status: int, words: str) -> bytes:
    """A response that says ``words`` in ``place``."""
    body = json.dumps({"error": words}) if place == "json" else words
    if place in ("uuid", "name", "key"):
        body = json.dumps({words if place == "key" else place: words})
    headers = {"Content-Type": "application/json"}
    reason = words if place == "reason" else "Whatever"
    if place in ("title", "page"):
        headers["Content-Type"] = "text/html"
        body = f"<html><head><title>{words if place == 'title' else ''}</title></head>{words}"
    elif place == "location":
        headers["Location"] = f"http://{words}@127.0.0.1/{words}"
    elif place == "retry":
        headers["Retry-After"] = words
    elif place == "header":
        headers |= {"Server": words, "Content-Encoding": words, "WWW-Authenticate": words}
    elif place == "broken header":
        headers[words] = f"{words}\r\n{words}"
    elif place == "cookie":
        headers["Set-Cookie"] = f"other={words}; {words}"
    if place in ("uuid", "name"):
        headers["Set-Cookie"] = "token=a.b.c"
    raw = body.encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    first = f"{words}\r\n" if place == "first line" else f"HTTP/1.1 {status} {reason}\r\n"
    return f"{first}{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


PLACES = (
    "title", "page", "json", "text", "key", "uuid", "name", "reason", "location", "retry",
    "header", "broken header", "cookie", "first line",
)  # fmt: skip
# Of high entropy each: what is found of one was not there by chance.
SECRET = st.integers(0, 1 << 64).map(
    lambda seed: base64.urlsafe_b64encode(hashlib.sha256(str(seed).encode()).digest()).decode()[:40]
)


@given(
    place=st.sampled_from(PLACES),
    status=st.sampled_from([200, 204, 302, 401, 403, 404, 413, 429, 502, 503]),
    secret=SECRET,
    jwt=SECRET,
    said=SECRET,
    start=st.integers(0, 12),
    size=st.sampled_from([8, 15, 16, 31, 64, 200]),
    between=st.sampled_from([" ", "", "</b> <b>", ",", "+"]),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_word_of_the_peer_is_shown(
    parrot: Parrot,
    context: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    place: str,
    status: int,
    secret: str,
    jwt: str,
    said: str,
    start: int,
    size: int,
    between: str,
) -> None:
    """A relay, or who stands in its place, that repeats token, bearer, session and content, cut
    anywhere and taken apart in any way: no seven characters of them are in what is kept, logged,
    counted or written."""
    hidden = [secret, double_hash(secret), jwt, said]
    # Cut in the middle, so that no search for the whole can find it; and in pieces.
    whole = "+".join(each[start:] for each in hidden)
    words = between.join(whole[at : at + size] for at in range(0, len(whole), size))
    parrot.reply = echoed(place, status, words)
    for old in spool.outbox.segments.segment_names(tmp_path / "out", spool.outbox.DISK):
        (tmp_path / "out" / old).unlink()
    spool.post(tmp_path / "out", email="a@x", message_type=said, payload=said)
    caplog.clear()
    http.close_all()
    credentials = Credentials(parrot.url, Secret(secret))
    with caplog.at_level(logging.DEBUG):
        login = AuthenticateAction(credentials).execute(context)
        session = Session(Secret(jwt), 2e9, 2e9)
        http.close_all()
        access = Access(credentials, session, 7, "")
        outcome = SyncAction(access, str(tmp_path / "out"), str(tmp_path / "in")).execute(context)
    shown = [repr(login), str(login.problem), repr(outcome), caplog.text, repr(context.logged)]
    shown += [str(each.problem) for each in (outcome.push, outcome.pull)]
    shown += [prometheus_client.generate_latest().decode(), repr(http._transports)]
    for text in shown:
        for each in hidden:
            for at in range(len(each) - WINDOW + 1):
                assert each[at : at + WINDOW] not in text, (place, text)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (faults.nginx_502(), "nginx"),
        (faults.cloudflare_challenge(403), "Cloudflare"),
        (faults.zscaler_block(), "Zscaler"),
        (faults.bluecoat_block(), "Blue Coat"),
        (faults.fortinet_block(), "Fortinet"),
        (faults.captive_portal(), "a captive portal"),
    ],
)
def test_who_answered_is_told_from_a_list_of_our_own(fault: Any, told: str) -> None:
    """Enough to know whom to ask, in our words."""
    assert middlebox(fault.body, dict(fault.headers).get("Server", "")) == told


def test_a_page_is_told_by_its_size_and_by_who_it_looks_like(parrot: Parrot) -> None:
    """Scenario 46: whoever reads the reason knows whom to ask, also where nobody is recognised."""
    for body, told in (
        (b"<center>nginx</center>", "; looks like nginx"),
        (b"<p>" * 411 + b"x", ""),
    ):
        for status, kind in ((502, Kind.SERVER_ERROR), (200, Kind.UNKNOWN)):
            head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n"
            parrot.reply = head.encode() + body
            with pytest.raises(TransportError) as caught:
                HttpTransport(Relay(parrot.url)).pull(Secret("jwt"))
            want = f"HTTP {status} ({kind}): got an HTML page of {len(body):,} bytes{told}"
            assert caught.value.problem.text.startswith(want)


@pytest.mark.parametrize(
    "url",
    ["ada:hunter2@host/api", "http:/ada:hunter2@host", "ftp://host/?key=hunter2", "x#hunter2"],
)
def test_a_url_that_may_hold_a_password_is_refused_without_being_shown(url: str) -> None:
    """Also where it is so wrong that nothing in it is a user or a query."""
    with pytest.raises(ValueError, match="relay_url") as caught:
        address.check_relay_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://ada:hunter2@[::1", "http://hunter2：@h", "ftp://hunter2@h"]
)
def test_an_unusable_proxy_is_a_problem_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """What a parser says of a URL quotes it."""
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(TransportError) as caught:
        HttpTransport(Relay("http://relay.example.com/api")).pull(Secret("jwt"))
    assert "hunter2" not in repr(caught.value.problem)
    assert "proxy" in caught.value.problem.text
