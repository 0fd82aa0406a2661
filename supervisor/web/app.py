"""The routes: what can be asked over HTTP, and the headers of every answer.

Knows: starlette, paths, status codes, who may ask.
Does not know: sockets, signals, where documents come from.
Invariants: nothing changes but by a POST with the token (`commands`); an answer is never cached,
never framed, and a page from another name (DNS rebinding) gets none; errors are JSON.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsmv2.supervisor.core.runbooks import PAGES
from fsmv2.supervisor.telemetry.runbookpages import read_page
from fsmv2.supervisor.web.changes import ChangesRoute
from fsmv2.supervisor.web.commands import CommandRoutes, Desk
from fsmv2.supervisor.web.exposition import Exposition
from fsmv2.supervisor.web.questions import QuestionRoutes
from fsmv2.supervisor.web.replies import error_reply, json_reply
from fsmv2.supervisor.web.state import (
    ALIVE_S_MAX,
    Listener,
    PublishedState,
    actions_in_flight,
    find_worker,
    quarantined_types,
)

PING_S = 15.0
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><g fill="none" '
    'stroke="#2f9e6e" stroke-width="3"><path d="M16 9v6M16 15 8 22M16 15l8 7"/></g>'
    '<g fill="#2f9e6e"><circle cx="16" cy="7" r="4"/><circle cx="7" cy="24" r="4"/>'
    '<circle cx="25" cy="24" r="4"/></g></svg>'
)
_FOLDER = Path(__file__).parent
Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    state: PublishedState,
    exposition: Exposition,
    host: str,
    clock: Callable[[], float],
    ping_s: float = PING_S,
    desk: Desk | None = None,
    store_file: str = "",
) -> ASGIApp:
    """The whole application. ``host`` is the address it is bound to, ``clock`` gives
    monotonic seconds, ``ping_s`` is the time between two comments on a silent event stream,
    ``desk`` takes the commands (None: there are none), ``store_file`` is where the store is
    (empty: in no file)."""
    routes = _Routes(state, exposition, clock, ping_s)
    desk = desk or Desk()
    commands, questions = CommandRoutes(desk), QuestionRoutes(desk)
    files = {
        "/": _file("page.html", "text/html; charset=utf-8"),
        "/page.css": _file("page.css", "text/css; charset=utf-8"),
        "/page.js": _file("page.js", "text/javascript; charset=utf-8"),
        "/explain.js": _file("explain.js", "text/javascript; charset=utf-8"),
        "/icon.svg": _constant(_ICON.encode(), "image/svg+xml"),
    }
    app = Starlette(
        routes=[
            *(Route(path, endpoint) for path, endpoint in files.items()),
            Route("/runbooks/{page}", _runbook),
            Route("/metrics", routes.metrics),
            Route("/livez", routes.livez),
            Route("/readyz", routes.readyz),
            Route("/api/v1/tree", routes.tree),
            Route("/api/v1/status", routes.status),
            Route("/api/v1/workers/{path:path}", routes.worker),
            Route("/api/v1/explain/{path:path}", questions.explain),
            Route("/api/v1/actions", routes.actions),
            Route("/api/v1/actions/{attempt_id}/kill", commands.kill, methods=["POST"]),
            Route("/api/v1/action-types/{name}/release", commands.release, methods=["POST"]),
            Route("/api/v1/breaker/{state}", commands.force, methods=["POST"]),
            Route("/api/v1/reload", commands.reload, methods=["POST"]),
            Route("/api/v1/plan", commands.plan, methods=["POST"]),
            Route("/api/v1/readings", routes.readings),
            Route("/api/v1/events", routes.events),
            Route("/api/v1/changes", ChangesRoute(store_file).changes),
        ],
        exception_handlers={HTTPException: _on_http_error, Exception: _on_error},
    )
    return Guard(app, allowed_hosts(host))


def allowed_hosts(host: str) -> frozenset[str]:
    """The Host names that are answered when bound to ``host``; empty: all of them.

    A page of another site can make its own name point at 127.0.0.1; its requests then carry
    that name, and nothing else tells them from ours.
    """
    try:
        if not ipaddress.ip_address(host).is_loopback:
            return frozenset()
    except ValueError:
        return frozenset()
    written = f"[{host}]" if ":" in host else host
    return frozenset({"localhost", "127.0.0.1", "[::1]", written})


class Guard:
    """Checks the Host header and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        if self._hosts and _without_port(host.decode("latin-1")) not in self._hosts:
            wanted = ", ".join(sorted(self._hosts))
            refusal = error_reply(
                421, f"cannot answer for host {host[:80]!r}: want one of {wanted}"
            )
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


