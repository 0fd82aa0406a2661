"""Logs: events and library records, one line each, never waiting for the reader.

Knows: structlog, the descriptor, the level, how an event becomes a record.
Does not know: who emits events, how a line is cut or escaped (`loglines`), the words for an
event (`logsentences`).
Invariants: writing never blocks and never raises; a line that cannot be written is counted;
nothing is configured at import; `O_NONBLOCK` is never set on an inherited descriptor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import structlog

from fsmv2.supervisor.core.events import Event, Level, level_of
from fsmv2.supervisor.core.runbooks import page_of
from fsmv2.supervisor.telemetry.evidence import SHOWN_LINES_MAX, evidence_of, words_of
from fsmv2.supervisor.telemetry.loglines import (
    ConsoleForm,
    as_json,
    json_line,
    last_frames,
    pairs,
    plain,
    timestamp,
)
from fsmv2.supervisor.telemetry.logsentences import sentence_of

Format = Literal["console", "json"]
CERTIFICATE_FIELDS = (
    "signal", "sent_by", "exit_code", "cpu_s", "peak_memory_bytes", "wait_channel",
    "descendants_killed", "slot_back_s", "detail",
)  # fmt: skip
# Of the threads that are not the guilty ones, of all deaths in one tick.
OTHERS_BYTES_MAX = 16 * 1024

# What follows the record of an action that ended by a death.
DEATH_STACK, DEATH_LOG_TAIL = "death_stack", "death_log_tail"

_RANKS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_EVENT, _DETAIL, _SUBJECT, _WORDS = "_event", "_detail", "_subject", "_words"


class LineWriter:
    """Writes whole lines to ``fd`` and drops what it does not take at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._own_fd = _reopened_terminal(fd)
        self._poll = select.poll()
        self._poll.register(self._fd if self._own_fd is None else self._own_fd, select.POLLOUT)
        self._rest = b""
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<LineWriter fd={self._fd} dropped={self.dropped}>"

    def write(self, line: bytes) -> None:
        """Write ``line`` in one call, or count it as dropped."""
        fd = self._fd if self._own_fd is None else self._own_fd
        try:
            # A pipe that polls as writable takes PIPE_BUF bytes in one piece. The rest of a
            # line that a terminal took half goes first, or two lines would become one.
            if not self._poll.poll(0):
                self.dropped += 1
                return
            line = self._rest + line
            written = os.write(fd, line)
        except OSError:
            self.dropped += 1
            return
        self._rest = line[written:]

    def close(self) -> None:
        """Close what this writer opened itself; ``fd`` stays open."""
        if self._own_fd is not None:
            os.close(self._own_fd)
            self._own_fd = None


def _reopened_terminal(fd: int) -> int | None:
    """The same terminal opened anew, non-blocking, or None.

    A stalled terminal polls as writable while it has room for part of a line, and then the
    write waits (tried: after 82 lines). A flag on ``fd`` itself would reach the user's shell.
    """
    try:
        if not stat.S_ISCHR(os.fstat(fd).st_mode) or not os.isatty(fd):
            return None
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return None


_writer: LineWriter | None = None
_is_for_people = False
_rank_min = 100
_logger: Any = None


def configure(
    format: Format = "json",  # noqa: A002
    level: Level = "info",
    fd: int = 2,
    clock: Callable[[], float] = time.time,
) -> None:
    """Send all records of ``level`` and louder to ``fd``, which stays the caller's.

    ``clock`` gives seconds since the epoch. Colours show on a terminal only, and not when
    NO_COLOR is set. Calling it again replaces the former configuration.
    """
    global _writer, _is_for_people, _rank_min, _logger
    if _writer is not None:
        _writer.close()
    writer = _writer = LineWriter(fd)
    _rank_min = _RANKS[level]
    _is_for_people = format == "console"
    render: Callable[[Any, str, MutableMapping[str, Any]], Any]
    if format == "json":
        render = _JsonRenderer(clock)
    else:
        colours = _is_terminal(fd) and not os.environ.get("NO_COLOR")
        render = _ConsoleRenderer(clock, ConsoleForm(colours))
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(_rank_min),
        context_class=dict,
        logger_factory=lambda *_: _LineLogger(writer),
        cache_logger_on_first_use=False,
    )
    # Made once: a fresh one from structlog for every line costs more than the line.
    _logger = structlog.get_logger().bind()


