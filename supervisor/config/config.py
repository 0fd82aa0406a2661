"""Reads a config file: text to `Settings`, or every fault at once.

YAML is read as the 1.2 core schema says: only ``true`` and ``false`` are booleans, so that
``listen: off`` and a country ``NO`` stay texts, and ``22:30`` is no number. All three formats
give equal settings for equal data.

Knows: the formats, their limits, the marks of YAML. The one file of ours that knows PyYAML.
Does not know: whether names, types, templates and plug-ins are usable (`configcheck`,
`plugins`).
Invariants: only `ConfigError` is raised for what a file holds; a key given twice, an unknown
key and a number no channel can carry are refused; an alias cannot blow a small file up.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from fsmv2.supervisor.config.configfault import ConfigError, Fault, Places, at_key, in_order
from fsmv2.supervisor.config.configwalk import decode_wire_type, describe, misfits
from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.location import standard_levels

__all__ = ["ConfigError", "Fault", "Format", "Places", "load_settings", "load_text", "read_config"]

Mark = tuple[int, int]  # line and column, from 1
Format = Literal["yaml", "json", "toml"]
FILE_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 64
TOO_DEEP = f"nested too deep, want at most {DEPTH_MAX} levels"
VALUES_MAX = 100_000
ALIASES_MAX = 1_000
FORMATS: dict[str, Format] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_CORE = re.compile(
    r"(?P<null>~|null|Null|NULL|)|(?P<true>true|True|TRUE)|(?P<false>false|False|FALSE)"
    r"|(?P<int>[-+]?[0-9]+)|0o(?P<octal>[0-7]+)|0x(?P<hex>[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)"
    r"|(?P<special>[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))"
)
_DIGITS_MAX = 100


def load_settings(path: str | Path) -> Settings:
    """Read the config at ``path`` (.yaml, .yml, .json or .toml); raises `ConfigError`."""
    return read_config(path)[0]


def read_config(path: str | Path) -> tuple[Settings, Places]:
    """`load_settings`, and where each part stands, for the checks that come after."""
    source = str(path)
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise _unreadable(source, f"got {Path(path).name!r}, want a name in {', '.join(FORMATS)}")
    try:
        # Opening a pipe without a writer would wait for ever.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise _unreadable(source, "it is not a regular file")
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(source, getattr(error, "strerror", None) or str(error)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"cannot read config: byte {error.start} is not UTF-8"
        raise ConfigError([Fault(source, line, None, "", message)]) from None
    return read_text(text, kind, source)


def load_text(text: str, format: Format, source: str = "config") -> Settings:  # noqa: A002
    """Read ``text``; ``source`` is what faults call it. Raises `ConfigError`."""
    return read_text(text, format, source)[0]


def read_text(text: str, format: Format, source: str) -> tuple[Settings, Places]:  # noqa: A002
    """`load_text`, and where each part stands (marks for YAML only)."""
    readers: dict[str, Callable[[str, _Reading], Any]] = {
        "yaml": _read_yaml,
        "json": _read_json,
        "toml": _read_toml,
    }
    if format not in readers:
        raise _unreadable(source, f"got format {format!r}, want one of {', '.join(readers)}")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > FILE_BYTES_MAX:
        raise _unreadable(source, f"it is over {FILE_BYTES_MAX} bytes, want at most that")
    if not text.strip():
        raise _unreadable(source, "it is empty, want a mapping with at least 'name'")
    reading = _Reading(source)
    try:
        raw = readers[format](text, reading)
    except RecursionError:
        raise _unreadable(source, TOO_DEEP) from None
    tree = reading.normalise(raw, "", 0)
    places = Places(source, reading.marks)
    if not isinstance(tree, dict) and not reading.found:
        sort = {list: "a list", type(None): "nothing"}.get(type(tree), type(tree).__name__)
        raise _unreadable(source, f"got {sort}, want a mapping with at least 'name'")
    if isinstance(tree, dict):
        _use_standard_levels(tree, reading)
        told = {path for path, _, _ in reading.found}
        for path, message in misfits(describe(Settings), tree, ""):
            if path not in told:
                reading.found.append((path, message, None))
    if reading.found:
        faults = [places.fault(path, message, mark) for path, message, mark in reading.found]
        raise ConfigError(in_order(faults))
    try:
        return msgspec.convert(tree, Settings, dec_hook=decode_wire_type), places
    except msgspec.ValidationError as error:
        raise ConfigError([places.fault("", str(error))]) from None


def _use_standard_levels(tree: dict[str, Any], reading: _Reading) -> None:
    """Locations may be written with the level names of older configs."""
    workers = tree.get("workers")
    holders = [("", tree)]
    if isinstance(workers, list):
        holders += [
            (f"workers[{n}].", one) for n, one in enumerate(workers) if isinstance(one, dict)
        ]
    for place, holder in holders:
        written = holder.get("location")
        if isinstance(written, dict):
            try:
                holder["location"] = standard_levels(written)
            except SpecError as error:
                reading.note(f"{place}location", str(error))
                holder["location"] = {}  # told once


def _unreadable(source: str, why: str) -> ConfigError:
    return ConfigError([Fault(source, None, None, "", f"cannot read config: {why}")])


@dataclass
class _Reading:
    """One file on its way in: the marks, and what was found wrong so far."""

    source: str
    marks: dict[str, Mark] = field(default_factory=dict)
    found: list[tuple[str, str, Mark | None]] = field(default_factory=list)
    values: int = 0

    def note(self, path: str, message: str, mark: Mark | None = None) -> None:
        """Remember a fault and go on; ``mark`` where ``path`` alone does not find the place."""
        self.found.append((path, message, mark))

    def stop(self, why: str, line: int | None = None, column: int | None = None) -> ConfigError:
        """The error for a text that cannot be read any further."""
        return ConfigError([Fault(self.source, line, column, "", f"cannot read config: {why}")])

    def count(self, depth: int) -> None:
        """Called per value: the limits every format has."""
        self.values += 1
        if depth > DEPTH_MAX:
            raise self.stop(TOO_DEEP)
        if self.values > VALUES_MAX:
            raise self.stop(f"over {VALUES_MAX} values, aliases written out, want at most that")

    def normalise(self, value: Any, path: str, depth: int) -> Any:
        """``value`` as plain data that a channel can carry; notes what cannot."""
        if depth > DEPTH_MAX:
            raise self.stop(TOO_DEEP)
        if isinstance(value, dict):
            for key in getattr(value, "twice", ()):
                self.note(at_key(path, key), f"key {key!r} is given twice")
            return {
                self._text(key, path): self.normalise(item, at_key(path, key), depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.normalise(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, float) and not math.isfinite(value):
            self.note(path, f"got {value}, want a finite number")
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            self.note(path, "got an integer that does not fit 64 bits")
            return 0
        elif isinstance(value, datetime.datetime | datetime.date | datetime.time):
            return value.isoformat()  # TOML has dates; the other formats give their text
        return value

    def _text(self, text: str, path: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            self.note(path, "got text with half a surrogate pair, want Unicode text")
            return ""
        return text


# --- JSON and TOML --------------------------------------------------------------------------


class _Pairs(dict[str, Any]):
    """A JSON object that remembers the keys it was given twice."""

    twice: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    table = _Pairs()
    for key, value in pairs:
        if key in table:
            table.twice = (*table.twice, key)
        table.setdefault(key, value)
    return table


def _read_json(text: str, reading: _Reading) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        raise reading.stop(f"{error.msg}, want JSON", error.lineno, error.colno) from None
    except ValueError as error:  # an integer of more than 4,300 digits
        raise reading.stop(str(error).partition(";")[0]) from None


def _read_toml(text: str, reading: _Reading) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        found = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        line, column = (int(found[1]), int(found[2])) if found else (None, None)
        message = str(error)[: found.start()] if found else str(error).partition(";")[0]
        raise reading.stop(f"{message}, want TOML", line, column) from None


# --- YAML -----------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Node:
    """A YAML node with its mark. ``items`` of a mapping are key, value, key, value, ..."""

    event: Any
    line: int
    column: int
    items: list[_Node] = field(default_factory=list)


def _read_yaml(text: str, reading: _Reading) -> Any:
    try:
        root = _compose(text, reading)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        if "nesting depth" in f"{error.problem}":  # libyaml's own limit, which it does not tell
            raise reading.stop(TOO_DEEP, line, column) from None
        raise reading.stop(f"{error.problem or error.context}", line, column) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise reading.stop(" ".join(str(error).split())) from None
    return None if root is None else _plain(root, "", 0, reading)


def _compose(text: str, reading: _Reading) -> _Node | None:
    """Build nodes from events, without recursion: a deep text must not end in a crash."""
    root: _Node | None = None
    anchors: dict[str, _Node] = {}
    opened: list[_Node] = []
    aliases = documents = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
    for event in events:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise reading.stop("a second document begins, want one", line, column)
        elif isinstance(event, yaml.CollectionEndEvent):
            opened.pop()
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.AliasEvent):
                aliases += 1
                if event.anchor not in anchors:
                    raise reading.stop(f"alias *{event.anchor} has no anchor", line, column)
                node = anchors[event.anchor]
                if node in opened:
                    raise reading.stop(f"alias *{event.anchor} is inside itself", line, column)
                if aliases > ALIASES_MAX:
                    raise reading.stop(f"over {ALIASES_MAX} aliases", line, column)
            else:
                node = _Node(event, line, column)
                if event.anchor is not None:
                    anchors[event.anchor] = node
            if opened:
                opened[-1].items.append(node)
            else:
                root = node
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append(node)
                if len(opened) > DEPTH_MAX:
                    raise reading.stop(TOO_DEEP, line, column)
    return root


def _plain(node: _Node, path: str, depth: int, reading: _Reading) -> Any:
    reading.count(depth)
    reading.marks.setdefault(path, (node.line, node.column))
    tag = node.event.tag
    if isinstance(node.event, yaml.ScalarEvent):
        return _scalar(node, path, reading)
    mapping = isinstance(node.event, yaml.MappingStartEvent)
    if tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
        reading.note(path, f"tag {tag} is not supported, want none")
    if mapping:
        return _mapping(node, path, depth, reading)
    return [
        _plain(item, f"{path}[{index}]", depth + 1, reading)
        for index, item in enumerate(node.items)
    ]


def _mapping(node: _Node, path: str, depth: int, reading: _Reading) -> dict[str, Any]:
    table: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for key_node, value_node in zip(node.items[::2], node.items[1::2], strict=True):
        mark = (key_node.line, key_node.column)
        key = _scalar(key_node, path, reading) if not key_node.items else key_node.items
        if not isinstance(key, str):
            got = "a list or mapping" if isinstance(key, list) else repr(key_node.event.value)
            reading.note(path, f"got key {got}, want text (put it in quotes)", mark)
            continue
        place = at_key(path, key)
        if key in seen:
            told = f"key {key!r} is given twice, first at line {seen[key]}"
            reading.note(place, told, mark)
            continue
        seen[key] = key_node.line
        # The key's place, not the value's: that is where a reader looks for it.
        reading.marks[place] = mark
        if key == "<<" and key_node.event.implicit[0]:
            value = _plain(value_node, path, depth + 1, reading)
            sources = value if isinstance(value, list) else [value]
            if not all(isinstance(source, dict) for source in sources):
                reading.note(place, "got no mapping to merge, want an alias of one")
                continue
            for source in reversed(sources):
                merged.update(source)
            continue
        table[key] = _plain(value_node, place, depth + 1, reading)
    return {**merged, **table}


def _scalar(node: _Node, path: str, reading: _Reading) -> Any:
    if not isinstance(node.event, yaml.ScalarEvent):
        return node.items
    tag, text = node.event.tag, node.event.value
    if tag in ("!", _TAG + "str") or (tag is None and not node.event.implicit[0]):
        return text
    found = _CORE.fullmatch(text) if len(text) <= _DIGITS_MAX else None
    kind = found.lastgroup if found else "str"
    sort = {"true": "bool", "false": "bool", "octal": "int", "hex": "int", "special": "float"}
    if tag is not None and tag != _TAG + sort.get(str(kind), str(kind)):
        reading.note(path, f"tag {tag} does not fit or is not supported, want none")
        return text
    return text if found is None else _core_value(str(kind), text)


def _core_value(kind: str, text: str) -> Any:
    match kind:
        case "null":
            return None
        case "true" | "false":
            return kind == "true"
        case "int":
            return int(text)
        case "octal":
            return int(text[2:], 8)
        case "hex":
            return int(text[2:], 16)
        case "special":
            return float(text.lower().replace(".", "", 1))
        case _:
            return float(text)
