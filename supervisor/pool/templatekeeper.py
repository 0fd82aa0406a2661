"""Keeps a template alive, leaves out the plug-ins it cannot bear, and has procs made without it
when there is none.

Knows: the start method, modules that make forking unsafe or end the process, the import
deadline, how often the template has failed.
Does not know: lanes, actions, how many procs there should be.
Invariants: a module is left out only after it was named and did harm; each start has one module
less to fall over, so they end; a proc that is spawned is told by the same descriptors and
messages as one that is forked; nothing here waits.
"""

from __future__ import annotations

import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

from fsmv2.ipc.messages import Fork, Forked, Importing, Preloaded
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.events import (
    PreloadExcluded,
    ProcOutput,
    StartMethodChanged,
    TemplateEnded,
    TemplateStarted,
)
from fsmv2.supervisor.pool.certificate import death_verdict
from fsmv2.supervisor.pool.output import OutputLines
from fsmv2.supervisor.pool.spawnedproc import spawn_proc
from fsmv2.supervisor.pool.templateprocess import MAIN, TemplateProcess

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.nursery import Nursery
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle

IMPORT_S_MAX = 10.0
# For the start of an interpreter and the program that uses the pool.
MAIN_S_MAX = 30.0
STACK_BUDGET_S = 0.05
FAILURES_MAX = 3
# How often it may take orders and answer none, in a row or not: each time costs a start's budget.
HANGS_MAX = 3
# Once procs are spawned, a template is tried again after a wait, that grows each time it fails:
# one that hangs now and then would have the pool change its way again and again.
RETURN_S = 10.0
RETURN_S_MAX = 3600.0
# A SIGKILL may have come from outside, so the module is tried once more.
SIGKILLS_MAX = 2
LAST_READS = 16
SLOT = "template"