def set_level(level: Level) -> None:
    """From now on, log what is of ``level`` and louder."""
    global _rank_min, _logger
    _rank_min = _RANKS[level]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_rank_min))
    _logger = structlog.get_logger().bind()


def dropped_lines() -> int:
    """How many lines the present descriptor did not take at once since `configure`."""
    return 0 if _writer is None else _writer.dropped


class LogSink:
    """Turns events into records. Silent until `configure` was called."""

    def emit(self, event: Event, **extra: Any) -> None:
        """`emit_all` of one event."""
        self.emit_all([(event, extra)])

    def emit_all(self, batch: Sequence[tuple[Event, Mapping[str, Any]]]) -> None:
        """Write the events that are loud enough, each with its extra fields.

        Fields that are None or empty are left out. The stacks of deaths follow in records of their
        own, ``death_stack``, one for each thread, the guilty one first, and so does what they
        printed last, ``death_log_tail``. When many die at once, a reader that is a little slow
        misses what is written last: so the facts of all come first, then the guilty thread and the
        last lines of each, then other threads, as far as `OTHERS_BYTES_MAX` goes.
        """
        deaths = []
        for event, extra in batch:
            level = level_of(event)
            if _RANKS[level] < _rank_min:
                continue
            detail = last_frames(getattr(event, "traceback", "") or "")
            if level == "error" and "runbook" in extra:
                detail = [*detail, f"what to do: fsmv2 runbook {page_of(extra['runbook'])}"]
            more = {**extra, _EVENT: event, _DETAIL: detail}
            _log(level, _name_of(type(event)), {**fields_of(event), **more})
            if getattr(event, "certificate", None) is not None:
                deaths.append(event)
        if deaths and _writer is not None:
            (_show_evidence if _is_for_people else _log_evidence)(deaths)


def _log_evidence(deaths: Sequence[Any]) -> None:
    later = []
    for event in deaths:
        level, evidence = level_of(event), evidence_of(event.certificate, _whose(event))
        for record in evidence.first:
            _log(level, DEATH_STACK, record)
        if evidence.tail is not None:
            _log(level, DEATH_LOG_TAIL, evidence.tail)
        later += [(level, record) for record in evidence.others]
    left = OTHERS_BYTES_MAX
    for level, record in later:
        left -= len(as_json(record))
        if left < 0:
            break
        _log(level, DEATH_STACK, record)


def _show_evidence(deaths: Sequence[Any]) -> None:
    for event in deaths:
        level, whose = level_of(event), {**_whose(event), _SUBJECT: event.path}
        what, lines = words_of(event.certificate)
        if lines:
            _log(level, DEATH_STACK, {**whose, _WORDS: what, _DETAIL: lines})
        if event.certificate.log_tail:
            lines = list(event.certificate.log_tail[-SHOWN_LINES_MAX:])
            _log(level, DEATH_LOG_TAIL, {**whose, _WORDS: "it printed last", _DETAIL: lines})


def _whose(event: Any) -> dict[str, Any]:
    return {
        "path": event.path,
        "action_type": event.action_type,
        "attempt_id": event.attempt_id,
        "verdict": event.certificate.verdict,
    }


@lru_cache(maxsize=256)
def _name_of(kind: type[Event]) -> str:
    return kind.name()  # builds a class each time, 13 µs: a third of a whole line


