"""Stacks read from outside: real processes that hang in every way a proc can.

What is read is held against the line that the target marks with HERE, and against what
faulthandler says in the target wherever a signal can still make it say something.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import hanging_target
import pool_actions
import pytest
from driving import driven
from running import PATIENCE_S, until

from fsmv2.supervisor.pool import witness
from fsmv2.supervisor.stacks.outsidereader import read_stacks, reader_capability, reader_fault
from fsmv2.supervisor.stacks.processmemory import ProcessMemory, could_wait
from fsmv2.supervisor.stacks.pythonlayout import supposed_layout
from fsmv2.supervisor.stacks.pythonstack import FRAMES_MAX, StackWalk
from fsmv2.workerproc.anchor import anchor

pytestmark = pytest.mark.proc

FILE = hanging_target.__file__
# A busy machine takes the processor away from the reader for longer than its usual budget.
BUDGET_S = 5.0
THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]{16}) \(most recent call first\):")
FRAME = re.compile(r'  File "(?P<file>[ -~]*)", line (?P<line>\d+|\?\?\?) in (?P<name>[ -~]+)')


class Target(NamedTuple):
    """A process that hangs, and what it said of itself before."""

    process: subprocess.Popen[bytes]
    anchor: int
    heap: int
    pid: int
    errors: Path

    def stacks(self) -> str | None:
        return read_stacks(self.pid, self.anchor, BUDGET_S)

    def stacks_with(self, part: str, moves: bool = False) -> str:
        """Its stacks, once they have ``part`` in them and, if it does not move, stay the same."""

        def look() -> str | None:
            text = self.stacks()
            return text if text and part in text and (moves or text == self.stacks()) else None

        return str(until(look, f"{part} in its stacks"))


@contextmanager
def hanging(shape: str, tmp_path: Path) -> Iterator[Target]:
    """``shape`` of `hanging_target`, in a process group of its own, which ends with the block."""
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", FILE, shape],
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().split()
        assert len(line) == 3, errors.read_text()
        yield Target(process, int(line[0]), int(line[1]), int(line[2]), errors)
    finally:
        process.stdout.close()
        if process.returncode is None:  # else the group's number is somebody else's by now
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)


def marked_lines() -> dict[str, int]:
    """The line with HERE of each function at the top level of the target's file."""
    found: dict[str, int] = {}
    function = ""
    for number, line in enumerate(Path(FILE).read_text("utf-8").splitlines(), 1):
        if line.startswith("def "):
            function = line[4:].partition("(")[0]
        elif line.endswith("# HERE"):
            found[function] = number
    return found


HERE = marked_lines()


def place(shape: str, name: str | None = None) -> str:
    """How a stack says that it is in the marked line of ``shape``."""
    shown = (name or shape).encode("ascii", "backslashreplace").decode()
    return f'  File "{FILE}", line {HERE[shape]} in {shown}\n'


