"""How procs come to be: forked by the template, or each in an interpreter of its own.

Knows: the template's replies, prints and deaths; when to do without it.
Does not know: how many procs there should be, what they are for.
Invariants: "template" never spawns, "spawn" has no template, "auto" spawns while the template is
given up and forks again as soon as one is ready; nothing here waits (but `close`).
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from fsmv2.ipc.messages import Fork, Forked, Preloaded
from fsmv2.supervisor.certificate import death_verdict
from fsmv2.supervisor.core.events import (
    PreloadExcluded,
    ProcOutput,
    StartMethodChanged,
    TemplateEnded,
    TemplateStarted,
)
from fsmv2.supervisor.spawnedproc import Spawner
from fsmv2.supervisor.templateprocess import TemplateProcess

if TYPE_CHECKING:
    from fsmv2.supervisor.nursery import Nursery
    from fsmv2.supervisor.pool import Pool
    from fsmv2.supervisor.procs import ProcHandle

LAST_READS = 16


class Starter:
    """The way procs of one pool are started. ``template.ready`` or `spawns`: it can start one."""

    def __init__(self, pool: Pool, nursery: Nursery) -> None:
        self._pool = pool
        self._nursery = nursery
        options = pool.options
        self._method = options.start_method
        self.template = TemplateProcess(
            options.preload, options.search, pool.run_folder, pool.metrics_folder
        )
        self._spawner: Spawner | None = None
        # What was last told; "auto" begins with the template.
        self._told = "spawn" if self._method == "spawn" else "template"

    @property
    def spawns(self) -> bool:
        """Whether the next proc gets an interpreter of its own."""
        if self._method == "auto":
            return bool(self.template.given_up) and not self.template.ready
        return self._method == "spawn"

    @property
    def is_able(self) -> bool:
        """Whether a proc can be started now."""
        return self.template.ready or self.spawns

    @property
    def next_moment(self) -> float | None:
        """When `tend` has something to do by the clock."""
        return self.template.next_moment

    def open(self, now: float) -> None:
        """Start the template, if there is to be one. Raises OSError when the machine cannot."""
        if self._method == "spawn":
            return
        self.template.start(now)
        child, control = self.template.child, self.template.control
        if child is not None and control is not None:
            self._pool.poller.watch(control.fileno(), self._spoke)
            self._pool.poller.watch(self.template.output_fd, self._printed)
            self._pool.poller.watch(child.pidfd, self._ended)

    def start(self, proc: ProcHandle, order: Fork, now: float) -> int | None:
        """Start ``proc``; its pid, 0 if the template will tell it, None: not now. Raises OSError
        when the machine cannot."""
        if not self.spawns:
            if not self.template.fork(proc, order):
                return None
            self._tell("template", "a template is ready again")
            return 0
        if self._spawner is None:
            options = self._pool.options
            self._spawner = Spawner(
                options.search, self._pool.run_folder, self._pool.metrics_folder
            )
        pid = self._spawner.start(proc, order)
        self._tell("spawn", f"no template can be kept: {self.template.given_up}")
        return pid

    def tend(self, now: float) -> None:
        """Replace a dead template when its wait is over, kill one that hangs."""
        moment = self.template.next_moment
        if moment is None or now < moment or self._pool.closing:
            return
        if self.template.child is not None:
            self.template.look_at_import(now)
            return
        try:
            self.open(now)
        except OSError as error:
            why = f"cannot start: {error}"
            self.template.failed_to_start(now, self._pool.random.random(), why)
            self._note_stuck(why, now)

    def _tell(self, method: str, reason: str) -> None:
        if method != self._told:
            self._told = method
            self._pool.on_event(StartMethodChanged(method=method, reason=reason))

    def _note_stuck(self, reason: str, now: float) -> None:
        if not self.spawns:
            self._nursery.note_stuck(self.template.failures, reason, now)

    # --- what the template does -------------------------------------------------------------

    def _spoke(self, mask: int) -> None:
        now = time.monotonic()
        reply = self.template.read_reply(now)
        match reply:
            case Preloaded():
                if self.template.ready:
                    self._pool.on_event(
                        TemplateStarted(pid=reply.pid, startup_s=now - self.template.started_at)
                    )
            case Forked():
                self._nursery.forked(reply, now)
            case None:
                if mask & ~select.EPOLLIN and self.template.control is not None:
                    # It is gone or going: its pidfd will say so. A hung-up socket stays
                    # readable for ever, so it must not stay watched.
                    self._pool.poller.unwatch(self.template.control.fileno())

    def _printed(self, mask: int) -> None:
        if not self._tell_output() and mask & ~select.EPOLLIN:
            self._pool.poller.unwatch(self.template.output_fd)

    def _tell_output(self, *, flush: bool = False) -> bool:
        lines, is_more = self.template.read_output(time.monotonic(), flush=flush)
        for line in lines:
            self._pool.on_event(ProcOutput(slot="template", line=line))
        return is_more

    def _ended(self, _mask: int) -> None:
        template, poller = self.template, self._pool.poller
        child = template.child
        if child is None:
            return
        pidfd, pid = child.pidfd, child.pid
        now = time.monotonic()
        # Drain its last words first: pids of procs it has forked, the stack of a crash.
        while (reply := template.read_reply(now)) is not None:
            if isinstance(reply, Forked):
                self._nursery.forked(reply, now)
        for _ in range(LAST_READS):
            if not self._tell_output():
                break
        self._tell_output(flush=True)
        poller.unwatch(pidfd)
        poller.unwatch(template.output_fd)
        if template.control is not None:
            poller.unwatch(template.control.fileno())
        was_ready = template.ready
        code = template.reap(now, self._pool.random.random())
        if code is None:
            poller.watch(pidfd, self._ended)
            return
        excluded = template.take_excluded()
        if not self._pool.closing:
            self._told_of_end(pid, code, excluded, now)
        if not was_ready:
            # What an import has started, and what went into a session of its own.
            self._nursery.orphans.bury(pid, template.below)
        self._nursery.sweep()

    def _told_of_end(self, pid: int, code: int, excluded: dict[str, str], now: float) -> None:
        for module, why in excluded.items():
            self._pool.on_event(PreloadExcluded(module=module, reason=why))
        if not excluded:
            wait_s = max(0.0, (self.template.retry_at or now) - now)
            self._pool.on_event(
                TemplateEnded(pid=pid, verdict=death_verdict(code), retry_in_s=wait_s)
            )
            self._note_stuck("the template process keeps dying", now)

    def close(self) -> None:
        """End the template. Its last words may still be read, see `TemplateProcess.close`."""
        template, poller = self.template, self._pool.poller
        if template.control is not None:
            poller.unwatch(template.control.fileno())
        if template.output_fd >= 0:
            poller.unwatch(template.output_fd)
        if template.child is not None:
            poller.unwatch(template.child.pidfd)
        template.close()

    def close_leash(self) -> None:
        """Once all procs are gone."""
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None
        if self.template.control is not None:
            self.template.control.close()