class _Routes:
    def __init__(
        self,
        state: PublishedState,
        exposition: Exposition,
        clock: Callable[[], float],
        ping_s: float,
    ) -> None:
        self._state = state
        self._exposition = exposition
        self._clock = clock
        self._ping_s = ping_s

    async def metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        # In a thread: reading all files takes longer than an event may wait.
        body, content_type = await asyncio.to_thread(self._exposition.render, accept)
        return Response(body, headers={"content-type": content_type})

    async def livez(self, _: Request) -> Response:
        age_s = self._state.age_s(self._clock())
        if self._state.is_alive(self._clock()):
            return json_reply({"status": "alive", "last_word_s": round(age_s or 0.0, 3)})
        return json_reply({"status": "dead", "reason": _silence(age_s), "last_word_s": age_s}, 503)

    async def readyz(self, _: Request) -> Response:
        now = self._clock()
        status = self._state.status_document()
        if not self._state.is_alive(now):
            return json_reply({"ready": False, "reason": _silence(self._state.age_s(now))}, 503)
        if status is None:
            return json_reply({"ready": False, "reason": "no status came yet"}, 503)
        ready = status.get("ready") is True
        return json_reply(
            {"ready": ready, "reason": status.get("reason", "")}, 200 if ready else 503
        )

    async def tree(self, _: Request) -> Response:
        return self._dated(self._state.tree, self._state.tree_document, {})

    async def status(self, _: Request) -> Response:
        silence = _silence(self._state.age_s(self._clock()))
        not_ready = {"ready": False, "reason": silence}
        return self._dated(self._state.status, self._state.status_document, not_ready)

    def _dated(
        self,
        body: bytes | None,
        parsed: Callable[[], dict[str, Any] | None],
        instead: dict[str, Any],
    ) -> Response:
        """A document of the root; of one that is silent with the age of its last word, and with
        what no longer holds put ``instead``."""
        now = self._clock()
        document = None if self._state.is_alive(now) else parsed()
        if document is None:
            return _document(body)
        age_s = round(self._state.age_s(now) or 0.0, 3)
        return json_reply({**document, **instead, "last_word_s": age_s})

    async def readings(self, _: Request) -> Response:
        return _document(self._state.readings)

    async def worker(self, request: Request) -> Response:
        path = request.path_params["path"].strip("/")
        tree = self._state.tree_document()
        if tree is None:
            return _document(None)
        found, nearest = find_worker(tree, path)
        if found is not None:
            return json_reply(found)
        names = [child["name"] for child in nearest.get("children") or ()]
        below = f"want one of {', '.join(names[:20])} below it" if names else "it has no children"
        text = f"cannot find worker {path!r}: the nearest is {nearest['path']!r}, {below}"
        return json_reply({"error": text, "nearest": nearest["path"], "children": names}, 404)

    async def actions(self, _: Request) -> Response:
        tree, status = self._state.tree_document(), self._state.status_document()
        if tree is None:
            return _document(None)
        return json_reply(
            {
                "in_flight": actions_in_flight(tree),
                "recent": (status or {}).get("recent", []),
                "quarantined": quarantined_types(status or {}),
            }
        )

    async def events(self, request: Request) -> Response:
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        if request.method == "HEAD":
            return Response(headers=headers)
        asked = request.headers.get("last-event-id", "")
        listener = self._state.listen(int(asked) if asked.isdecimal() else None)
        if listener is None:
            return error_reply(503, "cannot open an event stream: too many are open")
        return StreamingResponse(self._stream(listener), headers=headers)

    async def _stream(self, listener: Listener) -> AsyncIterator[bytes]:
        try:
            yield b"retry: 2000\n\n"
            while True:
                items = await listener.take(self._ping_s)
                if items is None:
                    return
                if not items:
                    yield b": ping\n\n"
                    continue
                yield b"".join(_event_text(item.seq, item.kind, item.body) for item in items)
        finally:
            self._state.forget(listener)


async def _runbook(request: Request) -> Response:
    page = request.path_params["page"]
    text = read_page(page)
    if text is None:
        return error_reply(404, f"no runbook {page[:80]!r}, want one of {', '.join(PAGES)}")
    # As plain text, which every browser shows.
    return Response(text, headers={"content-type": "text/plain; charset=utf-8"})


def _event_text(seq: int | None, kind: str, body: bytes) -> bytes:
    number = b"" if seq is None else b"id: %d\n" % seq
    name = b"" if not kind else b"event: %s\n" % kind.encode()
    return number + name + b"data: " + body + b"\n\n"


def _silence(age_s: float | None) -> str:
    if age_s is None:
        return "the root has not said anything yet"
    return f"the root has been silent for {age_s:.0f} s, want at most {ALIVE_S_MAX:.0f} s"


def _document(body: bytes | None) -> Response:
    if body is None:
        return error_reply(503, "no document from the root yet")
    return Response(body, media_type="application/json")


async def _on_http_error(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(getattr(error, "headers", None) or {})
    wanted = " or ".join(sorted(name.strip() for name in headers.get("Allow", "").split(",")))
    texts = {
        404: f"nothing at {request.url.path}, want /, /metrics, /livez, /readyz or /api/v1/…",
        405: f"cannot {request.method} {request.url.path}: want {wanted}",
    }
    return error_reply(code, texts.get(code, str(error)), headers)


async def _on_error(_: Request, error: Exception) -> Response:
    return error_reply(500, f"cannot answer: {type(error).__name__}")


def _file(name: str, content_type: str) -> Handler:
    return _constant((_FOLDER / name).read_bytes(), content_type)


def _constant(body: bytes, content_type: str) -> Handler:
    async def endpoint(_: Request) -> Response:
        return Response(body, headers={"content-type": content_type})

    return endpoint
