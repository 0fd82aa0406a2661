"""What has changed since a reader last asked, over HTTP.

Knows: the query, the form of an answer; that the store's file may be read beside its writer.
Does not know: what documents say.
Invariants: the file is opened for reading only, in a thread, for one answer at a time: no reader
holds up the writer's tidying, and none waits on the event loop.
"""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.store.protocol import PAGE, News
from fsmv2.supervisor.store.sqlite import DamagedError, SaveError, SqliteStore
from fsmv2.supervisor.web.replies import error_reply, json_reply

LIMIT_MAX = 1_000


class ChangesRoute:
    """``/api/v1/changes`` of the store in the file ``path`` (empty: there is none)."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def changes(self, request: Request) -> Response:
        """The changes after counter ``since``; everything where those are not all there."""
        if not self._path:
            text = "cannot give changes: got a store in the root's memory, want store.kind sqlite"
            return error_reply(404, text)
        since, limit = (
            request.query_params.get(name, default)
            for name, default in (("since", "0"), ("limit", str(PAGE)))
        )
        # More digits than a counter has would not be a number of SQLite's.
        if not (since.isdecimal() and len(since) <= 18):
            return error_reply(400, f"cannot give changes: got since={since[:40]!r}, want a number")
        if not (limit.isdecimal() and len(limit) <= 9 and 1 <= int(limit) <= LIMIT_MAX):
            wanted = f"want 1 to {LIMIT_MAX}"
            return error_reply(400, f"cannot give changes: got limit={limit[:40]!r}, {wanted}")
        try:
            news = await asyncio.to_thread(self._read, int(since), int(limit))
        except (StartError, SaveError, DamagedError) as error:
            return error_reply(503, f"cannot give changes: {error}")
        return json_reply(_public(news))

    def _read(self, since: int, limit: int) -> News:
        store = SqliteStore(self._path, read_only=True)
        try:
            return store.changes(since, limit)
        finally:
            store.close()


def _public(news: News) -> News:
    """Without what only the next root has use for: results have no place in the API."""
    everything = news.snapshot
    if everything is None:
        return news
    replace = msgspec.structs.replace
    workers = {path: replace(one, resume=None) for path, one in everything.workers.items()}
    return replace(news, snapshot=replace(everything, workers=workers))
