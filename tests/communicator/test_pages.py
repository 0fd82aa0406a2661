"""What counts as a page in the relay's place, over sockets: of a success its body alone tells."""

from __future__ import annotations

import gzip

import pytest
from problems import problem_of

from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault, captive_portal
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import http
from fsmv2.communicator.transport.codec import Message, decode_batch, encode_content
from fsmv2.communicator.transport.errors import Kind
from fsmv2.supervisor import Secret

HTML = (("Content-Type", "text/html; charset=utf-8"),)
JSON = (("Content-Type", "application/json"),)
PAGE = captive_portal().body
MESSAGE = Message(email="ada@example.com", content=encode_content("status", 1))
REPLY = b'{"UMHMessages":[{"umhInstance":"","email":"ada@example.com","content":"eyJ9"}]}'


def test_a_reply_that_is_called_a_page_is_not_lost(
    relay: Relay, client: http.HttpTransport, jwt: Secret
) -> None:
    """The relay has deleted what it says, so whatever it may be, if no tag, it is saved."""
    for body in (REPLY, b"", b"no JSON", b" \xef\xbb\xbf" + REPLY):
        relay.fault("pull", Fault(status=200, body=body, headers=HTML))
        assert client.pull(jwt) == body
    assert decode_batch(REPLY).messages[0].email == "ada@example.com"


@pytest.mark.parametrize("body", [b"OK", b"", b"{}", REPLY.replace(b"eyJ9", b"<html>")])
def test_a_push_that_was_taken_is_not_sent_again_for_the_type_of_the_answer(
    relay: Relay, client: http.HttpTransport, jwt: Secret, body: bytes
) -> None:
    relay.fault("push", Fault(status=200, body=body, headers=HTML, commit=True))
    client.push(jwt, [MESSAGE], DEMO_UUID)
    assert len(relay.pushed()) == 1


def test_a_login_is_one_whatever_its_answer_is_called(relay: Relay) -> None:
    headers = (("Set-Cookie", "token=eyJ.a.b; Path=/"), *HTML)
    body = f'{{"uuid":"{DEMO_UUID}","name":"press-shop-1"}}'.encode()
    relay.fault("login", Fault(status=200, body=body, headers=headers))
    login = http.transport_for(http.Relay(relay.url)).authenticate(Secret(DEMO_TOKEN))
    assert login.instance_uuid == DEMO_UUID


PAGES = {
    "bare": (PAGE, ()),
    "after blanks": (b"\r\n\t " * 1000 + PAGE, ()),
    "UTF-8 with its mark": (b"\xef\xbb\xbf\n" + PAGE, ()),
    "UTF-16, little end first": (b"\xff\xfe" + PAGE.decode().encode("utf-16-le"), ()),
    "UTF-16, big end first": (b"\xfe\xff" + PAGE.decode().encode("utf-16-be"), ()),
    "gzip": (gzip.compress(PAGE), (("Content-Encoding", "gzip"),)),
}


@pytest.mark.parametrize(("body", "headers"), PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("kind", [HTML, JSON], ids=["as a page", "as JSON"])
def test_a_page_is_one_whatever_it_is_called(
    relay: Relay,
    client: http.HttpTransport,
    jwt: Secret,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    kind: tuple[tuple[str, str], ...],
) -> None:
    """Scenarios 10 and 70: what blocks a push and calls it a success has taken nothing."""
    for endpoint in ("login", "push", "pull"):
        relay.fault(endpoint, Fault(status=200, body=body, headers=(*kind, *headers)))
    for problem in (
        problem_of(client.push, jwt, [MESSAGE], DEMO_UUID),
        problem_of(client.pull, jwt),
        problem_of(client.authenticate, Secret(DEMO_TOKEN)),
    ):
        assert (problem.kind, problem.status) == (Kind.UNKNOWN, 200)
        assert "an HTML page of" in problem.text


def test_what_came_packed_as_nobody_asked_is_a_page_by_its_type(
    relay: Relay, client: http.HttpTransport, jwt: Secret
) -> None:
    """For a push, which is asked again; what a pull brings is kept, for it may be the only one."""
    packed = b"\x1b\x2a\x00\xf8"
    for endpoint, kind in (("push", HTML), ("push", JSON), ("pull", HTML)):
        headers = (*kind, ("Content-Encoding", "br"))
        relay.fault(endpoint, Fault(status=200, body=packed, headers=headers), times=1)
        if endpoint == "pull":
            assert client.pull(jwt) == packed
        elif kind is HTML:
            assert problem_of(client.push, jwt, [MESSAGE], DEMO_UUID).kind is Kind.UNKNOWN
        else:
            client.push(jwt, [MESSAGE], DEMO_UUID)


@pytest.mark.parametrize("status", [301, 404, 413, 502])
def test_an_error_is_a_page_by_its_type_too(
    relay: Relay, client: http.HttpTransport, jwt: Secret, status: int
) -> None:
    """Then it is not the relay that has refused the message."""
    for headers, is_page in ((HTML, True), (JSON, False)):
        relay.fault("push", Fault(status=status, body=b"no", headers=headers))
        assert problem_of(client.push, jwt, [MESSAGE], DEMO_UUID).is_page is is_page
