"""Ships what an action's libraries say through the standard library's logging.

Knows: log records, the context of the action that runs, what a logger's ancestors are.
Does not know: the root, what a user has configured.
Invariants: records from WARNING up reach the root like `Context.log`, with the attempt's id,
secrets replaced, at most `RECORDS_MAX` of an attempt; nothing here raises, or logs itself; a
user's configuration stays as it is.

The handler does not sit on the root logger, where `logging.basicConfig` would find it and do
nothing, and `dictConfig` would throw it out, but on a logger above the root one: records climb
there last. A record of a thread that an earlier action left behind counts as the action's that
runs now; logging knows no better.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback

from fsmv2.workerproc.context import TEXT_CHARS_MAX, Context

RECORDS_MAX = 1_000
_ABOVE = "fsmv2"
_busy = threading.local()


class RecordShipper(logging.Handler):
    """Sends records to the root while ``context`` is set; else they take the usual way."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.context: Context | None = None
        self.pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises, as a log line must not end what it is about."""
        # A record may make another: a value's __str__ that logs, for one.
        if getattr(_busy, "shipping", False):
            return
        _busy.shipping = True
        try:
            context = self.context
            # In a child that the action forked, the channel is not ours to write to.
            if context is None or os.getpid() != self.pid:
                self._usual_way(record)
            else:
                self._ship(record, context)
        except Exception:
            context = None  # what could not be told is not worth ending the action for
        finally:
            _busy.shipping = False

    def _ship(self, record: logging.LogRecord, context: Context) -> None:
        context.records += 1
        if context.records > RECORDS_MAX:
            if context.records == RECORDS_MAX + 1:
                context.log("too many log records", "warning", shipped=RECORDS_MAX)
            return
        fields = {"logger": record.name, "line": f"{record.filename}:{record.lineno}"}
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
            fields["exception"] = context.redacted(trace)[-TEXT_CHARS_MAX:]
        context.log(record.getMessage(), _level_of(record.levelno), **fields)

    def _usual_way(self, record: logging.LogRecord) -> None:
        # Without us, logging would find no handler at all and print it.
        if not logging.getLogger().handlers and logging.lastResort is not None:
            logging.lastResort.handle(record)


# Its ``context`` is set by the loop while an action runs.
shipper = RecordShipper()


def install() -> None:
    """Ship this process's records from now on. Once per proc; again does nothing."""
    shipper.pid = os.getpid()
    root = logging.getLogger()
    if getattr(root.parent, "name", None) == _ABOVE:
        return
    above = logging.Logger(_ABOVE)  # not registered: nobody gets it by its name
    above.propagate = False
    above.addHandler(shipper)
    root.parent = above


def _level_of(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    return "warning" if number >= logging.WARNING else "info"
