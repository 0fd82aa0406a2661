"""The loop of a proc, run in this process: each order has its answer, whatever it was, and the loop
ends by the root's word, by its end, or by a frame that is none."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameBuffer, pack_frame
from fsmv2.ipc.messages import (
    Done,
    Exit,
    FromProc,
    Hello,
    Message,
    Raised,
    Run,
    Skipped,
    Spilled,
    Warm,
)
from fsmv2.ipc.page import Page, create_page
from fsmv2.workerproc import proc
from fsmv2.workerproc.anchor import anchor
from fsmv2.workerproc.context import Context
from fsmv2.workerproc.proc import EXIT_BAD_ORDER, INLINE_BYTES_MAX, Proc, join_group

SPILL_BYTES_MAX = 3 << 20


class Does(msgspec.Struct, frozen=True):
    """An action that calls what the test has put there."""

    timeout_s_max: ClassVar[float | None] = None
    limits: ClassVar[None] = None
    now: ClassVar[Callable[[], Any]]

    def execute(self, _context: Context) -> Any:
        """Whatever it is."""
        return type(self).now()


class Bench:
    """A proc and the root's ends of its pipes."""

    def __init__(self, scratch: Path) -> None:
        run_read, self.run_write = os.pipe()
        self.result_read, result_write = os.pipe()
        os.set_blocking(self.result_read, False)
        self.fds = [run_read, self.run_write, self.result_read, result_write]
        self.page = Page(create_page("p1"))
        self.scratch = scratch
        self.proc = Proc("p1", run_read, result_write, self.page, scratch, SPILL_BYTES_MAX)

    def close(self, fd: int) -> None:
        """Once."""
        self.fds.remove(fd)
        os.close(fd)

    def run(self, *messages: Message | bytes) -> tuple[int, list[FromProc]]:
        """Exit code and answers of a proc that is told ``messages``, and then that the root has
        ended."""
        for each in messages:
            frame = each if isinstance(each, bytes) else pack_frame(encode(each))
            os.write(self.run_write, frame)
        self.close(self.run_write)
        code = self.proc.run()
        data = b"".join(iter(self._read, b""))
        return code, [decode(body, FromProc) for body in FrameBuffer().feed(data)]

    def _read(self) -> bytes:
        try:
            return os.read(self.result_read, 1 << 16)
        except BlockingIOError:
            return b""

    def answer(self, does: Callable[[], Any]) -> Any:
        """What comes of one action."""
        Does.now = staticmethod(does)
        code, (hello, answer) = self.run(order(f"{__name__}:Does"))
        assert (code, type(hello)) == (0, Hello)
        return answer


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """One that has not begun."""
    # Held for as long as the thread lives, and its page does not live that long here.
    monkeypatch.setattr(Page, "take_hold", lambda _page: None)
    monkeypatch.setattr(proc, "_loaded", {f"{__name__}:Does": proc.Loaded(Does)})
    made = Bench(tmp_path / "scratch")
    yield made
    for fd in list(made.fds):
        made.close(fd)


def order(*references: str) -> Run:
    """Run these, each with no fields."""
    return Run(0, [(7 + n, one, b"\x80", 5.0) for n, one in enumerate(references)])


# --- its end --------------------------------------------------------------------------------


def test_what_the_root_says_last_ends_it(bench: Bench) -> None:
    code, (hello, done) = bench.run(order(f"{proc.__name__}:Rehearsal"), Exit(), order("never:X"))
    assert (code, type(done)) == (0, Done)
    assert isinstance(hello, Hello)
    assert (hello.pid, hello.slot) == (os.getpid(), "p1")


