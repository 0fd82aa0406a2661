"""The handle of a plain call: turns what came back as dill into a value or an exception.

Knows: a call's outcome, when it may be unpacked.
Does not know: how calls are run.
Invariants: unpacking happens in the thread that asks for the result, once, outside all locks of
the pool; a call that raised has the status "failed".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fsmv2.supervisor.core.action import ActionError, ActionResult
from fsmv2.supervisor.library.callables import Outcome, unpack
from fsmv2.supervisor.library.driver import Driver
from fsmv2.supervisor.library.handles import FINISHED, PENDING, Handle
from fsmv2.supervisor.pool.spill import load


class CallHandle(Handle):
    """A `Handle` whose result is that of a plain call. ``error`` is the exception it raised."""

    error: BaseException | None = None

    def __init__(self, driver: Driver, function: Callable[..., Any]) -> None:
        super().__init__(driver)
        self._function = function

    def publish(self, result: ActionResult) -> bool:
        """Each result goes through `_load`."""
        if self._state is not PENDING:
            return False
        self._settled = result
        self._is_laden = True
        self._state = self._final_state(result)
        return True

    def _final_state(self, result: ActionResult) -> str:
        return FINISHED

    def _load(self, result: ActionResult) -> ActionResult:
        name = getattr(self._function, "__qualname__", repr(self._function))
        result = msgspec.structs.replace(load(result), action_type=name)
        outcome = result.value
        if not isinstance(outcome, Outcome):
            return result
        error: ActionError | None = None
        value = None
        if outcome.error is None:
            try:
                value = unpack(outcome.value)
            except Exception as why:
                self.error = why
                error = ActionError(
                    "ResultLost", f"cannot unpack the value: {type(why).__name__}: {why}"
                )
        else:
            error = ActionError(outcome.kind, outcome.message, outcome.traceback)
            try:
                self.error = unpack(outcome.error)
            except Exception as why:  # its class cannot be made here, though in the proc it could
                self.error = RuntimeError(f"{error} ({type(why).__name__}: {why})")
            self.error.add_note(f"in the proc:\n{outcome.traceback}")
        if error is None:
            return msgspec.structs.replace(result, value=value)
        return msgspec.structs.replace(result, status="failed", value=None, error=error)
