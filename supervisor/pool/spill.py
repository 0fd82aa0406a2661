"""Results too large for a frame: left in a file by the proc, read by whoever wants the value.

Knows: where a proc leaves a result, how to take it from there without trusting the file.
Does not know: what the value means, when it is wanted.
Invariants: taking a spilled result costs the root one open and one unlink, whatever its size;
nothing a proc puts in the file's place (a pipe, a link, a growing file) makes anybody wait or
read more than was announced; the file is gone from its folder once it is open.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

import msgspec

from fsmv2.ipc.codec import decode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.redact import redact, texts_in
from fsmv2.supervisor.core.action import ActionError, ActionResult
from fsmv2.supervisor.core.errors import FsmError

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.attempts import Attempt
    from fsmv2.supervisor.pool.kinds import ActionKind
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle


class WrongType(FsmError):
    """A value is not what was announced; no secret is in the text."""


class SpilledValue:
    """An encoded value in an open file that has no name any more. `take` reads and closes it.
    ``secrets`` are those of the action."""

    __slots__ = ("_fd", "kind", "secrets", "size")

    def __init__(self, fd: int, size: int, kind: ActionKind, secrets: tuple[str, ...]) -> None:
        self._fd = fd
        self.kind = kind
        self.size = size
        self.secrets = secrets

    def __repr__(self) -> str:
        return f"<SpilledValue {self.size} bytes of {self.kind.name}>"

    def take(self) -> object:
        """Read and decode the value. Costs time in proportion to its size: about 1 ms a MiB.
        Raises `WrongType` for a value of another type, `OSError` when it cannot be read."""
        # Broken off by Ctrl-C, or for want of memory, it can be read again.
        data = bytearray(self.size)
        view = memoryview(data)
        at = 0
        try:
            while at < self.size:
                got = os.preadv(self._fd, [view[at:]], at)
                if got == 0:
                    raise OSError(f"got {at} bytes, want {self.size} bytes")
                at += got
            value = self.kind.decode(data)
        except OSError:
            self.drop()
            raise
        except FrameError as fault:
            self.drop()
            raise WrongType(wrong_type(self.kind, fault, data, self.secrets)) from None
        self.drop()
        return value

    def drop(self) -> None:
        """Close the file without reading it. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.drop()


def scratch_of(run_folder: str, proc: ProcHandle) -> str:
    """The folder a proc has to itself."""
    return os.path.join(run_folder, f"scratch-{proc.slot}-{proc.pid}")


def open_spilled(pool: Pool, proc: ProcHandle, attempt: Attempt, size: int) -> SpilledValue:
    """Take over the file a proc says it has left. Raises OSError saying what is wrong."""
    if size > pool.options.result_bytes_max:
        raise OSError(f"got {size} bytes, want at most {pool.options.result_bytes_max} bytes")
    secrets = attempt.secrets()
    path = os.path.join(scratch_of(pool.run_folder, proc), f"spill-{attempt.id}")
    # NOFOLLOW and NONBLOCK: the proc's folder is the action's to play with.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            raise OSError(f"got a file of {found.st_size} bytes, want a plain one of {size} bytes")
    except OSError:
        os.close(fd)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return SpilledValue(fd, size, attempt.kind, secrets)


def wrong_type(
    kind: ActionKind, fault: FrameError, raw: bytes | bytearray, secrets: tuple[str, ...]
) -> str:
    """What is said of a value, ``raw``, that is not what was announced; ``secrets`` are those of
    the action. A type's own code may quote what it was given, and which text of a value that
    cannot be decoded is a secret, nobody can tell."""
    if kind.value_may_hide:
        with contextlib.suppress(FrameError):
            secrets += texts_in(decode(raw, Any))
    return (
        f"{kind.name}.execute returned something else than its annotation "
        f"{kind.value_type!r}: {redact(str(fault), secrets)}"
    )


def load(result: ActionResult) -> ActionResult:
    """``result`` with its value at hand. The same object unless its value was spilled."""
    spilled = result.value
    if not isinstance(spilled, SpilledValue):
        return result
    try:
        return msgspec.structs.replace(result, value=spilled.take())
    except WrongType as fault:
        error = ActionError("ResultTypeError", str(fault))
    except OSError as fault:
        error = ActionError("ResultLost", f"cannot read the result's file: {fault}")
    return msgspec.structs.replace(result, status="failed", value=None, error=error)
