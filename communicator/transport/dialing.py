"""One connection to a host that may have several addresses, within one budget of time.

Knows: resolving, sockets that connect side by side.
Does not know: TLS, proxies, HTTP, the HTTP client, whose budget it is.
Invariants: all addresses together have the budget; each gets its turn within it, and an attempt
that was begun goes on until it fails, another has won or the budget is over, so that neither a dead
first address nor the number of them keeps a slow living one from answering; of the sockets that it
opens at most one is left open, the one that it returns.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# An address that has not answered for so long gets company.
HEAD_START_S = 0.25


class Address(NamedTuple):
    """One of a host's, as a socket wants it."""

    family: int
    place: Any


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of ``host``, the system's first choice first. Raises `socket.gaierror`, and
    `UnicodeError` for what can be no name."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return [Address(family, place) for family, _, _, _, place in found]


def connect(
    addresses: Sequence[Address], within_s: float, options: Iterable[tuple[int, int, int]] = ()
) -> socket.socket:
    """A blocking socket to the first of ``addresses`` that answers.

    Raises `TimeoutError` where some were still silent at the end, else the last one's `OSError`.
    """
    ends_at = time.monotonic() + within_s
    waiting = deque(addresses)
    fault = OSError(errno.EADDRNOTAVAIL, "no address")
    with selectors.DefaultSelector() as begun:
        try:
            while waiting or begun.get_map():
                left_s = ends_at - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError("no address has answered in time")
                turn_s = left_s
                if waiting:
                    turn_s = min(HEAD_START_S, left_s / len(waiting))
                    try:
                        begun.register(_begin(waiting.popleft(), options), selectors.EVENT_WRITE)
                    except OSError as error:
                        fault = error
                        continue
                for key, _ in begun.select(turn_s):
                    sock: Any = key.fileobj
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    begun.unregister(sock)
                    if not code:
                        sock.setblocking(True)
                        return sock  # type: ignore[no-any-return]
                    sock.close()
                    fault = OSError(code, os.strerror(code))
        finally:
            for key in list(begun.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    raise fault


def _begin(address: Address, options: Iterable[tuple[int, int, int]]) -> socket.socket:
    """A socket that is about to be connected; raises `OSError` where that is hopeless."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.setblocking(False)
        code = sock.connect_ex(address.place)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
