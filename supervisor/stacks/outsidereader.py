"""Names the guilty function of a proc that cannot say it itself: its stacks, read from outside.

Knows: how to try a layout on its own process, how a stack is written down.
Does not know: why somebody asks, the pool, certificates.
Invariants: never raises, never stops or changes the process it reads, ends with its budget; says
None rather than something that it did not read; trusts a layout only after it has read a stack of
its own process with it and found what the interpreter itself says.

Needs no signal and no help from the proc, so it also works where faulthandler cannot: all signals
blocked, stopped, handler replaced, Python's own lock held in C. What can still go wrong: a process
that runs on while it is read may show two moments in one stack; a look is taken up to `LOOKS_MAX`
times until all of it fits together and each thread is still in the call that it was found in.
"""

from __future__ import annotations

import functools
import inspect
import os
import select
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from operator import eq

from fsmv2.supervisor.stacks.processmemory import ProcessMemory, could_wait
from fsmv2.supervisor.stacks.pythonlayout import Layout, LayoutUnknown, supposed_layout
from fsmv2.supervisor.stacks.pythonstack import (
    FRAMES_MAX,
    UNKNOWN,
    Frame,
    Stacks,
    StackWalk,
    ThreadStack,
    printable,
)

LOOKS_MAX = 3
TEXT_BYTES_MAX = 256 * 1024
_TRY_BUDGET_S = 1.0
_CHILD_PATIENCE_S = 10.0
_WORD = struct.Struct("<Q")


def read_stacks(pid: int, anchor: int, budget_s: float = 0.01) -> str | None:
    """The stacks of all threads of the CPython process ``pid``, as faulthandler writes them, the
    main thread first. None where nothing could be read: no such process, no right to, another
    interpreter, an address that leads nowhere, a process whose memory cannot be looked at now
    without waiting for it.

    ``anchor`` is what `fsmv2.workerproc.anchor` said in that process or in the one it was forked
    from. At most about ``budget_s`` seconds are used; what was found by then is given. The first
    call also tries the layout on the own process: some milliseconds more, which
    `reader_fault` takes earlier.
    """
    # The root lives on, whatever a foreign memory made of this: evidence is worth no tick.
    try:
        layout = _proven_layout()
        until_s = time.monotonic() + budget_s
        # Not `budget_s <= 0`: nothing is later than a moment that is not a number.
        if not budget_s > 0 or isinstance(layout, str) or could_wait(pid):
            return None
        with ProcessMemory(pid, until_s) as memory:
            best = _look(memory, layout, anchor, until_s)
        return as_text(best) if best.threads else None
    except Exception:
        return None


def _look(memory: ProcessMemory, layout: Layout, anchor: int, until_s: float) -> Stacks:
    best = Stacks((), False)
    for _ in range(LOOKS_MAX):
        walk = StackWalk(memory.read, layout, anchor, until_s)
        found = walk.stacks()
        memory.forget()
        if found.is_sound and walk.still_stands():
            return found
        if _frames(found) >= _frames(best):
            best = found
        if not found.threads or time.monotonic() >= until_s:
            break
    return best


def _frames(stacks: Stacks) -> int:
    return sum(len(thread.frames) for thread in stacks.threads)


def as_text(stacks: Stacks) -> str:
    """``stacks`` in the shape of a dump by faulthandler; at most `TEXT_BYTES_MAX` characters."""
    parts: list[str] = []
    left = TEXT_BYTES_MAX
    for thread in stacks.threads:
        part = "\n".join(_lines(thread))
        left -= len(part) + 2
        if left < 0:
            break
        parts.append(part)
    return "\n\n".join(parts)


def _lines(thread: ThreadStack) -> list[str]:
    lines = [f"Thread 0x{thread.ident:016x} (most recent call first):"]
    for frame in thread.frames:
        line = UNKNOWN if frame.line is None else frame.line
        lines.append(f'  File "{frame.filename}", line {line} in {frame.name}')
    if thread.is_cut:
        lines.append("  ...")
    elif not thread.frames:
        lines.append("  <no Python frame>")
    return lines


def reader_fault() -> str | None:
    """Why this interpreter's stacks cannot be read from outside; None if they can be.

    Tried once per process, on the own stack, in some milliseconds: good to ask at the start.
    Whether another process may be read is `reader_capability`'s question.
    """
    layout = _proven_layout()
    return layout if isinstance(layout, str) else None


@functools.cache
def _proven_layout() -> Layout | str:
    try:
        layout = supposed_layout()
        fault = _through_all_shapes(lambda: _fault_of(layout))
    except (LayoutUnknown, OSError) as error:
        return str(error)
    return fault if fault else layout


