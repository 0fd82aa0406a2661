"""What a running action can ask for and say: the proc's side of `ActionContext`.

Knows: the attempt, the shared page, how to write a frame from any thread of the action.
Does not know: what the root does with it.
Invariants: every text leaves with the action's secrets replaced; `cancelled`, `stopping`,
`deadline_s`, `heartbeat` and `extend` cost no system call worth the name; a thread that an earlier
action left behind moves nothing of the attempt that runs now; saying something while already
saying something (in a signal handler, in a finalizer) never waits for oneself.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsmv2.ipc.messages import FromProc, Logged, Progress
from fsmv2.ipc.page import Page
from fsmv2.ipc.redact import redact, secrets_in

TEXT_CHARS_MAX = 2_000
LEVELS = ("debug", "info", "warning", "error")
LATER_MAX = 100
_extending = threading.RLock()
_saying = threading.local()
# By the folder that could not be made: one for all attempts of this proc.
_fallbacks: dict[Path, Path] = {}


def plain(text: str) -> str:
    """``text`` as a frame can hold it: an exact str, whatever its class overrides, and without
    lone surrogates, which names of files have (PEP 383) and UTF-8 has not."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


class Surroundings:
    """What the contexts of one proc share."""

    __slots__ = ("page", "pid", "scratch_root", "send")

    def __init__(
        self, page: Page, send: Callable[[FromProc], None], scratch_root: Path, pid: int
    ) -> None:
        self.page = page
        self.send = send
        self.scratch_root = scratch_root
        self.pid = pid


class Context:
    """Lives as long as one attempt."""

    # Those that most attempts leave as they are cost nothing to make.
    records = 0
    _extra_s = 0.0
    _later: deque[FromProc] | None = None
    _secrets: tuple[str, ...] | None = None

    def __init__(
        self,
        surroundings: Surroundings,
        attempt_id: int,
        action: Any,
        began_at: float,
        timeout_s: float,
    ) -> None:
        self._surroundings = surroundings
        self.attempt_id = attempt_id
        self._action = action
        # The moment the root counts from; importing and decoding the action took a while.
        self._started = began_at
        self._timeout_s = timeout_s

    @property
    def deadline_s(self) -> float:
        """Seconds left until this attempt is killed, extensions included; negative inside
        ``grace_s``."""
        return self._started + self._timeout_s + self._extra_s - time.monotonic()

    @property
    def cancelled(self) -> bool:
        """True once the root wants this attempt to end: clean up and return."""
        return self._surroundings.page.is_cancelled(self.attempt_id)

    @property
    def stopping(self) -> bool:
        """True once the attempt's worker is asked to stop: end what has begun, begin nothing
        more. It is left alone for a few seconds yet; what the stop itself runs is not told."""
        return self._surroundings.page.is_told_of_stop(self.attempt_id)

    @property
    def scratch(self) -> Path:
        """A folder of this proc's own, made on first use, removed after the proc's death; while
        the run folder is gone or full, one in the system's own folder for such, which stays."""
        root = self._surroundings.scratch_root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            fallback = _fallbacks.get(root)
            if fallback is None or not fallback.is_dir():
                fallback = _fallbacks[root] = Path(tempfile.mkdtemp(prefix="fsmv2-"))
            return fallback
        return root

    def heartbeat(self) -> None:
        """Say that the action gets on."""
        if self._surroundings.page.is_begun(self.attempt_id):
            self._surroundings.page.beat(time.monotonic())

    def extend(self, seconds: float) -> float:
        """Ask for ``seconds`` more, up to the action type's ceiling; returns the seconds left.

        The root looks at the deadline whether more was asked for. Nothing is added where the
        type has no ceiling, where it is reached, or once the attempt is cancelled. Raises
        ValueError unless ``seconds`` is a finite number from 0 up.
        """
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"cannot extend: got {seconds!r}, want a finite number of seconds ≥ 0")
        timeout_s_max = self._action.timeout_s_max
        ceiling_s = 0.0 if timeout_s_max is None else timeout_s_max - self._timeout_s
        with _extending:
            wanted_s = min(self._extra_s + seconds, ceiling_s)
            runs = self._surroundings.page.is_begun(self.attempt_id) and not self.cancelled
            if runs and wanted_s > self._extra_s:
                self._surroundings.page.extend(self.attempt_id, wanted_s)
                # Read back: the page keeps milliseconds, and both sides must mean the same.
                self._extra_s = self._surroundings.page.extension_of(self.attempt_id)
        return self.deadline_s

    def progress(self, text: str) -> None:
        """Say how far the action is; shown beside the action in flight."""
        self._say(Progress(self.attempt_id, self.redacted(str(text))[:TEXT_CHARS_MAX]))

    def log(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write one log record; the root adds path, attempt and action."""
        if level not in LEVELS:
            raise ValueError(f"cannot log: level is {level!r}, want one of {', '.join(LEVELS)}")
        told = {self.redacted(name): self._told(value) for name, value in fields.items()}
        text = self.redacted(str(event))[:TEXT_CHARS_MAX]
        self._say(Logged(self.attempt_id, level, text, told))

    def redacted(self, text: str) -> str:
        """``text`` without the action's secrets, and `plain`: a name of a file may be no UTF-8."""
        if self._secrets is None:  # most actions say nothing
            self._secrets = secrets_in(self._action)
        return plain(redact(text, self._secrets))

    def _told(self, value: Any) -> Any:
        if isinstance(value, int | float | bool | type(None)):
            return value if not isinstance(value, int) or abs(value) < 1 << 63 else str(value)
        return self.redacted(value if isinstance(value, str) else repr(value))[:TEXT_CHARS_MAX]

    def _say(self, message: Progress | Logged) -> None:
        if os.getpid() != self._surroundings.pid:
            # A child that the action forked: frames of two writers would mix in the channel.
            print(message.text if isinstance(message, Progress) else message.event, file=sys.stderr)
            return
        if getattr(_saying, "now", False):
            # A finalizer or a signal handler, in the middle of saying something: the lock of the
            # channel is this very thread's, so waiting for it would be for ever.
            self._later = self._later or deque(maxlen=LATER_MAX)
            self._later.append(message)
            return
        _saying.now = True
        try:
            self._surroundings.send(message)
            while self._later:
                self._surroundings.send(self._later.popleft())
        finally:
            _saying.now = False