class TemplateKeeper:
    """Of one pool. ``nursery`` hears of procs that were forked, and of trouble."""

    def __init__(self, pool: Pool, nursery: Nursery) -> None:
        self._pool = pool
        self._nursery = nursery
        options = pool.options
        self.template = TemplateProcess(
            options.preload, options.search, pool.run_folder, pool.metrics_folder
        )
        self.method: Literal["template", "spawn"] = (
            "spawn" if options.start_method == "spawn" else "template"
        )
        self._forks = options.start_method != "spawn"
        self._output = OutputLines()
        self._excluded_before = 0
        self._hangs = 0
        # How often it was done without.
        self._falls = 0
        # Whether there is nothing to tend; asked at every step.
        self.is_calm = not self._forks
        self._last_line = self._frame = ""
        self._sigkills: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """The template's pid; 0 while there is none."""
        return self.template.pid

    @property
    def is_ready(self) -> bool:
        """Whether a proc can be ordered now."""
        return self.template.ready or self.method == "spawn"

    @property
    def is_missing(self) -> bool:
        """Whether a template should be there and is not."""
        return not self.is_calm

    def next_moment(self) -> float | None:
        """When `tend` has something to do."""
        return None if self.is_calm else self.template.retry_at

    def start(self, now: float) -> None:
        """Start the template, if one is wanted. Raises OSError when the machine cannot."""
        if not self._forks:
            return
        self.template.start(now)
        self.is_calm = True
        self._output = OutputLines()
        self._excluded_before = len(self.template.excluded)
        child, control = self.template.child, self.template.control
        if child is not None and control is not None:
            poller = self._pool.poller
            poller.watch(control.fileno(), self._spoke)
            poller.watch(child.pidfd, self._ended)
            poller.watch(self.template.output_fd, self._printed)
            self._last_line = self._frame = ""
            self._watch_import(MAIN, now + MAIN_S_MAX)

    def tend(self, now: float) -> None:
        """Start a new template when its wait is over."""
        if self.is_missing and self.template.retry_at is not None and now >= self.template.retry_at:
            try:
                self.start(now)
            except OSError as error:
                self.template.failed_to_start(now, self._pool.random.random())
                self._failed(f"cannot start a template: {error}", now)

    def order(self, proc: ProcHandle, order: Fork) -> int | None:
        """Have ``proc`` made: its pid if that is known at once, else 0. None: not now. Raises
        OSError when the machine cannot."""
        if self.template.ready:
            return 0 if self.template.fork(proc, order) else None
        if self.method == "spawn":
            options = self._pool.options
            return spawn_proc(
                proc, order, options.search, self._pool.run_folder, self._pool.metrics_folder
            )
        return None

    def blame(self, order_at: float) -> None:
        """An order of that moment has no answer (it is stopped, or a plug-in's fork hook hangs):
        a new template is started once this one is dead."""
        if self.template.ready and order_at >= self.template.started_at:
            self._hangs += 1
            self.template.kill()

    # --- what it says -----------------------------------------------------------------------

    def _spoke(self, mask: int) -> None:
        reply = self.template.read_reply()
        now = time.monotonic()
        match reply:
            case Importing(module=module):
                self._watch_import(module, now + IMPORT_S_MAX)
            case Preloaded(unsafe=unsafe) if unsafe:
                self._leave_out(unsafe, now)
                self.template.kill()
            case Preloaded():
                startup_s = now - self.template.started_at
                self._pool.on_event(TemplateStarted(pid=reply.pid, startup_s=startup_s))
                self._use("template", "the template process is there again")
            case Forked():
                self._nursery.forked(reply, now)
            case None:
                if mask & ~select.EPOLLIN and self.template.control is not None:
                    # It is gone or going: its pidfd will say so. A hung-up socket stays
                    # readable for ever, so it must not stay watched.
                    self._pool.poller.unwatch(self.template.control.fileno())

    def _printed(self, mask: int) -> None:
        """What modules print while they are imported is told, and nobody's result."""
        if not self._read_output() and mask & ~select.EPOLLIN:
            self._pool.poller.unwatch(self.template.output_fd)

    def _read_output(self) -> bool:
        data = self.template.read_output()
        for line in self._output.feed(data, (), time.monotonic(), flush=not data):
            # The main thread's innermost frame: its stack is the one faulthandler writes last.
            if self._last_line.endswith("(most recent call first):"):
                self._frame = f"; {line.strip()}"
            self._last_line = line
            self._pool.on_event(ProcOutput(slot=SLOT, line=line))
        return bool(data)

    def _watch_import(self, module: str, until: float) -> None:
        self._pool.deadlines.call(
            until, partial(self._import_is_overdue, self.template.pid, module)
        )

    def _import_is_overdue(self, pid: int, module: str) -> None:
        template = self.template
        if template.pid != pid or template.importing != module or template.is_readable():
            return  # it got on, though it may be the root that comes to read it late
        now = time.monotonic()
        if module == MAIN:
            self._leave_out({MAIN: f"its import did not end within {MAIN_S_MAX:g} s"}, now)
            template.kill()
            return
        template.ask_for_stack()
        self._pool.deadlines.call(now + STACK_BUDGET_S, partial(self._end_import, pid, module))

    def _end_import(self, pid: int, module: str) -> None:
        if self.template.pid == pid and self.template.importing == module:
            self._read_output()
            self._exclude(module, f"its import did not end within {IMPORT_S_MAX:g} s{self._frame}")
            self.template.kill()

    # --- what harms it ----------------------------------------------------------------------

    def _leave_out(self, unsafe: dict[str, str], now: float) -> None:
        for module, why in unsafe.items():
            if module in self.template.preload:
                self._exclude(module, f"a process with what it starts cannot be forked: {why}")
            else:
                # The program itself, which every new process imports first.
                self._forks = self._pool.options.start_method == "template"
                self.is_calm = not self._forks or self.template.child is not None
                self._failed(f"{module} cannot be forked: {why}", now, at_once=True)

    def _exclude(self, module: str, why: str) -> None:
        for name, reason in self.template.exclude(module, why).items():
            self._pool.on_event(PreloadExcluded(module=name, reason=reason))

    def _ended(self, _mask: int) -> None:
        template, poller = self.template, self._pool.poller
        child, control = template.child, template.control
        if child is None:
            return
        pidfd, pid = child.pidfd, template.pid
        now = time.monotonic()
        # Drain its last words first: pids of procs it has forked.
        while (reply := template.read_reply()) is not None:
            if isinstance(reply, Forked):
                self._nursery.forked(reply, now)
        for _ in range(LAST_READS):
            if not self._read_output():
                break
        poller.unwatch(pidfd)
        poller.unwatch(template.output_fd)
        if control is not None:
            poller.unwatch(control.fileno())
        importing = template.importing
        code = template.reap(now, self._pool.random.random())
        if code is None:
            poller.watch(pidfd, self._ended)
            return
        self.is_calm = not self._forks
        verdict = "killed" if template.is_killed else death_verdict(code)
        if self._is_guilty(importing, code):
            self._exclude(importing, f"its import ended the process: {verdict}{self._frame}")
        if len(template.excluded) > self._excluded_before:
            # The next one has a module less to fall over, so there is nothing to wait for.
            template.failures = 0
            template.retry_at = now
        if now - template.started_at > RETURN_S_MAX:
            self._falls = self._hangs = 0  # it has done well for long enough
        if not self._pool.closing:
            if template.failures:
                self._failed(f"the template process keeps dying, the last time: {verdict}", now)
            wait_s = max(0.0, (template.retry_at or now) - now)
            self._pool.on_event(TemplateEnded(pid=pid, verdict=verdict, retry_in_s=wait_s))
        self._nursery.orphans.bury(pid, template.below)  # an import may have started processes
        self._nursery.sweep()

    def _is_guilty(self, module: str, code: int) -> bool:
        """Whether what it imported when it ended by itself is to be left out."""
        if not module or module == MAIN or module in self.template.excluded:
            return False
        if code != -signal.SIGKILL:
            return True
        self._sigkills[module] = self._sigkills.get(module, 0) + 1
        return self._sigkills[module] >= SIGKILLS_MAX

    def _failed(self, reason: str, now: float, at_once: bool = False) -> None:
        if self._pool.options.start_method == "template":
            failed = self._nursery.failed
            failed.cannot_fork(at_once)
            failed.note_stuck(self.template.failures + at_once * FAILURES_MAX, reason, now)
        elif at_once or self.template.failures >= FAILURES_MAX or self._hangs >= HANGS_MAX:
            self._use("spawn", reason)
            self._falls += 1
            spread = self._pool.random.random()
            wait_s = delay_s(self._falls, spread, base_s=RETURN_S, max_s=RETURN_S_MAX)
            self.template.retry_at = now + wait_s
            self._nursery.try_now()

    def _use(self, method: Literal["template", "spawn"], reason: str) -> None:
        if method != self.method:
            self.method = method
            self._pool.on_event(StartMethodChanged(method=method, reason=reason))

    def close(self) -> None:
        """End the template."""
        template, poller = self.template, self._pool.poller
        if template.control is not None:
            poller.unwatch(template.control.fileno())
        if template.child is not None:
            poller.unwatch(template.child.pidfd)
        if template.output_fd >= 0:
            poller.unwatch(template.output_fd)
        pid = template.pid
        template.close()
        self._nursery.orphans.bury(pid, template.below)
