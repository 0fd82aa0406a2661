"""What the communicator counts, for Prometheus.

Knows: the table of its metrics; where each is moved; the library that keeps them, which it loads
when the first is moved, so never in the root.
Does not know: how metrics are exported; a proc's go with the framework's own, an embedding
program registers `collector`.
Invariants: no label is made of a message, a token or an address; a number that cannot be counted
ends nothing. Each communicator of a supervisor has series of its own, by its worker's path; there
are as many as the config has communicators.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.transport.errors import Problem

if TYPE_CHECKING:
    from fsmv2.communicator.switchboard.board import Switchboard

_PREFIX = "fsmv2_communicator_"
_thread = threading.local()
_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)


class Row(NamedTuple):
    """One metric. ``unit`` is for people."""

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    help: str


TABLE = (
    Row("tries_total", "counter", ("path", "direction", "result"), "tries",
        "Tries of a direction: success, failure, or held (no room in the inbox)."),
    Row("messages_total", "counter", ("path", "direction"), "messages",
        "Messages pushed and acknowledged, or pulled and on disk."),
    Row("bytes_total", "counter", ("path", "direction"), "bytes",
        "Bytes of their envelopes, or of the replies they came in."),
    Row("set_aside_total", "counter", ("path", "direction"), "messages",
        "Messages the relay refused by themselves, or that could not be read: kept for people."),
    Row("errors_total", "counter", ("path", "direction", "kind"), "errors",
        "Errors by kind, those of logins included."),
    Row("backpressure_entries_total", "counter", ("path",), "times",
        "Times the inbox had no room left and pulling began to wait."),
    Row("request_seconds", "histogram", ("path", "direction"), "seconds",
        "How long requests took, whatever came of them."),
    Row("waiting", "gauge", ("path", "direction"), "messages",
        "Messages in the outbox, or in the inbox, after the last try."),
    Row("errors_in_row", "gauge", ("path", "direction"), "errors",
        "Errors since the last success."),
    Row("backpressure", "gauge", ("path",), "0 or 1",
        "1 while pulling waits for room in the inbox."),
)  # fmt: skip


def table_markdown() -> str:
    """The table as Markdown, for the documentation."""
    lines = ["| metric | kind | labels | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{_PREFIX}{row.name}` | {row.kind} "
        f"| {', '.join(f'`{label}`' for label in row.labels) or '–'} | {row.unit} | {row.help} |"
        for row in TABLE
    ]
    return "\n".join(lines) + "\n"


def of(path: str) -> None:
    """What this thread counts from now on is of the communicator at ``path``; empty: of none."""
    _thread.path = path


def moved(direction: str, messages: int, size: int) -> None:
    """Messages that have arrived at the other end of ``direction``."""
    with _contained():
        _series("messages_total", direction).inc(messages)
        _series("bytes_total", direction).inc(size)


@contextlib.contextmanager
def request(direction: str) -> Iterator[None]:
    """Time what is done in it as one request."""
    began = time.monotonic()
    try:
        yield
    finally:
        with _contained():
            _series("request_seconds", direction).observe(time.monotonic() - began)


def tried(direction: str, before: Direction, now: Direction) -> None:
    """One try of ``direction`` has made ``now`` of ``before``."""
    with _contained():
        held = now.held
        result = "held" if held else "failure" if now.problem is not None else "success"
        if held or now.rate is not before.rate:  # else the relay was not asked anything
            _series("tries_total", direction, result).inc()
        if now.refused:
            _series("set_aside_total", direction).inc(now.refused)
        if held and not before.held:
            _series("backpressure_entries_total").inc()
        _series("waiting", direction).set(now.waiting)
        _series("errors_in_row", direction).set(now.errors_in_row)
        if direction == "pull":
            _series("backpressure").set(held)
    if not now.held and now.problem is not None:
        failed(direction, now.problem)


def failed(direction: str, problem: Problem) -> None:
    """An error of a direction, or of a login."""
    with _contained():
        _series("errors_total", direction, str(problem.kind)).inc()


class Collector:
    """Switchboards' counts, read when somebody asks. A registry takes one: the series of a second
    could not be told from the first's."""

    def __init__(self, boards: Mapping[str, Switchboard], labels: tuple[str, ...]) -> None:
        self._boards = boards
        self._labels = labels

    def describe(self) -> list[Any]:
        """What the registry asks for, to see whether another has the same names."""
        from fsmv2.communicator.switchboard.counts import COUNTED

        return [_switchboard_family(name, self._labels) for name in COUNTED]

    def collect(self) -> Iterator[Any]:
        """What the registry of prometheus-client asks for."""
        told = {name: board.statistics() for name, board in self._boards.items()}
        for name in next(iter(told.values()), {}):
            family = _switchboard_family(name, self._labels)
            for board, values in told.items():
                family.add_metric([board] if self._labels else [], values[name])
            yield family


def collector(boards: Switchboard | Mapping[str, Switchboard]) -> Collector:
    """For ``prometheus_client.REGISTRY.register(collector(board))`` in an embedding program; one
    with several switchboards gives them all, by names, which are the label ``board``."""
    if isinstance(boards, Mapping):
        return Collector(dict(boards), ("board",))
    return Collector({"": boards}, ())


def _switchboard_family(name: str, labels: tuple[str, ...]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from fsmv2.communicator.switchboard.counts import COUNTED

    full = f"{_PREFIX}switchboard_{name}"
    if name in COUNTED:
        return CounterMetricFamily(full, f"{COUNTED[name].capitalize()}.", labels=labels)
    what = f"{name.removesuffix('_now').capitalize()} at present."
    return GaugeMetricFamily(full, what, labels=labels)


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    with contextlib.suppress(Exception):  # it must not end what it counts
        yield


@cache
def _families() -> Mapping[str, Any]:
    from prometheus_client import Counter, Gauge, Histogram

    made: dict[str, Any] = {}
    for row in TABLE:
        name = _PREFIX + row.name
        if row.kind == "counter":
            made[row.name] = Counter(name, row.help, row.labels)
        elif row.kind == "histogram":
            made[row.name] = Histogram(name, row.help, row.labels, buckets=_SECONDS)
        else:
            made[row.name] = Gauge(name, row.help, row.labels, multiprocess_mode="livemostrecent")
    return made


def _series(name: str, *labels: str) -> Any:
    return _families()[name].labels(getattr(_thread, "path", ""), *labels)
