"""What a running action can ask for and say: the proc's side of `ActionContext`.

Knows: the attempt, the shared page, how to write a frame from any thread of the action.
Does not know: what the root does with it.
Invariants: every text leaves with the action's secrets replaced; reading `cancelled` or
`deadline_s` costs no system call worth the name.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsmv2.ipc.messages import FromProc, Logged, Progress
from fsmv2.ipc.page import Page
from fsmv2.ipc.redact import redact

TEXT_CHARS_MAX = 2_000
LEVELS = ("debug", "info", "warning", "error")
_PLAIN = (str, int, float, bool, type(None))


class Context:
    """Lives as long as one attempt."""

    __slots__ = ("_page", "_scratch_root", "_secrets", "_send", "_started", "_timeout_s",
                 "attempt_id")  # fmt: skip

    def __init__(
        self,
        attempt_id: int,
        timeout_s: float,
        page: Page,
        send: Callable[[FromProc], None],
        scratch_root: Path,
        secrets: tuple[str, ...],
    ) -> None:
        self.attempt_id = attempt_id
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._page = page
        self._send = send
        self._scratch_root = scratch_root
        self._secrets = secrets

    @property
    def deadline_s(self) -> float:
        """Seconds left until this attempt is killed; negative inside ``grace_s``."""
        return self._started + self._timeout_s - time.monotonic()

    @property
    def cancelled(self) -> bool:
        """True once the root wants this attempt to end: clean up and return."""
        return self._page.is_cancelled(self.attempt_id)

    @property
    def scratch(self) -> Path:
        """A folder of this proc's own, made on first use, removed after the proc's death."""
        try:
            self._scratch_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            # The run folder is gone or full: the action may still find room elsewhere.
            return Path(tempfile.mkdtemp(prefix="fsmv2-"))
        return self._scratch_root

    def progress(self, text: str) -> None:
        """Say how far the action is; shown beside the action in flight."""
        self._send(Progress(self.attempt_id, redact(str(text), self._secrets)[:TEXT_CHARS_MAX]))

    def log(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write one log record; the root adds path, attempt and action."""
        if level not in LEVELS:
            raise ValueError(f"cannot log: level is {level!r}, want one of {', '.join(LEVELS)}")
        told = {name: self._told(value) for name, value in fields.items()}
        text = redact(str(event), self._secrets)[:TEXT_CHARS_MAX]
        self._send(Logged(self.attempt_id, level, text, told))

    def _told(self, value: Any) -> Any:
        if isinstance(value, int | float | bool | type(None)):
            return value if not isinstance(value, int) or abs(value) < 1 << 63 else str(value)
        text = value if isinstance(value, str) else repr(value)
        return redact(text, self._secrets)[:TEXT_CHARS_MAX]