def test_bytes_that_are_no_frame_end_it_with_a_code_of_their_own(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answers = bench.run(b"\xff" * 64)
    assert (code, len(answers)) == (EXIT_BAD_ORDER, 1)
    assert capsys.readouterr().err.startswith("fsmv2 proc p1: ")


def test_a_frame_that_is_no_order_ends_it_too(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = bench.run(pack_frame(b"\x81\xa1x\x01"))
    assert code == EXIT_BAD_ORDER
    assert "fsmv2 proc p1: " in capsys.readouterr().err


def test_a_root_that_is_gone_is_its_end_and_no_fault(bench: Bench) -> None:
    def leave() -> None:
        bench.close(bench.result_read)

    Does.now = staticmethod(leave)
    os.write(bench.run_write, pack_frame(encode(order(f"{__name__}:Does"))))
    assert bench.proc.run() == 0


# --- its answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "kind", "told"),
    [
        ("no_such_module:X", "ImportError", "cannot import action no_such_module:X: No module na"),
        ("fsmv2.ipc.page:No", "AttributeError", "cannot find action fsmv2.ipc.page:No: fsmv2.ip"),
    ],
)
def test_an_action_that_is_not_there_is_told_with_what_is_wanted(
    reference: str, kind: str, told: str, bench: Bench
) -> None:
    """Also after a warm-up for it, which nobody hears of."""
    _, (_, raised) = bench.run(Warm(reference), order(reference))
    assert isinstance(raised, Raised)
    assert raised.kind == kind
    assert raised.message.startswith(told)


def test_fields_that_do_not_fit_are_told_before_the_action_begins(bench: Bench) -> None:
    _, (_, raised) = bench.run(Run(0, [(7, f"{__name__}:Does", b"\xc1", 5.0)]))
    assert isinstance(raised, Raised)
    assert raised.kind == "FrameError"


def test_an_order_that_was_revoked_is_skipped_and_the_next_is_run(bench: Bench) -> None:
    bench.page.revoke(0, 1)
    Does.now = staticmethod(lambda: 5)
    _, (_, *answers) = bench.run(order(f"{__name__}:Does", f"{__name__}:Does"))
    assert [type(one) for one in answers] == [Skipped, Done]


def test_what_an_action_raises_is_told_however_odd_it_is(bench: Bench) -> None:
    """Its text may raise even what ends a process."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise SystemExit

    def fail() -> None:
        raise Odd

    raised = bench.answer(fail)
    assert raised.kind == "Odd"
    assert raised.message == "<the exception's text could not be made>"
    assert "in fail" in raised.traceback
    assert "in _result_of" not in raised.traceback, "our own frames say nothing"


def test_a_text_with_what_utf_8_cannot_hold_is_told_escaped(bench: Bench) -> None:
    def fail() -> None:
        raise ValueError(b"name \xff".decode("utf-8", "surrogateescape"))

    assert bench.answer(fail).message == "name \\udcff"


def test_a_trace_that_cannot_be_formatted_is_said_to_be_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(proc.traceback, "format_exception", lambda *_: 1 / 0)
        raised = bench.answer(fail)
    assert raised.message == "'gone'"
    assert raised.traceback == "<the traceback could not be formatted>"


def test_streams_that_an_action_has_closed_cost_its_answer_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil() -> int:
        monkeypatch.setattr("sys.stdout", None)
        return 5

    answer = bench.answer(spoil)
    monkeypatch.undo()
    assert decode(answer.value, int) == 5


# --- large values ---------------------------------------------------------------------------


def test_what_no_frame_holds_is_left_in_a_file_of_the_proc(bench: Bench) -> None:
    answer = bench.answer(lambda: b"x" * (INLINE_BYTES_MAX + 1))
    assert isinstance(answer, Spilled)
    path = bench.scratch / "spill-7"
    assert path.stat().st_size == answer.size > INLINE_BYTES_MAX
    assert path.stat().st_mode & 0o777 == 0o600


def test_more_than_the_root_allows_is_refused_and_leaves_no_file(bench: Bench) -> None:
    answer = bench.answer(lambda: b"x" * (SPILL_BYTES_MAX + 1))
    assert answer.message.startswith("cannot send result: got ")
    assert answer.message.endswith(f"want at most {SPILL_BYTES_MAX} bytes")
    assert not bench.scratch.exists()


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 100_000:  # that is no pipe
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        answer = bench.answer(lambda: b"x" * (INLINE_BYTES_MAX + 1))
    assert (answer.kind, "No space left" in answer.message) == ("OSError", True)
    assert list(bench.scratch.iterdir()) == []


# --- around it ------------------------------------------------------------------------------


def test_a_group_is_joined_by_writing_oneself_down_and_never_missed(tmp_path: Path) -> None:
    procs = tmp_path / "cgroup.procs"
    procs.touch()
    join_group(str(procs))
    assert procs.read_text() == "0"
    join_group(str(tmp_path / "gone/cgroup.procs"))
    join_group("")


def test_an_interpreter_without_the_call_has_no_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert anchor() == anchor() > 0

    def no_such_symbol(*_types: object) -> Callable[[object], object]:
        def look_up(_name: object) -> object:
            raise AttributeError("undefined symbol")

        return look_up

    monkeypatch.setattr(ctypes, "PYFUNCTYPE", no_such_symbol)
    assert anchor() == 0
