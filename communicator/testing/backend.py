"""The relay's side of the wire protocol, in memory.

Knows: instances, tokens, queues, the ledger of pushes, and the answer to every request.
Does not know: sockets, threads, faults.
Invariants: the rules of communicator-wire.md section 8: a pull is destructive and first in,
first out; a push is all or nothing; nothing is answered to a token that is missing, unknown,
expired or revoked; the keys of a push are read as they are written, unlike those of a pull. What
a content says is nobody's business here: a push is not refused for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import uuid as uuids
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from fsmv2.communicator.transport.codec import (
    CodecError,
    Message,
    decode_batch,
    decode_content,
    encode_content,
)
from fsmv2.communicator.transport.token import double_hash

DEMO_TOKEN = "demo-token-1"
DEMO_UUID = "3f0c6d0e-5a53-4e0b-9d4e-2f6a7b1c9e10"
DEMO_NAME = "press-shop-1"


class Answer(NamedTuple):
    """What a request is answered with; ``headers`` without lengths."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger: a message as it arrived. ``content_hash`` counts duplicates."""

    arrival: int
    batch: int
    instance_uuid: str
    email: str
    message_type: str
    payload: Any
    content: str
    content_hash: str
    at: float = 0.0
    trace_id: str = ""


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    trace_id: str = msgspec.field(default="", name="traceId")


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A message as it has to be written, to the letter."""

    umh_instance: str = msgspec.field(name="umhInstance")
    email: str
    content: str
    trace_id: str = msgspec.field(default="", name="traceId")
    metadata: _Metadata | None = None


class _PushBody(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[_Envelope] = msgspec.field(name="UMHMessages")


class Instance:
    """One registered instance; its queue holds what waits to be pulled."""

    def __init__(self, token: str, uuid: str, name: str) -> None:
        self.hashed = double_hash(token).encode()
        self.uuid = uuid
        self.name = name
        self.deleted = False
        self.queue: deque[dict[str, Any]] = deque()

    def __repr__(self) -> str:
        return f"<Instance {self.name} {self.uuid}, {len(self.queue)} waiting>"


class Backend:
    """The state behind the three paths. Not thread-safe: its owner holds the lock.

    ``token_life_s`` seconds is what a JWT lives; ``pull_messages_max`` bounds one reply;
    ``long_poll_s`` is how long a pull waits for messages if its header asks for it. A push of
    more than ``push_bytes_max`` bytes is 413, one with a message that ``poison`` is true of is 400.
    """

    def __init__(self, clock: Callable[[], float], token_life_s: float) -> None:
        self.clock = clock
        self.token_life_s = token_life_s
        self.pull_messages_max = 1000
        self.long_poll_s = 0.0
        self.push_bytes_max: int | None = None
        self.poison: Callable[[Pushed], bool] | None = None
        self.login_body: bytes | None = None
        self.idle_status = 200
        self.instances: list[Instance] = []
        self.ledger: list[Pushed] = []
        self.counts = {"logins": 0, "pulls": 0, "pushes": 0, "refused": 0}
        self._tokens: dict[str, tuple[Instance, float]] = {}
        self._batches = itertools.count()
        self._serials = itertools.count(1)

    def add_instance(self, token: str, uuid: str, name: str) -> Instance:
        """Register an instance under the double hash of ``token``."""
        instance = Instance(token, uuid, name)
        self.instances.append(instance)
        return instance

    def revoke_tokens(self) -> None:
        """Every token issued so far is refused from now on."""
        self._tokens.clear()

    def queue(self, instance: Instance, email: str, message_type: str, payload: Any) -> None:
        """A console's message for ``instance``; the trace id is nested, as old relays send it."""
        instance.queue.append(
            {
                "umhInstance": instance.uuid,
                "email": email,
                "content": encode_content(message_type, payload, compress=False),
                "metadata": {"traceId": str(uuids.uuid4())},
            }
        )

    def login(self, headers: Mapping[str, str]) -> Answer:
        """``POST /v2/instance/login``."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            return self._refuse(401, "no bearer")
        said = bearer.encode()  # as text it would have to be ASCII
        known = (one for one in self.instances if hmac.compare_digest(one.hashed, said))
        instance = next(known, None)
        if instance is None:
            return self._refuse(401, "unknown instance")
        if instance.deleted:
            return self._refuse(404, "instance deleted")
        self.counts["logins"] += 1
        jwt = self._issue(instance)
        body = self.login_body
        if body is None:
            body = msgspec.json.encode({"uuid": instance.uuid, "name": instance.name})
        cookie = ("Set-Cookie", f"token={jwt}; Path=/; HttpOnly")
        return Answer(200, body, (("Content-Type", "application/json"), cookie))

    def pull(self, headers: Mapping[str, str]) -> Answer:
        """``GET /v2/instance/pull``: what it returns is gone from the queue."""
        instance = self._caller(headers)
        if isinstance(instance, Answer):
            return instance
        self.counts["pulls"] += 1
        taken = [
            instance.queue.popleft()
            for _ in range(min(len(instance.queue), self.pull_messages_max))
        ]
        if not taken and self.idle_status == 204:
            return Answer(204, b"", ())
        return Answer(200, msgspec.json.encode({"UMHMessages": taken}))

    def push(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """``POST /v2/instance/push``: the whole batch or nothing."""
        instance = self._caller(headers)
        if isinstance(instance, Answer):
            return instance
        if self.push_bytes_max is not None and len(body) > self.push_bytes_max:
            return self._refuse(413, "too large")
        messages = _read_push(body)
        if messages is None:
            return self._refuse(400, "bad body")
        if any(message.umh_instance != instance.uuid for message in messages):
            return self._refuse(403, "umhInstance is not the caller")
        batch, first, at = next(self._batches), len(self.ledger), self.clock()
        entries = [_entry(each, first + index, batch, at) for index, each in enumerate(messages)]
        if self.poison is not None and any(map(self.poison, entries)):
            return self._refuse(400, "bad message")
        self.counts["pushes"] += 1
        self.ledger += entries
        return Answer(200, b"{}")

    def waits_for_messages(self, headers: Mapping[str, str]) -> bool:
        """Whether a pull with these headers is held until there is something to tell."""
        instance = self._caller(headers, counted=False)
        asked = "longpoll" in headers.get("x-features", "").replace(" ", "").split(";")
        return asked and isinstance(instance, Instance) and not instance.queue

    def _caller(self, headers: Mapping[str, str], counted: bool = True) -> Instance | Answer:
        for part in headers.get("cookie", "").split(";"):
            name, _, jwt = part.strip().partition("=")
            if name == "token" and jwt in self._tokens:
                instance, expires_at = self._tokens[jwt]
                if self.clock() >= expires_at:
                    break
                if not instance.deleted:
                    return instance
                return self._refuse(404, "instance deleted", counted)
        return self._refuse(401, "unauthorized", counted)

    def _issue(self, instance: Instance) -> str:
        now = self.clock()
        expires_at = now + self.token_life_s
        parts: tuple[dict[str, Any], ...] = (
            {"alg": "HS256", "typ": "JWT"},
            {"sub": instance.uuid, "iat": now, "exp": expires_at, "jti": next(self._serials)},
        )
        signed = ".".join(_base64url(msgspec.json.encode(part)) for part in parts)
        signature = hmac.new(b"stand-in", signed.encode(), hashlib.sha256).digest()
        jwt = f"{signed}.{_base64url(signature)}"
        self._tokens[jwt] = (instance, expires_at)
        return jwt

    def _refuse(self, status: int, why: str, counted: bool = True) -> Answer:
        self.counts["refused"] += counted
        return Answer(status, msgspec.json.encode({"error": why}))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _read_push(body: bytes) -> tuple[Message, ...] | None:
    """The messages of a push; None where anything in it is not as it has to be written."""
    try:
        batch = decode_batch(body)  # first: it bounds what is made into objects
        msgspec.json.decode(body, type=_PushBody)
    except (CodecError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return batch.messages if not batch.unreadable else None


def _entry(message: Message, arrival: int, batch: int, at: float) -> Pushed:
    try:
        message_type, payload = decode_content(message.content)
    except CodecError:
        message_type, payload = "", None
    return Pushed(
        arrival=arrival,
        batch=batch,
        instance_uuid=message.umh_instance,
        email=message.email,
        message_type=message_type,
        payload=payload,
        content=message.content,
        content_hash=hashlib.sha256(message.content.encode()).hexdigest(),
        at=at,
        trace_id=message.trace_id,
    )
