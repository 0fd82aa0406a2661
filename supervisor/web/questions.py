"""Questions to the root over HTTP, which anybody may ask who may read.

Knows: how many may wait, how fast they are passed on, status codes.
Does not know: what the answers say, how they are found.
Invariants: one question is on its way at a time, and `PAUSE_S` lies between two, so that readers
cost the root a bounded share of its time; nothing is sent that does not fit one write to a pipe; no
reader keeps a command from its place.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from fsmv2.ipc.messages import ExplainWorker
from fsmv2.supervisor.web.commands import Desk, Refused
from fsmv2.supervisor.web.replies import error_reply

WAITING_MAX = 16
PAUSE_S = 0.010
PATH_BYTES_MAX = 3_000


class QuestionRoutes:
    """The routes that ask the root, by the same ``desk`` as commands."""

    def __init__(self, desk: Desk, pause_s: float = PAUSE_S) -> None:
        self._desk = desk
        self._pause_s = pause_s
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._next_at = 0.0

    async def explain(self, request: Request) -> Response:
        """Why a worker is as it is: 200; 404 names the nearest one there is."""
        path = request.path_params["path"].strip("/")
        if len(path.encode("utf-8", "replace")) > PATH_BYTES_MAX:
            return error_reply(404, f"cannot explain a path of over {PATH_BYTES_MAX} bytes")
        if self._waiting >= WAITING_MAX:
            return error_reply(503, f"cannot explain: {WAITING_MAX} questions wait, try again")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._ask(path)
        finally:
            self._waiting -= 1

    async def _ask(self, path: str) -> Response:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next_at - loop.time()))
        try:
            answer = await self._desk.ask(lambda number: ExplainWorker(number, path))
        except Refused as refused:
            why = "the root does not answer, see /livez"
            return error_reply(refused.status_code, f"cannot explain {path!r}: {why}")
        finally:
            self._next_at = loop.time() + self._pause_s
        status = 200 if answer.outcome == "done" else 404
        return Response(answer.document, status, media_type="application/json")
