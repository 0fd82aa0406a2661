"""What users may ask for, in tests of the switchboard."""

import os
import signal
import time
from pathlib import Path

from fsmv2.supervisor import Action, ActionContext, Secret


class Add(Action, frozen=True):
    left: int
    right: int = 1

    def execute(self, ctx: ActionContext) -> int:
        return self.left + self.right


class Again(Add, frozen=True):
    when_interrupted = "run_again"


class Note(Action, frozen=True):
    """Leaves a line in a file each time it is run."""

    file: str
    text: str

    def execute(self, ctx: ActionContext) -> None:
        with Path(self.file).open("a", encoding="utf-8") as file:
            file.write(f"{self.text}\n")


class Crash(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hang(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        time.sleep(600)


class Long(Hang, frozen=True):
    timeout_s = 20.0


class Fail(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        raise ValueError("no such pump")


class Exit(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os._exit(3)


class Huge(Action, frozen=True):
    size: int

    def execute(self, ctx: ActionContext) -> str:
        return "x" * self.size


class Keep(Action, frozen=True):
    """Has a ``text`` in its fields, its locals and its error, and ends ``how`` it is told."""

    text: str
    how: str

    def execute(self, ctx: ActionContext) -> str:
        kept = [self.text]
        if self.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "hang":
            time.sleep(600)
        if self.how == "fail":
            raise ValueError(f"no pump {self.text}")
        return kept[0]


class KeepTooLong(Keep, frozen=True):
    timeout_s = 0.3


class Greet(Action, frozen=True):
    token: Secret

    def execute(self, ctx: ActionContext) -> str:
        return f"{len(self.token.reveal())} characters"


KINDS = {
    "add": Add, "again": Again, "note": Note, "crash": Crash, "hang": Hang, "fail": Fail,
    "greet": Greet, "exit": Exit, "huge": Huge, "keep": Keep, "long": Long,
    "keep too long": KeepTooLong,
}  # fmt: skip
