"""What a log says of a death beside its facts: the stacks of its threads, its last lines.

Knows: the shape of a stack dump, what is worth most of it, how much of it goes into a log line.
Does not know: descriptors, formats, events, how a dump came to be.
Invariants: the thread that was running comes first, and its innermost frames; whatever a dump or a
line is like, there is a first frame and a last line; what is left out is counted.

Source of the shape: the documentation of faulthandler. Threads begin with the newest, each with its
innermost frame; "Current thread" is the one that got the signal: in a proc that was asked for its
stack that is the main thread, and of more than 100 threads it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.pool.procs import CURRENT_THREAD, FROM_OUTSIDE
from fsmv2.supervisor.telemetry.loglines import CUT, as_json

# Of one record's frames or lines; leaves room in a log line for its other fields.
EVIDENCE_BYTES_MAX = 3200
FRAME_CHARS_MAX = 400
THREADS_MAX = 8
# No dump is longer: 100 threads of 100 frames, with headers. What a proc wrote instead may be.
DUMP_LINES_MAX = 10_400
# For people: the lines of the guilty thread, and of each of the others where all are suspects.
SHOWN_LINES_MAX = 12
SHOWN_OTHERS_MAX = 4
SHOWN_OF_OTHERS_MAX = 4

_THREAD = re.compile(f"{CURRENT_THREAD}|Thread 0x")


class Dump(msgspec.Struct, frozen=True):
    """A dump by thread, each a list of lines without blanks around: the guilty one first, after
    what stood before them all. ``guilty_known``: whether the first one is known to be guilty."""

    threads: list[list[str]]
    guilty_known: bool

    @property
    def text(self) -> str:
        """The same as one text, which may be cut at its end."""
        return "\n\n".join("\n".join(thread) for thread in self.threads)


def read_dump(stack: str) -> Dump:
    """``stack``, as faulthandler writes it, or as our reader from outside does: that one has the
    main thread first, and says so in its first line."""
    said: list[str] = []
    threads: list[list[str]] = []
    for line in stack.split("\n", DUMP_LINES_MAX)[:DUMP_LINES_MAX]:
        line = line.strip()
        if _THREAD.match(line):
            threads.append([line])
        elif line:
            (threads[-1] if threads else said).append(line)
    threads.sort(key=lambda lines: not lines[0].startswith(CURRENT_THREAD))
    known = not threads or threads[0][0].startswith(CURRENT_THREAD)
    known = known or any(line.startswith(FROM_OUTSIDE) for line in said)
    if said:
        threads[:1] = [said + (threads[0] if threads else [])]
    return Dump(threads, known)


class Evidence(msgspec.Struct, frozen=True):
    """What to log of one death, as records: the guilty thread, the others, the last lines."""

    first: list[dict[str, Any]]
    others: list[dict[str, Any]]
    tail: dict[str, Any] | None


def evidence_of(certificate: DeathCertificate, whose: dict[str, Any]) -> Evidence:
    """Of the death that ``whose`` names, fields that each record has. Threads: at most
    `THREADS_MAX`."""
    room = max(EVIDENCE_BYTES_MAX - len(as_json(whose)), EVIDENCE_BYTES_MAX // 4)
    dump = read_dump(certificate.stack or "")
    records = []
    for number, thread in enumerate(dump.threads[:THREADS_MAX], 1):
        frames = [_without_middle(frame) for frame in thread]
        count = _that_fit(frames, room)
        record = {**whose, "frames": frames[:count], "thread": number}
        record["threads"] = len(dump.threads)
        if number == 1:
            record["guilty_known"] = dump.guilty_known
        if count < len(frames):
            record["frames_left_out"] = len(frames) - count
        records.append(record)
    tail = None
    if certificate.log_tail:
        lines = certificate.log_tail
        count = _that_fit(lines[::-1], room)
        tail = {**whose, "log_tail": lines[-count:]}
        if count < len(lines):
            tail["lines_left_out"] = len(lines) - count
    return Evidence(records[:1], records[1:], tail)


def words_of(certificate: DeathCertificate) -> tuple[str, list[str]]:
    """For people: what the stack is, and its lines; none without a stack. The other threads' where
    they are suspects too: C code that hangs with the interpreter's lock may be any thread's, and
    the main thread only waits for it."""
    dump = read_dump(certificate.stack or "")
    if not dump.threads:
        return "", []
    lines = dump.threads[0][:SHOWN_LINES_MAX]
    others = dump.threads[1:]
    if certificate.verdict == "hung_in_c" or not dump.guilty_known:
        for thread in others[:SHOWN_OTHERS_MAX]:
            lines = [*lines, *thread[:SHOWN_OF_OTHERS_MAX]]
    what = "it was at" if dump.guilty_known else "which thread did it is not known, there were"
    return f"{what} (1 of {len(others) + 1} threads)" if others else what, lines


def _that_fit(lines: Sequence[str], bytes_max: int) -> int:
    """How many of the first ``lines`` take no more than ``bytes_max`` as JSON; at least two, or
    all: a header and a frame."""
    left = bytes_max
    for count, line in enumerate(lines):
        left -= len(as_json({"": line}))
        if left < 0 and count >= 2:
            return count
    return len(lines)


def _without_middle(frame: str) -> str:
    """The end of a long one says where: ``…/x.py", line 7 in hang``."""
    if len(frame) <= FRAME_CHARS_MAX:
        return frame
    start = FRAME_CHARS_MAX // 4
    return frame[:start] + CUT + frame[1 + start - FRAME_CHARS_MAX :]
