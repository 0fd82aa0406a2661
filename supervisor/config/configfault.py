"""What is wrong with a config, and where.

Knows: how a fault is worded, which values must not be echoed, how a place inside a config is
written and found in the file.
Does not know: formats, types, workers.
Invariants: a value whose path looks like a credential's is never part of a message.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fsmv2.supervisor.core.errors import SpecError

SHOWN_CHARS_MAX = 60
_SECRET = re.compile(r"token|password|secret|key", re.IGNORECASE)
# The user and password of a URL.
_URL_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# What a value is, where it may be a secret.
_SORTS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
_LAST_PART = re.compile(r"(\.[^.\[\]]+|\[[^\[\]]*\]|^[^.\[\]]+)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. ``file`` is as the user gave it; ``line`` and ``column`` count
    from 1, None where the format does not tell; ``path`` is the place inside the config."""

    file: str | None
    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        file = self.file or ""
        if self.line is not None:
            file = f"{file}:{self.line}:{self.column or 1}"
        return ": ".join(part for part in (file, self.path, self.message) if part)


class ConfigError(SpecError):
    """A config that cannot be used. ``faults`` holds everything found, in the file's order;
    the text is one line per fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """By their place in the file. Stable: faults of a format without lines stay as they are."""
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0))


@dataclass(frozen=True, slots=True)
class Places:
    """Where each part of a config stands in its file: path to (line, column), from 1.

    ``Places()`` knows nothing and is good for a config that came from no file.
    """

    file: str | None = None
    marks: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def mark(self, path: str) -> tuple[int, int] | None:
        """The position of ``path``, or of the nearest part around it that has one."""
        while path and path not in self.marks:
            path = _LAST_PART.sub("", path, count=1) if _LAST_PART.search(path) else ""
        return self.marks.get(path)

    def fault(self, path: str, message: str, mark: tuple[int, int] | None = None) -> Fault:
        """A `Fault` at ``path``, or at ``mark`` where the path alone does not tell the line."""
        line, column = mark or self.mark(path) or (None, None)
        one_line = " ".join(message.split())
        return Fault(self.file, line, column, path, one_line)


def at_key(path: str, key: str) -> str:
    """The path of ``key`` inside the mapping at ``path``."""
    if not _PLAIN_KEY.fullmatch(key):
        shown = key if len(key) <= SHOWN_CHARS_MAX else f"{key[:SHOWN_CHARS_MAX]}…"
        return f"{path}[{shown!r}]"
    return f"{path}.{key}" if path else key


def is_secret(path: str) -> bool:
    """True when a value at ``path`` may be a credential and must not be echoed."""
    return _SECRET.search(path) is not None


def without_login(text: str) -> str:
    """``text`` without the user and password of the URLs in it."""
    return _URL_LOGIN.sub("…@", text)


def shown(value: Any, path: str) -> str:
    """``value`` as an error names it: short, and only its type where it may be a secret."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if is_secret(path):
        return _SORTS.get(type(value), f"a {type(value).__name__}")
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(without_login(value) if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


def hint(got: str, allowed: Iterable[str]) -> str:
    """ ", did you mean 'host'?" where one of ``allowed`` is near, else what is allowed. Of two
    letters nothing is near: "no" is half of "info", and means something else."""
    names = list(allowed)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.6) if len(got) > 2 else []
    if near:
        return f", did you mean {near[0]!r}?"
    return f", want one of {', '.join(names)}" if names else ""


def secret_texts(value: Any, path: str = "") -> tuple[str, ...]:
    """The texts inside ``value`` that stand under a key that looks like a credential's."""
    if isinstance(value, dict):
        parts = [secret_texts(item, f"{path}.{key}") for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [secret_texts(item, path) for item in value]
    elif isinstance(value, str) and len(value) >= 4 and is_secret(path):
        return (value,)
    else:
        return ()
    return tuple(text for part in parts for text in part)
