"""A bare HTTP client for the relay stand-in, and a clock that is moved by hand."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import encode_content
from fsmv2.communicator.transport.token import double_hash

WAIT_S = 20.0
BEARER = {"Authorization": f"Bearer {double_hash(DEMO_TOKEN)}"}


class Clock:
    """Epoch seconds that pass when told to."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Got(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """A bare HTTP client on one connection: no retries, no redirects, no opinions."""

    def __init__(self, relay: Relay | str, tls: ssl.SSLContext | None = None) -> None:
        url = relay if isinstance(relay, str) else relay.url
        host = url.partition("://")[2].partition("/")[0]
        self.connection = (
            http.client.HTTPConnection(host, timeout=WAIT_S)
            if tls is None
            else http.client.HTTPSConnection(host, timeout=WAIT_S, context=tls)
        )
        self.cookie: dict[str, str] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Got:
        self.connection.request(method, path, body, {**self.cookie, **(headers or {})})
        response = self.connection.getresponse()
        return Got(response.status, response.headers, response.read())

    def log_in(self, headers: dict[str, str] = BEARER) -> Got:
        got = self.ask("POST", "/api/v2/instance/login", b"", headers)
        if got.status == 200:
            self.cookie = {"Cookie": got.headers["Set-Cookie"].partition(";")[0]}
        return got

    def pull(self, **headers: str) -> Got:
        return self.ask("GET", "/api/v2/instance/pull", headers=headers)

    def push(self, *payloads: Any, instance: str = DEMO_UUID) -> Got:
        listed = [
            {"umhInstance": instance, "email": "a@x", "content": encode_content("status", payload)}
            for payload in payloads
        ]
        return self.push_raw(*listed)

    def push_raw(self, *listed: dict[str, Any]) -> Got:
        body = json.dumps({"UMHMessages": listed}).encode()
        return self.ask("POST", "/api/v2/instance/push", body)


@contextmanager
def calling(relay: Relay | str, tls: ssl.SSLContext | None = None) -> Iterator[Caller]:
    caller = Caller(relay, tls)
    with closing(caller.connection):
        yield caller
