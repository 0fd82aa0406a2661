"""Short actions that leave a line for each time they run, so that runs can be counted."""

import os
import time

from fsmv2.supervisor import Action, ActionContext, Limits

FOREVER_S = 3600.0


def note(path: str, line: str) -> None:
    """One line, whole and never lost, whoever else writes: O_APPEND, open(2)."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


class Note(Action, frozen=True):
    """Leaves a line, then takes ``seconds``. Short as a type; a single one may be long."""

    path: str
    mark: str
    seconds: float = 0.0
    timeout_s = FOREVER_S

    def execute(self, ctx: ActionContext) -> str:
        note(self.path, self.mark)
        if self.seconds:
            time.sleep(self.seconds)
        return self.mark


class Both(Action, frozen=True):
    """Leaves a line when it begins and one when it ends."""

    path: str
    mark: str
    timeout_s = FOREVER_S

    def execute(self, ctx: ActionContext) -> None:
        note(self.path, f"+{self.mark}")
        note(self.path, f"-{self.mark}")


class AtMostTwo(Both, frozen=True):
    """No more than two at a time."""

    limits = Limits(concurrency=2)


class Await(Action, frozen=True):
    """Ends once the file ``path`` is there."""

    path: str
    timeout_s = FOREVER_S

    def execute(self, ctx: ActionContext) -> None:
        while not os.path.exists(self.path):
            time.sleep(0.002)
