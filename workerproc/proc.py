"""A proc: one process, one channel, one action at a time.

Knows: the handshake, the loop, how an action is imported, decoded, run and answered.
Does not know: deadlines' enforcement, other procs, the tree.
Invariants: exits when its channel ends; dies with the root; a process the action forked never
gets back into the loop; whatever an action raises, `SystemExit` included, is an answer; an order
is begun as soon as it is taken out of the pipe, so that those still in it can be taken back.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from fsmv2.ipc.busywait import BusyWait
from fsmv2.ipc.codec import decode, decoder_of, encode
from fsmv2.ipc.frames import FRAME_BYTES_MAX, PROTOCOL, FrameBuffer, FrameError, pack_frame
from fsmv2.ipc.linux import die_with_parent, flush_c_streams, register_for_barriers
from fsmv2.ipc.messages import (
    Answer,
    Done,
    Fork,
    FromProc,
    Hello,
    Order,
    Raised,
    Run,
    Skipped,
    Spilled,
    ToProc,
    Warm,
)
from fsmv2.ipc.page import Page
from fsmv2.ipc.redact import may_hide, redact, secrets_in, texts_in
from fsmv2.workerproc import evidence, limits, records
from fsmv2.workerproc.anchor import anchor
from fsmv2.workerproc.context import Context, Surroundings, plain
from fsmv2.workerproc.limits import applied
from fsmv2.workerproc.records import shipper

EXIT_BAD_ORDER = 70
READ_BYTES = 1 << 16
# A frame's cap, less what surrounds the value in it.
INLINE_BYTES_MAX = FRAME_BYTES_MAX - 128
TRACEBACK_CHARS_MAX = 16_000
MESSAGE_CHARS_MAX = 4_000
KIND_CHARS_MAX = 200
ADOPTION_S_MAX = 5.0
# How old the reading of CPU time may be with which an action begins: what its certificate says
# is wrong by no more than that.
CPU_AGE_S = 0.001

_decode = decoder_of(ToProc)
_monotonic = time.monotonic
_getpid = os.getpid
# The name a class really has, past whatever its metaclass says.
_get_name = type.__dict__["__name__"].__get__


class Proc:
    """The loop. ``run`` returns the exit code."""

    def __init__(
        self,
        slot: str,
        run_read: int,
        result_write: int,
        page: Page,
        scratch: Path,
        result_bytes_max: int,
    ) -> None:
        self.slot = slot
        self._result_bytes_max = result_bytes_max
        # CPU seconds used so far, and when that was read: a system call, see `CPU_AGE_S`.
        self._cpu_s = 0.0
        self._cpu_at = 0.0
        os.set_blocking(run_read, False)
        self._run_read = run_read
        self._poll = select.poll()
        self._poll.register(run_read, select.POLLIN)
        self._waiting = BusyWait()
        self._stays_awake = False
        self._result_write = result_write
        self._page = page
        self._scratch = scratch
        self._buffer = FrameBuffer()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._surroundings = Surroundings(page, self._send, scratch, self._pid)

    def run(self) -> int:
        """Say hello, then run what comes until the channel ends or says so."""
        self._page.take_hold()
        self._rehearse()
        self._send(
            Hello(
                pid=self._pid,
                protocol=PROTOCOL,
                slot=self.slot,
                revokes=register_for_barriers(),
                anchor=anchor(),
            )
        )
        try:
            while data := self._waiting.wait(self._look, self._sleep, self._stays_awake):
                for body in self._buffer.feed(data):
                    order = _decode(body)
                    if isinstance(order, Run):
                        self._stays_awake = order.stays_awake
                        for place, each in enumerate(order.orders, order.place):
                            self._answer(each, place)
                    elif isinstance(order, Warm):
                        with contextlib.suppress(Exception):  # told when it is needed
                            _load(order.action)
                    else:
                        return 0
                if self._buffer.fault is not None:
                    raise self._buffer.fault
        except FrameError as error:
            print(f"fsmv2 proc {self.slot}: {error}", file=sys.stderr, flush=True)
            return EXIT_BAD_ORDER
        except BrokenPipeError:
            return 0
        return 0

    def _look(self) -> bytes:
        try:
            return os.read(self._run_read, READ_BYTES)
        except BlockingIOError:
            return b""

    def _sleep(self) -> bytes:
        self._poll.poll()
        return os.read(self._run_read, READ_BYTES)

    def _rehearse(self) -> None:
        """Run nothing, once, the whole way. A forked proc's first action would otherwise pay for
        the pages it writes to for the first time (measured: 2 to 4 ms), and that first action is
        the one that waits for a spare to take over."""
        run = Run(0, [(0, f"{__name__}:Rehearsal", encode(Rehearsal()), 1.0)])
        [order] = decode(encode(run), ToProc).orders
        self._buffer.feed(pack_frame(encode(self._result_of(order, 0))))

    def _answer(self, order: Order, place: int) -> None:
        answer = self._result_of(order, place)
        if _getpid() != self._pid:
            os._exit(0)  # a child the action forked: the channel is not its to write to
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # closed by the action, or whatever it put in their place
            pass
        loaded = _loaded.get(order[1])
        if loaded is not None and loaded.may_hide:
            # Later, the root would not know any more what must not be shown.
            flush_c_streams()
        self._send(answer)

    def _result_of(self, order: Order, place: int) -> Answer | Skipped:
        attempt_id, reference, payload, timeout_s = order
        page = self._page
        began_at = _monotonic()
        if began_at - self._cpu_at > CPU_AGE_S:
            self._cpu_s = time.process_time()
            self._cpu_at = began_at
        page.begin(attempt_id, began_at, self._cpu_s, place)
        if page.is_revoked(place):
            return Skipped(attempt_id, place)
        action = context = value = loaded = None
        try:
            loaded = _loaded.get(reference) or _load(reference)
            action = loaded.decode(payload)
            shipper.context = context = Context(
                self._surroundings, attempt_id, action, began_at, timeout_s
            )
            if loaded.is_unlimited:
                value = action.execute(context)
            else:
                with applied(action.limits, page):
                    value = action.execute(context)
            value = encode(value)
            if len(value) > INLINE_BYTES_MAX:
                return self._spill(attempt_id, value, began_at)
            return Done(attempt_id, value, began_at, _monotonic() - began_at)
        except BaseException as error:
            secrets = secrets_in((action, value))
            if action is None and loaded is not None and loaded.may_hide:
                secrets = _texts_of(payload)
            return self._raised(error, attempt_id, secrets, context, began_at)
        finally:
            shipper.context = None

    def _raised(
        self,
        error: BaseException,
        attempt_id: int,
        secrets: tuple[str, ...],
        context: Context | None,
        began_at: float,
    ) -> Raised:
        return Raised(
            attempt_id=attempt_id,
            kind=_name_of(type(error)),
            message=redact(_text_of(error), secrets)[:MESSAGE_CHARS_MAX],
            traceback=redact(_trace_of(error), secrets)[-TRACEBACK_CHARS_MAX:],
            began_at=began_at,
            ran_s=_monotonic() - began_at,
            cancelled=context is not None and context.cancelled,
        )

    def _spill(self, attempt_id: int, value: bytes, began_at: float) -> Spilled:
        """Leave what no frame holds in a file; whoever wants the value reads it there."""
        if len(value) > self._result_bytes_max:
            raise ValueError(
                f"cannot send result: got {len(value)} bytes, "
                f"want at most {self._result_bytes_max} bytes"
            )
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._scratch / f"spill-{attempt_id}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(value)
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        return Spilled(attempt_id, len(value), began_at, time.monotonic() - began_at)

    def _send(self, message: FromProc) -> None:
        frame = pack_frame(encode(message))
        with self._lock:  # an action's threads may log at once; a frame is never interleaved
            written = os.write(self._result_write, frame)
            while written < len(frame):
                written += os.write(self._result_write, memoryview(frame)[written:])


class Rehearsal(msgspec.Struct, frozen=True):
    """An action that does nothing, see `Proc._rehearse`."""

    timeout_s_max: ClassVar[float | None] = None
    limits: ClassVar[None] = None

    def execute(self, ctx: Context) -> str:
        """Touch what actions touch."""
        return f"{ctx.deadline_s}{ctx.cancelled}"


class Loaded:
    """An action type as this proc runs it."""

    __slots__ = ("decode", "is_unlimited", "may_hide")

    def __init__(self, kind: Any) -> None:
        self.decode = decoder_of(kind)
        self.is_unlimited = limits.are_none(kind.limits)
        self.may_hide = may_hide(kind)


_loaded: dict[str, Loaded] = {}


def _load(reference: str) -> Loaded:
    loaded = _loaded[reference] = Loaded(resolve(reference))
    return loaded


def resolve(reference: str) -> Any:
    """The class behind ``module:qualname``; raises ImportError or AttributeError, said well."""
    module_name, _, qualname = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(f"cannot import action {reference}: {error}") from error
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AttributeError(
                f"cannot find action {reference}: {module_name} has no {qualname}; want a class "
                "at the top level of an importable module"
            ) from None
    return found


def _texts_of(payload: bytes) -> tuple[str, ...]:
    """All texts of an action that cannot be read: which of them are secret nobody can tell."""
    try:
        return texts_in(decode(payload, Any))
    except FrameError:
        return ()


def _name_of(kind: type[BaseException]) -> str:
    return plain(_get_name(kind))[:KIND_CHARS_MAX]


def _text_of(error: BaseException) -> str:
    try:
        return plain(str(error))
    except BaseException:  # `__str__` is the action's: it may raise SystemExit, too
        return "<the exception's text could not be made>"


def _trace_of(error: BaseException) -> str:
    try:
        # Our own two frames on top say nothing about the action.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        return plain("".join(traceback.format_exception(type(error), error, trace)))
    except BaseException:
        return "<the traceback could not be formatted>"


def wait_for_adoption(root_pid: int, middle_pid: int) -> None:
    """Return once the root is our parent; exit if anybody else is: then the root is gone.

    We were forked by a process that exits at once, so that the root (a sub-reaper) becomes our
    parent and can wait for us. Re-parenting happens after that process closes its files, so
    there is nothing to wait on but `getppid`.
    """
    give_up = time.monotonic() + ADOPTION_S_MAX
    while (parent := os.getppid()) != root_pid:
        if parent != middle_pid or time.monotonic() > give_up:
            os._exit(0)
        time.sleep(0.0002)
    die_with_parent(root_pid)


def join_group(path: str) -> None:
    """Join the kernel group whose list of processes is the file ``path``; what this process
    starts from now on is born into it. Without the group, the root has other ways to find it."""
    if path:
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
            file.write(b"0")


def proc_main(order: Fork, middle_pid: int, scratch: str, fds: list[int]) -> int:
    """Become the forked proc of ``order``; ``fds`` are in the order of `ipc.messages.PROC_FDS`."""
    os.setsid()
    wait_for_adoption(order.root_pid, middle_pid)
    return serve(order, scratch, fds)


def serve(order: Fork, scratch: str, fds: list[int]) -> int:
    """Settle in and run the loop of ``order``'s proc, in a session of its own already."""
    run_read, result_write, page_fd, woken_write, output_write = fds
    slot = order.slot
    join_group(order.group)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output_write, 1)
    os.dup2(output_write, 2)
    for fd in (null, output_write):
        os.close(fd)
    for fd in (run_read, result_write, page_fd, woken_write):
        os.set_inheritable(fd, False)  # a program the action starts has no business with them
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # The terminal's Ctrl-C is the root's business; everything else keeps its usual meaning.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["FSMV2_SLOT"] = f"{slot}:{os.getpid()}"
    evidence.install(page_fd, woken_write)
    records.install()
    page, folder = Page(page_fd), Path(scratch)
    return Proc(slot, run_read, result_write, page, folder, order.result_bytes_max).run()