def _fault_of(layout: Layout) -> str:
    """Compare the own stack as ``layout`` reads it with what the interpreter says; "" if equal."""
    inside, own, top = layout.inside, _WORD.pack(threading.get_ident()), 0
    until_s = time.monotonic() + _TRY_BUDGET_S
    with ProcessMemory(os.getpid(), until_s) as memory:
        walk = StackWalk(memory.read, layout, layout.main_interpreter, until_s)
        for state in walk.thread_states():
            if memory.read(state + inside.thread_ident, 8) == own:
                # Read right here, in a call to C, so that the topmost frame is this function's:
                # the reader's own frames come and go while they are being read.
                top = _WORD.unpack(os.pread(memory.fd, 8, state + inside.thread_frame))[0]
                if inside.cframe_frame is not None:
                    top = _WORD.unpack(os.pread(memory.fd, 8, top + inside.cframe_frame))[0]
        read, _ = walk.frames_from(top)
    told: list[Frame] = []
    here = inspect.currentframe()
    while here is not None:
        code = here.f_code
        told.append(Frame(printable(code.co_filename), here.f_lineno, printable(code.co_name)))
        here = here.f_back
    equal = sum(map(eq, read[1:], told[1:]))  # the line of the first has moved on since
    if equal < _SHAPES_FRAMES or equal != len(read) - 1:
        return (
            f"layout unknown: cannot read the own stack: got {len(read)} frames, "
            f"{equal} of them as the interpreter says, want {min(len(told), FRAMES_MAX)}"
        )
    return ""


def _plainly(then: Callable[[], object]) -> None:
    then()


def _from_c(then: Callable[[], object]) -> None:
    max((0,), key=lambda _: bool(then()))


def _in_generator(then: Callable[[], object]) -> None:
    next(then() for _ in (0,))


# Frames are linked in another way for each of these; a text has another shape for each of those.
_SHAPES = (_plainly, _from_c, _in_generator)
_NAMES = ("plain", "größe", "длина", "\U00010400")
_SHAPES_FRAMES = len(_SHAPES) * len(_NAMES)


def _through_all_shapes(look: Callable[[], str]) -> str:
    found: list[str] = []
    then: Callable[[], object] = lambda: found.append(look())  # noqa: E731
    for name in _NAMES:
        for shape in _SHAPES:
            code = shape.__code__.replace(co_name=name, co_filename=f"<{name}>")
            then = functools.partial(types.FunctionType(code, globals()), then)
    then()
    return found[0]


# What a proc's `fsmv2.workerproc.anchor` says, in a process that needs none of our modules.
_CHILD = """
import ctypes, sys
def waiting():
    print(ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyInterpreterState_Main", ctypes.pythonapi))())
    sys.stdout.flush()
    sys.stdin.read()
waiting()
"""


def reader_capability() -> tuple[bool, str]:
    """Whether stacks can be read from outside on this machine, and how or why not.

    For a doctor command: starts a Python process, reads it and ends it, which takes some tens of
    milliseconds; 10 s at most. Never raises.
    """
    fault = reader_fault()
    if fault is not None:
        return False, fault
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        return False, f"cannot start a Python process to read: {error}"
    with child:
        try:
            return _try_on(child)
        except (OSError, ValueError) as error:
            return False, f"cannot read a child's stack: {error}{_ptrace_scope(error)}"
        finally:
            child.kill()


def _ptrace_scope(error: Exception) -> str:
    """What the Yama security module says, where it may be why the kernel refused. Source:
    Documentation/admin-guide/LSM/Yama.rst."""
    if not isinstance(error, PermissionError):
        return ""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = file.read().strip()
    except OSError:
        return ""
    return f" (kernel.yama.ptrace_scope is {scope}, want 0 or 1, or CAP_SYS_PTRACE)"


def _try_on(child: subprocess.Popen[bytes]) -> tuple[bool, str]:
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], _CHILD_PATIENCE_S)
    if not ready:
        return False, f"a Python process to read did not start within {_CHILD_PATIENCE_S:g} s"
    anchor = int(os.read(child.stdout.fileno(), 64) or b"0")
    ProcessMemory(child.pid, 0.0).close()
    stacks = read_stacks(child.pid, anchor, _TRY_BUDGET_S)
    if stacks is None or "in waiting" not in stacks:
        return False, "read a child's memory, and found no stack in it"
    version = ".".join(map(str, sys.version_info[:3]))
    return True, f"CPython {version} through /proc/PID/mem, tried on this process and on a child"
