"""A new config is checked in a process of its own, which may hang, crash or be killed.

Checking imports plug-ins and runs worker code, which is nobody's to trust and takes its time:
neither may hold up a tick. What the root gets back is checked settings and a plan, as data.

Knows: how the check is started, what goes in and comes out, its deadline.
Does not know: what asks for a check, what becomes of its result.
Invariants: nothing is ever waited for here; both directions go through anonymous memory, so that
no pipe can be full and no config lies in another file; a check that does not end by itself in
time (`CHECK_S_MAX`, and more for a large file) is killed; whatever the process does, one `Verdict`
comes of it; what it has started is found by its session or its mark.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.linux import die_with_parent
from fsmv2.supervisor.config.config import FILE_BYTES_MAX, read_config
from fsmv2.supervisor.config.configcheck import check_settings
from fsmv2.supervisor.config.configfault import ConfigError, Fault, Places, in_order
from fsmv2.supervisor.config.filewatch import mark_of
from fsmv2.supervisor.config.plans import PlanDocument, plan_document, restart_faults, shortened
from fsmv2.supervisor.config.plugins import load_plugins, try_plugins
from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.pool.certificate import death_verdict
from fsmv2.supervisor.system import processes
from fsmv2.supervisor.system.poller import Poller

# A config of 10,000 workers, some 0.5 ms each, twice, also on a machine that is busy.
CHECK_S_MAX, CHECK_S_PER_MIB = 10.0, 60.0
# The root imports a new plug-in between two ticks: longer than this it may not stand still.
IMPORT_S_MAX = 1.0
VERDICT_BYTES_MAX = 64 << 20


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a check: ``settings`` and ``plan``, or ``faults``."""

    faults: tuple[str, ...] = ()
    settings: Settings | None = None
    plan: PlanDocument | None = None


def judge(path: str, before: Settings | None, further: tuple[str, ...] = ()) -> Verdict:
    """Check the config at ``path`` as one that follows ``before`` (None: nothing runs), and plan.
    Imports the plug-ins of both; ``further`` are folders they may lie in, beside the config's."""
    faults: list[Fault] = []
    places = Places()
    try:
        after, places = read_config(path)
        search = (str(Path(path).parent), *further)
        if before is not None:
            faults += restart_faults(before, after, places)
            load_plugins(before.plugins, search, places)
        began = time.monotonic()
        plugins, unusable = try_plugins(after.plugins, search, places)
        took_s = time.monotonic() - began
        if before is not None and took_s > IMPORT_S_MAX:
            text = f"cannot be reloaded (importing took {took_s:.1f} s): needs a restart"
            faults.append(places.fault("plugins", text))
        faults += unusable
        declared = check_settings(after, plugins.factory, places, missing=plugins.missing)
    except ConfigError as error:
        faults += error.faults
    if faults:
        return Verdict(faults=tuple(str(fault) for fault in in_order(faults)))
    if before is None:
        return Verdict(settings=after, plan=plan_document(None, (after, declared)))
    try:
        present = check_settings(before, plugins.factory)
    except ConfigError as error:
        told = "what runs now is no longer fine by its plug-ins' files, which needs a restart"
        return Verdict(faults=(f"cannot compare: {told}: {error.faults[0]}",))
    document = plan_document((before, present), (after, declared))
    return Verdict(settings=after, plan=document)


def check_main(known_fd: int, verdict_fd: int, path: str, root_pid: int) -> None:
    """The check's process."""
    os.setsid()
    die_with_parent(root_pid)
    # What plug-ins start bears this, or is of our session: the root finds and ends it.
    os.environ["FSMV2_SLOT"] = f"check:{os.getpid()}"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the root, which ends this
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)  # what plug-ins print is no line of the root's log
    with open(known_fd, "rb", closefd=False) as known:
        before = decode(known.read(), Settings)
    try:
        verdict = judge(path, before)
    except SpecError as error:
        verdict = Verdict(faults=(str(error),))
    if verdict.plan is not None:
        verdict = msgspec.structs.replace(verdict, plan=shortened(verdict.plan))
    with open(verdict_fd, "wb", closefd=False) as file:
        file.write(encode(verdict))


class Check:
    """One check on its way. ``done`` gets its verdict, from the poller; ``bury`` its pid, once
    it is dead and reaped."""

    def __init__(
        self,
        path: str,
        before: Settings,
        poller: Poller,
        done: Callable[[Verdict], None],
        bury: Callable[[int], None],
    ) -> None:
        self._poller = poller
        self._done = done
        self._bury = bury
        mark = mark_of(path)
        size = 0 if mark is None else mark[1]
        self._time_s = CHECK_S_MAX + CHECK_S_PER_MIB * min(1.0, size / FILE_BYTES_MAX)
        self.deadline = time.monotonic() + self._time_s
        self._overdue = False
        known = _memory("fsmv2-config", encode(before))
        self._verdict_fd = os.memfd_create("fsmv2-verdict", os.MFD_CLOEXEC)
        try:
            self._child = processes.start(
                "fsmv2-check",
                check_main,
                processes.SentFd(known),
                processes.SentFd(self._verdict_fd),
                path,
                os.getpid(),
            )
        except BaseException:
            os.close(self._verdict_fd)
            raise
        finally:
            os.close(known)
        self.pid = self._child.pid
        poller.watch(self._child.pidfd, self._ended)

    def tend(self, now: float) -> None:
        """Kill it when its time is up; its end is told like any other."""
        if now >= self.deadline:
            self.deadline = float("inf")
            self._overdue = True
            self._child.kill()

    def close(self) -> None:
        """End it without a verdict."""
        self._poller.unwatch(self._child.pidfd)
        self._child.kill()
        self._child.wait()
        os.close(self._verdict_fd)
        self._bury(self.pid)

    def _ended(self, _mask: int) -> None:
        pidfd = self._child.pidfd
        code = self._child.reap()
        if code is None:
            return
        self._poller.unwatch(pidfd)
        try:
            verdict = self._read(code)
        finally:
            os.close(self._verdict_fd)
        self._bury(self.pid)
        self._done(verdict)

    def _read(self, code: int) -> Verdict:
        if self._overdue:
            return _failed(f"it took over {self._time_s:.0f} s")
        if code != 0:
            return _failed(f"its process ended with {death_verdict(code)}")
        size = os.fstat(self._verdict_fd).st_size
        if not size:
            return _failed(
                "its process ended with exit code 0 and no verdict: did a plug-in end it?"
            )
        if size > VERDICT_BYTES_MAX:
            return _failed(f"got {size} bytes, want at most {VERDICT_BYTES_MAX}")
        try:
            verdict: Verdict = decode(os.pread(self._verdict_fd, size, 0), Verdict)
        except FrameError as error:
            return _failed(str(error))
        return verdict


def _failed(why: str) -> Verdict:
    return Verdict(faults=(f"cannot check the config: {why}, want a check that ends by itself",))


def _memory(name: str, data: bytes) -> int:
    """A descriptor of anonymous memory with ``data`` in it, to be read from the beginning."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
