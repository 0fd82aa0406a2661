"""Commands over HTTP: who may give one, its way to the root, what comes back.

Knows: the bearer token's digest, the commands that wait for their answer, status codes.
Does not know: the pool, descriptors, what a command does.
Invariants: nothing is sent without the token; at most `WAITING_MAX` commands wait, none longer
than its time; no request body is read; cookies count for nothing, so that a page of another
site, which cannot set the Authorization header, can give no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fsmv2.ipc.messages import (
    Command,
    CommandAnswered,
    ExplainWorker,
    ForceBreaker,
    Held,
    KillAction,
    ReleaseType,
    ReloadConfig,
)
from fsmv2.supervisor.config.access import HOW_TO_SET, is_token
from fsmv2.supervisor.core.breaker import FORCE_S, FORCE_S_MAX
from fsmv2.supervisor.web.replies import error_reply, json_reply

WAITING_MAX = 16
ANSWER_S_MAX = 5.0
# A config is checked for 10 s and more, and one check may be under way already.
RELOAD_S_MAX = 60.0
NAME_CHARS_MAX = 200
_ATTEMPT_ID_MAX = 2**63 - 1
# The body is not read; a connection with an unread body cannot be used again.
_CLOSE = {"connection": "close"}

FORCED: tuple[str, ...] = get_args(Held)

Send = Callable[[Command | ExplainWorker], bool]


class Refused(Exception):
    """A command that has no answer of the root, as a status code and a text."""

    def __init__(self, status_code: int, text: str) -> None:
        super().__init__(text)
        self.status_code = status_code


class Desk:
    """Commands on their way. ``send`` gives one to the root at once, or says False;
    ``token_digest`` is of the token they need (empty: none are taken); an answer may take
    ``timeout_s`` seconds."""

    def __init__(
        self,
        send: Send = lambda command: False,
        token_digest: bytes = b"",
        timeout_s: float = ANSWER_S_MAX,
    ) -> None:
        self._send = send
        self.token_digest = token_digest
        self._timeout_s = timeout_s
        self._number = 0
        self._waiting: dict[int, asyncio.Future[CommandAnswered]] = {}

    def __repr__(self) -> str:
        return f"<Desk {len(self._waiting)} commands wait>"

    async def ask(
        self, make: Callable[[int], Command | ExplainWorker], timeout_s: float | None = None
    ) -> CommandAnswered:
        """Send the command (or question) that ``make`` makes of a number, and wait for its answer,
        longer than usual if ``timeout_s`` says so.

        Raises `Refused` when too many wait, the root takes none, or its answer is late.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Refused(503, f"cannot send the command: {WAITING_MAX} wait already, try again")
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        self._number = number = self._number + 1
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            if not self._send(make(number)):
                raise Refused(503, "cannot send the command: the root takes none now")
            return await asyncio.wait_for(answer, wait_s)
        except TimeoutError:
            raise Refused(
                504,
                f"cannot say what became of the command: the root has not answered within "
                f"{wait_s:g} s; it may carry it out later",
            ) from None
        finally:
            del self._waiting[number]

    def take(self, answered: CommandAnswered) -> None:
        """An answer came. One that nobody waits for any more is dropped."""
        waiting = self._waiting.get(answered.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answered)


