"""Reads one file of the kernel, or says why not.

Knows: how a file of the kernel is read, what may go wrong with it.
Does not know: which files there are.
Invariants: what is wrong is told with the file's name, and breaks one claim only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from fsmv2.supervisor.core.readings import Claim

BYTES_MAX = 1 << 20
Parsed = TypeVar("Parsed")


class Unreadable(Exception):
    """A file that does not say what it should; the text says which and why."""


def parsed(path: str, parse: Callable[[str], Parsed]) -> Parsed:
    """What ``parse`` makes of the file's text. Raises `Unreadable`."""
    try:
        with open(path, "rb") as file:
            text = file.read(BYTES_MAX).decode("utf-8", "replace")
        return parse(text)
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except (ValueError, IndexError) as error:
        raise Unreadable(f"cannot use {path}: {error}") from None


def claimed(scope: str, source: str, read: Callable[[], tuple[float, float | None]]) -> Claim:
    """The claim of what ``read`` gives as used and limit, or why it gives nothing."""
    try:
        used, limit = read()
    except Unreadable as why:
        return Claim(scope=scope, source=source, missing=str(why))
    return Claim(scope=scope, source=source, used=used, limit=limit)