def fields_of(event: Event) -> dict[str, Any]:
    """The event's fields as JSON-ready builtins, without None and empty strings; a
    certificate's facts stand beside them, its stack is left out."""
    fields = plain(event)
    certificate = fields.pop("certificate", None)
    if certificate:
        fields |= {name: certificate[name] for name in CERTIFICATE_FIELDS}
        if not certificate["descendants_killed"]:
            del fields["descendants_killed"]
        if certificate["detail"] and certificate["detail"] in (certificate["sent_by"] or ""):
            del fields["detail"]
    return {key: value for key, value in fields.items() if value is not None and value != ""}


def _log(level: str, name: str, fields: Mapping[str, Any]) -> None:
    if _writer is None:
        return
    try:
        # Not logger.info(name, **fields): a field called "event" would be a second argument.
        _logger.bind(**fields).log(_RANKS[level], name)
    except Exception:  # a log line must not end what it tells about
        _writer.dropped += 1


class _LineLogger:
    """What structlog hands finished lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, lines: list[bytes]) -> None:
        for line in lines:
            self._writer.write(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class _JsonRenderer:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def __call__(self, _: Any, method: str, fields: MutableMapping[str, Any]) -> Any:
        name = fields.pop("event", "")
        for private in (_EVENT, _DETAIL, _SUBJECT, _WORDS):
            fields.pop(private, None)
        head = {"timestamp": timestamp(self._clock()), "level": method, "event": name}
        # The head wins: a library's field called "level" must not change how loud a line is.
        rest = {f"{key}_" if key in head else key: value for key, value in fields.items()}
        return ([json_line({**head, **rest})],), {}


class _ConsoleRenderer:
    def __init__(self, clock: Callable[[], float], form: ConsoleForm) -> None:
        self._clock = clock
        self._form = form

    def __call__(self, _: Any, method: str, fields: MutableMapping[str, Any]) -> Any:
        name = str(fields.pop("event", ""))
        event = fields.pop(_EVENT, None)
        detail = fields.pop(_DETAIL, None) or []
        subject = fields.pop(_SUBJECT, "")
        now = self._clock()
        if isinstance(event, Event):
            words = sentence_of(event)
            head = self._form.line(method, now, words.subject, words.text, words.phase)
        elif name in (DEATH_STACK, DEATH_LOG_TAIL):
            words = fields.get(_WORDS, "")
            text = f"#{fields.get('attempt_id')} {fields.get('verdict')}, {words}"
            head = self._form.line(method, now, subject, text)
        elif name == "library_logged":
            head = self._form.line(method, now, subject, str(fields.get("message", "")))
        else:
            text = f"{name}  {pairs(fields)}" if fields else name
            head = self._form.line(method, now, subject or "fsmv2", text)
        return ([head, *self._form.detail(detail)],), {}


# --- libraries ------------------------------------------------------------------------------


class _LibraryHandler(logging.Handler):
    """Standard library log records of libraries, as records of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = max((rank, name) for name, rank in _RANKS.items() if rank <= record.levelno)[1]
        except ValueError:
            level = "debug"
        fields: dict[str, Any] = {"logger": record.name, _SUBJECT: record.name}
        try:
            fields["message"] = record.getMessage()
        except Exception:  # wrong arguments to a library's own log call
            fields["message"] = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
            fields[_DETAIL] = last_frames(fields["traceback"])
        _log(level, "library_logged", fields)


_handler: _LibraryHandler | None = None


def capture_stdlib() -> None:
    """Route the standard library's `logging` and `warnings` through here, as events
    ``library_logged`` with ``logger`` and ``message``. Handlers on the root logger go."""
    global _handler
    release_stdlib()
    _handler = _LibraryHandler()
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(_handler)
    root.setLevel(max(_rank_min, logging.DEBUG) if _rank_min < 100 else logging.INFO)
    logging.captureWarnings(True)


def release_stdlib() -> None:
    """Undo `capture_stdlib`. Safe to call at any time."""
    global _handler
    if _handler is not None:
        logging.getLogger().removeHandler(_handler)
        _handler = None
        logging.captureWarnings(False)


def _is_terminal(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(fd)
    return False