def threads_of(text: str) -> dict[str, list[str]]:
    """The lines of each thread by its identifier; each of ``text`` has to be a dump's."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        head = THREAD.fullmatch(line)
        if head:
            lines = found.setdefault(head[1], [])
        elif line:
            assert line in ("  ...", "  <no Python frame>") or FRAME.fullmatch(line), line
            lines.append(line)
    return found


def said_by_faulthandler(target: Target) -> str:
    """What faulthandler writes on a signal, complete."""
    os.kill(target.pid, signal.SIGUSR1)
    end = re.compile(r"( in run\n.* in <module>\n|  \.\.\.\n)\Z", re.DOTALL)
    # 3.13 cuts as early as the others, but does not say that it did.
    cut = 1 + FRAMES_MAX if sys.version_info >= (3, 13) else -1

    def dump() -> str | None:
        text = target.errors.read_text()
        if text.count("\n") == cut and text.endswith("\n"):
            return f"{text}  ...\n"
        return text if end.search(text) else None

    return str(until(dump, "faulthandler's dump"))


NON_ASCII = next(shape for shape in HERE if not shape.isascii())
# Where the topmost Python frame is another one than the function that has the shape's name.
INNER = {
    "from_c": "<lambda>",
    "generator": "outer",
    "coroutine": "items",
    "expression": "<genexpr>",
    "class_body": "Body",
    "comprehension": "<listcomp>" if sys.version_info < (3, 12) else "comprehension",
}


def test_every_shape_of_the_target_is_tried() -> None:
    """The shapes that tests here name are the ones that the target has."""
    assert {*PLAIN, *UNSIGNALLED, "loop", "forked"} == set(HERE)


PLAIN = (
    *("sleep", "lock", "regex", "big_number", "deep", "threads", NON_ASCII, "after_handling"),
    *INNER,
)
UNSIGNALLED = ("blocked", "stopped", "replaced")


@pytest.mark.parametrize("shape", PLAIN)
def test_what_is_read_is_what_faulthandler_says(shape: str, tmp_path: Path) -> None:
    """Same threads, same frames, same lines, same cuts, for every way to hang."""
    with hanging(shape, tmp_path) as target:
        text = target.stacks_with(place(shape, INNER.get(shape)))
        assert threads_of(text) == threads_of(said_by_faulthandler(target))


def test_long_functions_and_hostile_names_are_read_as_faulthandler_says(tmp_path: Path) -> None:
    """A line table of many long entries; a file name with newlines, escapes and no end."""
    with hanging("generated", tmp_path) as target:
        text = target.stacks_with(" line 15003 in f\n")
        name = 'a "name"\\x0a of \\x1b many\\udcff lines\\xe9'
        assert text.splitlines()[1].startswith(f'  File "{name}')
        assert "..." in text.splitlines()[1]
        said = said_by_faulthandler(target)
        # faulthandler escapes control characters as we do, and cuts where we do.
        assert threads_of(text) == threads_of(said)


@pytest.mark.parametrize("shape", UNSIGNALLED)
def test_procs_that_no_signal_reaches_are_read(shape: str, tmp_path: Path) -> None:
    """All signals blocked, ignored, or the process stopped: the stack comes all the same."""
    with hanging(shape, tmp_path) as target:
        text = target.stacks_with(place(shape))
        assert text.count("Thread 0x") == 1
        names = [match["name"] for match in FRAME.finditer(text)]
        assert names == [shape, "run", "<module>"]
        os.kill(target.pid, signal.SIGUSR1)
        assert target.stacks() == text
        assert target.errors.read_text() == ""


def test_a_stopped_process_stays_stopped(tmp_path: Path) -> None:
    """Reading neither wakes nor traces it."""
    with hanging("stopped", tmp_path) as target:
        target.stacks_with(place("stopped"))
        status = Path(f"/proc/{target.pid}/status").read_text()
        assert "\nState:\tT (stopped)\n" in status
        assert "\nTracerPid:\t0\n" in status


def test_a_running_loop_is_found(tmp_path: Path) -> None:
    """Python code that never waits; the line may be any of its loop."""
    with hanging("loop", tmp_path) as target:
        names = [m["name"] for m in FRAME.finditer(target.stacks_with(" in loop\n", moves=True))]
        assert names == ["loop", "run", "<module>"]
        target.stacks_with(place("loop"), moves=True)


def test_a_running_process_is_never_said_to_be_where_it_cannot_be(tmp_path: Path) -> None:
    """Frames that come and go while they are read: a stack may be short, not senseless."""
    possible = {"churn", "up", "across", "<genexpr>", "run", "<module>"}
    with hanging("churn", tmp_path) as target:
        target.stacks_with(" in up\n", moves=True)
        texts = [target.stacks() or "" for _ in range(300)]
        seen = {match["name"] for text in texts for match in FRAME.finditer(text)}
        assert seen <= possible
        whole = [text for text in texts if text.endswith(" in <module>")]
        assert whole


def test_threads_come_with_the_main_thread_first(tmp_path: Path) -> None:
    """An action runs in the main thread."""
    with hanging("threads", tmp_path) as target:
        text = target.stacks_with(place("threads"))
        first, *others = text.split("\n\n")
        assert place("threads") in first
        assert len(others) == 4
        assert sum(place("sleep") in other for other in others) == 2
        assert sum(place("lock") in other for other in others) == 1


def test_deep_recursion_is_cut(tmp_path: Path) -> None:
    """The most recent calls are there, and that there were more."""
    with hanging("deep", tmp_path) as target:
        lines = target.stacks_with(place("deep")).splitlines()
        assert len(lines) == 1 + FRAMES_MAX + 1
        assert lines[-1] == "  ..."


def test_a_fork_is_read_with_the_anchor_of_its_template(tmp_path: Path) -> None:
    """The address is asked before the fork once, and holds for all procs."""
    with hanging("forked", tmp_path) as target:
        assert target.pid != target.process.pid
        target.stacks_with(place("sleep"))
        text = str(read_stacks(target.process.pid, target.anchor, BUDGET_S))
        assert place("forked") in text


def test_a_process_that_may_hold_up_its_reader_is_left_alone(tmp_path: Path) -> None:
    """Who waits uninterruptibly may hold the lock of its memory."""
    with hanging("uninterruptible", tmp_path) as target:
        parent = target.process.pid
        until(lambda: could_wait(parent), "state D")
        assert read_stacks(parent, target.anchor, BUDGET_S) is None
        assert target.pid != parent
        target.stacks_with(" in uninterruptible\n")


# --- nothing to read --------------------------------------------------------------------------


def test_a_process_that_dies_while_it_is_read_ends_the_look(tmp_path: Path) -> None:
    """After any of the reads: what follows is not read, and nothing raises."""
    layout = supposed_layout()
    for reads in (0, 1, 2, 5, 11, 23):
        with hanging("threads", tmp_path) as target:
            target.stacks_with(" in generator_of\n")
            with ProcessMemory(target.pid, float("inf")) as memory:
                read = _killing_after(reads, memory, target)
                stacks = StackWalk(read, layout, target.anchor, float("inf")).stacks()
            assert not stacks.is_sound
            assert target.stacks() is None


def _killing_after(reads: int, memory: ProcessMemory, target: Target) -> Callable[..., bytes]:
    left = reads

    def read(address: int, size: int) -> bytes:
        nonlocal left
        if left == 0:
            target.process.kill()
            os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        left -= 1
        memory.forget()
        return memory.read(address, size)

    return read


def test_the_dead_the_unborn_and_strangers_have_no_stack(tmp_path: Path) -> None:
    """A zombie, a process that is gone, numbers that are no process, another program."""
    with hanging("sleep", tmp_path) as target:
        target.stacks_with(place("sleep"))
        target.process.kill()
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        assert target.stacks() is None
        target.process.wait()
        assert target.stacks() is None
    for pid in (0, -1, 2**31, 2**70):
        assert read_stacks(pid, anchor(), BUDGET_S) is None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        until(lambda: os.readlink(f"/proc/{other.pid}/exe") != sys.executable, "cat runs")
        assert read_stacks(other.pid, target.anchor, BUDGET_S) is None
        other.kill()


def test_an_anchor_that_leads_nowhere_gives_nothing(tmp_path: Path) -> None:
    """Garbage, near misses, a place on the heap, not even a number."""
    with hanging("sleep", tmp_path) as target:
        target.stacks_with(place("sleep"))
        near = [target.anchor + step for step in (-4096, -8, 1, 8, 16, 4096, 1 << 20)]
        for wrong in (0, -1, 1, 2**63, 2**64 - 1, 2**80, target.heap, *near):
            assert read_stacks(target.pid, wrong, BUDGET_S) is None, wrong
        nonsense: object = None
        assert read_stacks(target.pid, nonsense, BUDGET_S) is None  # type: ignore[arg-type]


def test_without_time_nothing_is_read(tmp_path: Path) -> None:
    """The budget is kept from the start."""
    with hanging("sleep", tmp_path) as target:
        target.stacks_with(place("sleep"))
        assert read_stacks(target.pid, target.anchor, 0.0) is None
        assert read_stacks(target.pid, target.anchor, float("nan")) is None


def test_a_process_of_another_user_is_refused_by_the_kernel(tmp_path: Path) -> None:
    """No right to read is no stack, not an error."""
    with hanging("sleep", tmp_path) as target:
        target.stacks_with(place("sleep"))
        reader = os.fork()
        if reader == 0:
            _exit_as_nobody_after(target)
        _, status = os.waitpid(reader, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 2:
            pytest.skip("cannot become another user here, and the kernel lets this one read")
        assert code == 0


def _exit_as_nobody_after(target: Target) -> None:
    """Exit code 0: as another user it read nothing."""
    try:
        os.setresgid(65_534, 65_534, 65_534)
        os.setresuid(65_534, 65_534, 65_534)
    except OSError:
        os._exit(2)
    os._exit(0 if target.stacks() is None else 1)


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    """Looks that find something, and looks that do not, leave nothing open."""
    with hanging("sleep", tmp_path) as target:
        target.stacks_with(place("sleep"))
        before = os.listdir("/proc/self/fd")
        for wrong in (0, 8):
            read_stacks(target.pid, target.anchor + wrong, BUDGET_S)
        target.process.kill()
        target.process.wait()
        target.stacks()
        assert os.listdir("/proc/self/fd") == before


def test_the_reader_works_on_this_machine_or_says_why_not() -> None:
    """Every other test here stands on this."""
    assert reader_fault() is None
    works, how = reader_capability()
    assert works, how
    assert ".".join(map(str, sys.version_info[:3])) in how


# --- in a pool ------------------------------------------------------------------------------


def test_a_certificate_says_that_the_time_for_reading_was_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On procs that died at the same moment; here on nobody, there is none."""
    monkeypatch.setattr(witness, "READER_BUDGET_S", 0.0)
    with driven({"actions": 1}, spares=0) as made:
        result = made.run(pool_actions.StopMyself(), timeout_s=0.5)

    assert result.verdict == "stopped_process"
    assert result.certificate is not None
    assert result.certificate.stack is None
    assert (result.certificate.detail or "").endswith(witness.UNREAD)
