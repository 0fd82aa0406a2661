"""Asks a running supervisor, and gives it commands.

Knows: HTTP, when an answer is one of ours.
Does not know: what is asked, how an answer reads on a terminal.
Invariants: one request, one limit of time for all of it, a bounded answer; no proxy stands between
us and loopback; no redirect is followed, a token goes nowhere else; an answer that has not the
shape of ours is nobody's success, and its words reach the terminal short, on one line, without
control characters and without the token.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from fsmv2.supervisor.commandline.address import Address, address_of
from fsmv2.supervisor.commandline.shown import printable
from fsmv2.supervisor.core.secret import Secret

ANSWER_BYTES_MAX = 64 << 20
QUOTED_CHARS_MAX = 60
ERROR_CHARS_MAX = 100_000
WAIT_S = 5.0


class RefusedError(Exception):
    """The supervisor was asked and says no: its own words."""


class _Ask(NamedTuple):
    address: Address
    method: str
    path: str
    token: Secret | None
    wait_s: float

    def clean(self, text: str, chars_max: int) -> str:
        """What came back, fit for a terminal."""
        if self.token is not None:
            text = text.replace(self.token.reveal(), "(the token)")
        text = printable(" ".join(text[: 4 * chars_max].split()))
        return text if len(text) <= chars_max else f"{text[:chars_max]}…"

    def foreign(self, got: str, want: str = "") -> OSError:
        """Somebody else lives there."""
        asked = f"{self.method} {self.path.partition('?')[0]}"
        want = want or f"what fsmv2 answers to {asked}"
        return OSError(f"no fsmv2 supervisor answers at {self.address.url}: got {got}, want {want}")


class _Came(NamedTuple):
    status: int
    kind: str
    body: bytes


def fetch(listen: str, path: str, shape: Any) -> Any:
    """The JSON document at ``path`` of the supervisor at ``listen``, of the type ``shape``.

    Raises OSError with a clear text when nobody answers, or not with such a document; `SpecError`
    when ``listen`` is no address. So do the others.
    """
    try:
        return question(listen, path, WAIT_S, shape)
    except RefusedError as refused:
        raise OSError(f"cannot ask {address_of(listen).url}{path}: {refused}") from None


def question(listen: str, path: str, wait_s: float, shape: Any) -> Any:
    """Ask the supervisor at ``listen`` what is at ``path``; `RefusedError` when it says no."""
    return _answer(_Ask(address_of(listen), "GET", path, None, wait_s), shape)


def command(
    listen: str, path: str, token: Secret, wait_s: float, shape: Any, **confirmed: object
) -> Any:
    """Give the command at ``path`` to the supervisor at ``listen``; what it answers, in which the
    keys ``confirmed`` have to say what was asked.

    Raises `RefusedError` when it refuses.
    """
    ask = _Ask(address_of(listen), "POST", path, token, wait_s)
    answer = _answer(ask, shape)
    for key, value in confirmed.items():
        if answer[key] != value:
            raise ask.foreign(
                f"{key}: {ask.clean(repr(answer[key]), QUOTED_CHARS_MAX)}", f"{key}: {value!r}"
            )
    return answer


def _answer(ask: _Ask, shape: Any) -> Any:
    came = _exchange(ask)
    if len(came.body) > ANSWER_BYTES_MAX:
        raise ask.foreign(f"over {ANSWER_BYTES_MAX} bytes")
    if 200 <= came.status < 300:
        return _document(ask, came, shape)
    why = _error_text(ask, came)
    if not why:
        quoted = ask.clean(came.body[:1_000].decode("utf-8", "replace"), QUOTED_CHARS_MAX)
        raise ask.foreign(f"HTTP {came.status} {quoted!r}")
    if came.status >= 500:
        raise OSError(why)
    raise RefusedError(why)


def _document(ask: _Ask, came: _Came, shape: Any) -> Any:
    try:
        document = msgspec.json.decode(came.body)
        msgspec.convert(document, shape)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        is_json = isinstance(error, msgspec.ValidationError)
        why = f" ({ask.clean(str(error), QUOTED_CHARS_MAX)})" if is_json else ""
        kind = ask.clean(came.kind, QUOTED_CHARS_MAX) or "no content type"
        quoted = ask.clean(came.body[:1_000].decode("utf-8", "replace"), QUOTED_CHARS_MAX)
        raise ask.foreign(f"{quoted!r} as {kind}{why}") from None
    return document


def _error_text(ask: _Ask, came: _Came) -> str:
    try:
        document = msgspec.json.decode(came.body)
        text = document["error"]
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return ask.clean(text, ERROR_CHARS_MAX) if isinstance(text, str) else ""


def _exchange(ask: _Ask) -> _Came:
    try:
        return _within(ask)
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise OSError(
            f"cannot ask the supervisor at {ask.address.url}: {ask.clean(why, 200)}; "
            "is it running? name its address with --http HOST:PORT"
        ) from None
    except (ValueError, http.client.HTTPException) as error:
        quoted = ask.clean(str(error).strip("'"), QUOTED_CHARS_MAX)
        raise ask.foreign(repr(quoted), "HTTP") from None


def _within(ask: _Ask) -> _Came:
    """The exchange in a thread, for no timeout of a socket bounds it: names are looked up without
    one, and an answer may come a byte at a time."""
    outcome: queue.SimpleQueue[_Came | Exception] = queue.SimpleQueue()
    opened: list[socket.socket] = []

    def work() -> None:
        try:
            outcome.put(_send(ask, opened.append))
        except Exception as error:  # raised again where it is waited for
            outcome.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        found = outcome.get(timeout=ask.wait_s)
    except queue.Empty:
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        late = "; it may have done all the same what it was told" if ask.token else ""
        raise TimeoutError(f"no whole answer within {ask.wait_s:g} s{late}") from None
    if isinstance(found, Exception):
        raise found
    return found


def _send(ask: _Ask, opened: Callable[[socket.socket], None]) -> _Came:
    tls = ask.address.scheme == "https"
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    connection = kind(ask.address.host, ask.address.port, timeout=ask.wait_s)
    headers = {"Connection": "close"}
    if ask.token is not None:
        headers["Authorization"] = f"Bearer {ask.token.reveal()}"
    try:
        connection.connect()
        opened(connection.sock)
        body = None if ask.method == "GET" else b""
        connection.request(ask.method, ask.path, body=body, headers=headers)
        answer = connection.getresponse()
        came = answer.read(ANSWER_BYTES_MAX + 1)
    finally:
        connection.close()
    return _Came(answer.status, answer.getheader("content-type", ""), came)