class CommandRoutes:
    """The POST routes. Each checks the token before it looks at anything else."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def kill(self, request: Request) -> Response:
        """Have an attempt killed: 202, its end is told by itself; 404 when it has ended."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        text = request.path_params["attempt_id"]
        is_number = text.isascii() and text.isdecimal() and len(text) < 20
        if not is_number or int(text) > _ATTEMPT_ID_MAX:
            return _reply(404, f"cannot kill action {text[:40]!r}: want its number, see fsmv2 tree")
        attempt_id, client = int(text), _client(request)
        try:
            answer = await self._desk.ask(lambda number: KillAction(number, client, attempt_id))
        except Refused as refused:
            return _reply(refused.status_code, str(refused))
        if answer.outcome != "done":
            why = (
                f"cannot kill action {attempt_id}: none of that number is in flight, see fsmv2 tree"
            )
            return _reply(404, why, answer)
        done = {"attempt_id": attempt_id, "action_type": answer.action_type, "path": answer.path}
        return json_reply({"outcome": "done", **done}, 202, _CLOSE)

    async def release(self, request: Request) -> Response:
        """Release an action type: 200; 409 when none of that name is in quarantine, or several."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        name, client = request.path_params["name"], _client(request)
        if len(name) > NAME_CHARS_MAX:
            return _reply(
                404, f"cannot release a type with a name of over {NAME_CHARS_MAX} characters"
            )
        try:
            answer = await self._desk.ask(lambda number: ReleaseType(number, client, name))
        except Refused as refused:
            return _reply(refused.status_code, str(refused))
        if answer.outcome == "ambiguous":
            return _reply(409, answer.detail, answer)
        if answer.outcome != "done":
            why = f"cannot release {name!r}: no action type of that name is in quarantine"
            return _reply(409, f"{why}, see fsmv2 status", answer)
        return json_reply({"outcome": "done", "action_type": name}, 200, _CLOSE)

    async def force(self, request: Request) -> Response:
        """Hold the infrastructure breaker open or closed for ``for_s`` seconds (of the query), or
        let it go by what is read again (``auto``): 200; 404 and 400 for what it cannot be."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        state, client = request.path_params["state"], _client(request)
        if state not in FORCED:
            want = f"want one of {', '.join(FORCED)}"
            return _reply(404, f"cannot hold the breaker {state[:40]!r}: {want}")
        text = request.query_params.get("for_s", str(FORCE_S))
        for_s = _seconds(text)
        if for_s is None:
            want = f"want more than 0 and at most {FORCE_S_MAX:g} seconds"
            return _reply(400, f"cannot hold the breaker for_s {text[:40]!r}: {want}")
        try:
            answer = await self._desk.ask(
                lambda number: ForceBreaker(number, client, cast(Held, state), for_s)
            )
        except Refused as refused:
            return _reply(refused.status_code, str(refused))
        if answer.outcome != "done":
            return _reply(409, answer.detail, answer)
        held_s = 0.0 if state == "auto" else for_s
        return json_reply({"outcome": "done", "state": state, "for_s": held_s}, 200, _CLOSE)

    async def reload(self, request: Request) -> Response:
        """Have the config read anew and taken over: 200 with what it did; 409 with its faults."""
        return await self._reload(request, dry=False)

    async def plan(self, request: Request) -> Response:
        """What a reload would do now: as `reload`, but nothing is taken over."""
        return await self._reload(request, dry=True)

    async def _reload(self, request: Request, dry: bool) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        client = _client(request)
        try:
            answer = await self._desk.ask(
                lambda number: ReloadConfig(number, client, dry), RELOAD_S_MAX
            )
        except Refused as refused:
            return _reply(refused.status_code, str(refused))
        told = {"outcome": answer.outcome, **msgspec.json.decode(answer.document or b"{}")}
        if answer.outcome != "done":
            return json_reply({"error": f"cannot reload: {answer.detail}", **told}, 409, _CLOSE)
        return json_reply(told, 200, _CLOSE)

    def _refusal(self, request: Request) -> Response | None:
        if not self._desk.token_digest:
            return _reply(403, f"cannot take commands: no token is set; {HOW_TO_SET}")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and is_token(token.strip(), self._desk.token_digest):
            return None
        got = "another one" if token else "none"
        text = f"cannot take the command: want the header Authorization: Bearer TOKEN, got {got}"
        return error_reply(401, text, {**_CLOSE, "www-authenticate": 'Bearer realm="fsmv2"'})


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= FORCE_S_MAX else None


def _client(request: Request) -> str:
    return f"{request.client.host}:{request.client.port}" if request.client else "unknown"


def _reply(status_code: int, text: str, answer: CommandAnswered | None = None) -> Response:
    outcome = {} if answer is None else {"outcome": answer.outcome}
    return json_reply({"error": text, **outcome}, status_code, _CLOSE)
