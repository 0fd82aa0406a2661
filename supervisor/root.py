"""`Supervisor`: the root process's loop, its signals, and the things it holds together.

Knows: the pool, the engine, the ops process, telemetry; in which order they start and end.
Does not know: how any of them works.
Invariants: one thread, no locks; everything is checked before anything is started, and what
was started is ended whatever happens; the loop waits in one place only.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

import msgspec

from fsmv2.ipc import metricfile
from fsmv2.ipc.messages import Command
from fsmv2.supervisor.commands import Commands
from fsmv2.supervisor.config.access import digest_of
from fsmv2.supervisor.config.plugins import Plugins, load_plugins
from fsmv2.supervisor.config.poolsettings import pool_options
from fsmv2.supervisor.config.reload import ConfigFile, Reloader
from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import Action, ActionResult, action_name
from fsmv2.supervisor.core.errors import FsmError, StartError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.engineoptions import breaker_rules, declared, engine_options, policies_of
from fsmv2.supervisor.opsprocess import OpsProcess, Reply, address_of, bind
from fsmv2.supervisor.pool import spill
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.runfolders import Leftovers
from fsmv2.supervisor.rootfolders import make_metrics_folder, make_run_folder
from fsmv2.supervisor.rootprobe import root_probe
from fsmv2.supervisor.store.keeper import file_of, open_keeper
from fsmv2.supervisor.system.garbage import Garbage
from fsmv2.supervisor.system.poller import Poller
from fsmv2.supervisor.system.signals import Signals
from fsmv2.supervisor.telemetry import logs
from fsmv2.supervisor.telemetry.explain import Explainer
from fsmv2.supervisor.telemetry.metrics import Metrics
from fsmv2.supervisor.telemetry.publisher import Publisher
from fsmv2.supervisor.telemetry.summary import Summary
from fsmv2.supervisor.telemetry.telemetry import Telemetry
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.infrastructure import NO_PROC, Infrastructure
from fsmv2.supervisor.tree.outside import Ticket

WAIT_S_MAX = 1.0
SAME_SIGNAL_S = 0.25
EXIT_OK, EXIT_FORCED = 0, 4


class Supervisor:
    """Runs the tree of ``settings`` until it is told to stop.

    ``plugins`` is a `WorkerFactory` with the worker types, or what `load_plugins` returned for a
    config file. ``listeners`` are called with each event, after the tick it belongs to. ``source``
    is the file that a reload reads anew. `run`
    raises `StartError` when the machine refuses to start it, with nothing left behind.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins | WorkerFactory,
        *,
        listeners: tuple[Callable[[Event], None], ...] = (),
        source: ConfigFile | None = None,
    ) -> None:
        self.settings = settings
        self._source = source
        self.address = "off"
        self._factory = plugins if isinstance(plugins, WorkerFactory) else plugins.factory
        self._modules = plugins.modules
        self._search = () if isinstance(plugins, WorkerFactory) else plugins.search
        self._listeners = listeners
        self._random = random.Random()
        self._dead_slots: deque[str] = deque()
        self._forced = False
        self._stop_began = 0.0
        self._ops: OpsProcess | None = None

    # --- life -------------------------------------------------------------------------------

    def run(self, seconds: float | None = None) -> Summary:
        """Start, tick until stopped (after ``seconds`` at the latest, if given), end all.

        Returns what happened; ``summary.exit_code`` is 0 for a clean stop, 4 for a forced one.
        """
        began = time.monotonic()
        with contextlib.ExitStack() as undo:
            self._start(undo)
            self._loop(None if seconds is None else time.monotonic() + seconds)
        telemetry = self._telemetry
        clean = not self._forced and not telemetry.forced_removals
        telemetry(events.SupervisorStopped(clean=clean, stop_s=time.monotonic() - self._stop_began))
        telemetry.flush()
        return Summary(
            clean=clean,
            exit_code=EXIT_FORCED if self._forced else EXIT_OK,
            ran_s=time.monotonic() - began,
            ticks=self._engine.ticks,
            statuses=dict(telemetry.statuses),
            deaths=dict(telemetry.deaths),
            restarts=telemetry.restarts,
            proc_deaths=telemetry.proc_deaths,
            observation_deaths=self._engine.observation_deaths,
        )

    def _start(self, undo: contextlib.ExitStack) -> None:
        """Acquire everything in order; ``undo`` ends it in reverse, also half-way."""
        garbage = Garbage()
        garbage.start()
        undo.callback(garbage.close)
        server = None
        if self.settings.http.listen != "off":
            server = bind(self.settings.http.listen)
            undo.callback(server.close)
            self.address = address_of(server)
        run_folder = make_run_folder(self.settings.name, undo)
        self._metrics_folder = make_metrics_folder(self.settings.metrics.folder, run_folder)
        # Not earlier: no metric may exist before its folder was tried out.
        metricfile.install("root", self._metrics_folder)
        metrics = Metrics(logs.dropped_lines)
        self._telemetry = Telemetry(metrics, self._listeners, self.settings.runbooks)
        self._poller = Poller()
        undo.callback(self._poller.close)
        self._signals = undo.enter_context(Signals())
        self._poller.watch(self._signals.fileno(), lambda _mask: None)
        self._reloader = Reloader(
            self._source, self._poller, self._telemetry, self._take_over, self._bury_check
        )
        self._policies = policies_of(self.settings, self._factory, _refuse_config)
        self._keeper = open_keeper(self.settings.store, self._telemetry, self._poller)
        undo.callback(lambda: self._keeper.close(time.monotonic(), time.time()))
        self._pool = self._make_pool(run_folder)
        self._engine = self._make_engine()
        self._infrastructure = Infrastructure(
            breaker_rules(self.settings.breaker), self._engine, self._pool, self._telemetry
        )
        self._probe = root_probe(
            self.settings, self._pool, self._telemetry, self._metrics_folder, self._engine.deliver
        )
        try:
            self._pool.start()
            undo.callback(self._close_pool)
            undo.callback(self._probe.close)
            undo.callback(self._reloader.close)
            leftovers = Leftovers()
            leftovers.begin(self._pool)
            undo.callback(leftovers.close)
            self._poller.watch(self._pool.fileno(), lambda _mask: self._pool.step())
            if server is not None:
                self._start_ops(server, undo)
        except OSError as error:
            raise StartError(f"cannot start processes: {error}") from None
        self._publisher = Publisher(
            self.settings.name,
            self._engine,
            self._pool,
            self._probe,
            self._telemetry,
            metrics,
            self._infrastructure,
            self._ops.publish if self._ops is not None else None,
            lambda: self._keeper.trouble,
        )
        self._say_started()

    def _start_ops(self, server: socket.socket, undo: contextlib.ExitStack) -> None:
        self._ops = OpsProcess(
            server,
            self._metrics_folder,
            self.settings.name,
            self._telemetry,
            self._poller,
            digest_of(self.settings.http.token),
            file_of(self.settings.store),
        )
        commands = Commands(self._pool, self._reloader, self._infrastructure, self._telemetry)

        def carry_out(command: Command, reply: Reply) -> None:
            commands.carry_out(command, reply)
            self._publisher.hurry()

        self._ops.on_command = carry_out
        explainer = Explainer(self._engine, self._pool, self.settings.runbooks)
        self._ops.on_question = explainer.answer
        undo.callback(self._ops.close)
        self._ops.start(time.monotonic)
        self._telemetry.publish = self._ops.publish

    def _make_pool(self, run_folder: str) -> Pool:
        settings = self.settings.pool
        pool = Pool(
            # The last is filled first.
            {"actions": settings.procs, **settings.lanes, "observations": settings.observers},
            pool_options(settings, self._modules, self._search, self._policies),
            run_folder=run_folder,
            metrics_folder=self._metrics_folder,
            on_result=self._deliver,
            on_event=self._hear_pool,
        )
        pool.nursery.orphans.owns_process = True
        pool.nursery.orphans.known_pids = lambda: (
            self._reloader.pids
            | {self._keeper.pid}
            | ({self._ops.pid} if self._ops is not None else set())
        )
        return pool

    def _close_pool(self) -> None:
        self._pool.close()
        if self._forced:
            # What was killed just now has its results, and no tick that would take them.
            self._engine.settle(time.monotonic(), time.time())
            self._telemetry.flush()

    def _make_engine(self) -> Engine:
        engine = Engine(
            **engine_options(self.settings, self._policies),
            factory=self._factory,
            pool=self._pool,
            emit=self._telemetry,
            now=time.monotonic(),
            wall=time.time(),
            clock=time.perf_counter,
            store=self._keeper,
            recalled=self._keeper.recalled,
        )
        self._keeper.everyone = engine.nodes
        return engine

    def _say_started(self) -> None:
        pool = self.settings.pool
        self._telemetry(
            events.SupervisorStarted(
                supervisor=self.settings.name,
                pid=os.getpid(),
                workers=len(self.settings.workers),
                procs=pool.procs,
                observers=pool.observers,
                http=self.address,
            )
        )
        self._telemetry.flush()

    # --- the loop ---------------------------------------------------------------------------

    def _loop(self, end_at: float | None) -> None:
        engine = self._engine
        while not engine.stopped:
            now = time.monotonic()
            if end_at is not None and now >= end_at:
                end_at = None
                self._stop("its time is up")
            self._hear_signals()
            if self._forced:
                return
            self._infrastructure.tend(self._troubles(), self._probe.news(now), now)
            moment = engine.next_moment()
            if moment is not None and moment <= now:
                self._tick(now)
            self._publisher.publish(now)
            self._telemetry.flush()
            self._wait(self._next_moment(end_at))

    def _troubles(self) -> tuple[str, ...]:
        return () if self._pool.nursery.failed.stuck_since is None else (NO_PROC,)

    def _tick(self, now: float) -> None:
        self._engine.tick(now, time.time())
        duration_s = time.monotonic() - now
        self._publisher.ticked(duration_s)
        interval_s = self.settings.tick_interval_s
        if duration_s > interval_s:
            self._telemetry(events.TickSlow(duration_s=duration_s, interval_s=interval_s))

    def _next_moment(self, end_at: float | None) -> float:
        ops_moment = self._ops.retry_at if self._ops is not None else None
        asked = (
            self._engine.next_moment(),
            self._infrastructure.next_moment(time.monotonic()),
            self._pool.next_moment(),
            self._reloader.next_moment(),
            self._keeper.next_moment(),
            *(end_at, ops_moment, self._probe.next_moment()),
        )
        return min(
            time.monotonic() + WAIT_S_MAX,
            self._publisher.next_moment(),
            *(moment for moment in asked if moment is not None),
        )

    def _wait(self, moment: float) -> None:
        """The only place where the root waits; then what came is handled."""
        self._poller.poll(max(0.0, moment - time.monotonic()))
        now = time.monotonic()
        pool_moment = self._pool.next_moment()
        if pool_moment is not None and pool_moment <= now:
            self._pool.step()
        self._reloader.tend(now)
        self._probe.tend(now)
        if self._ops is not None:
            self._ops.tend(now, self._random.random())
        self._keeper.tend(now, time.time())
        while self._dead_slots:
            # The slot's process is reaped: its live gauges drop, its counters stay.
            with contextlib.suppress(OSError):
                metricfile.release(self._dead_slots.popleft(), self._metrics_folder)

    def _hear_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                # Also of a terminal that went away: no reason to stop, and an unchanged file
                # changes nothing.
                self._reloader.ask("SIGHUP")
            elif self._engine.stopping is not None:
                # One request can arrive twice (`timeout` signals its child and then the group):
                # a second one counts as such only when somebody had time to mean it.
                if time.monotonic() - self._stop_began > SAME_SIGNAL_S:
                    self._forced = True
            else:
                self._stop(f"got {signal.Signals(number).name}")

    def _take_over(self, settings: Settings) -> None:
        """Run what the config says now. Raises `SpecError` with nothing changed."""
        factory = self._factory
        if not set(settings.plugins) <= {*self.settings.plugins, *self._modules}:
            factory = load_plugins(settings.plugins, self._search).factory
        self._engine.reload(**declared(settings), factory=factory)
        self._factory = factory
        level = settings.log.level
        if level != self.settings.log.level:
            logs.set_level(level)
        # The others are those of the start, with what the command line said.
        kept = self.settings
        self.settings = msgspec.structs.replace(
            settings,
            pool=kept.pool,
            http=kept.http,
            store=kept.store,
            log=msgspec.structs.replace(kept.log, level=level),
            metrics=kept.metrics,
            runbooks=kept.runbooks,
        )

    def _stop(self, reason: str) -> None:
        if self._engine.stopping is None:
            self._stop_began = time.monotonic()
            self._engine.stop(reason)

    def _bury_check(self, pid: int) -> None:
        """The process that checked a config is dead: what plug-ins started there dies too."""
        self._pool.nursery.orphans.bury(pid, ())
        self._pool.nursery.sweep()

    def submit_outside(
        self, path: str, action: Action, on_end: Callable[[Ticket], None] | None = None
    ) -> Ticket:
        """Have ``action`` run for the worker at ``path``, see `Engine.submit_outside`. For
        listeners and what else runs in this thread, while `run` runs; raises `FsmError` before."""
        engine: Engine | None = getattr(self, "_engine", None)  # made when `run` starts
        if engine is None:
            raise FsmError(
                f"cannot run {action_name(type(action))} for {path}: the supervisor does not run, "
                "want a call while `run` runs, as from a listener"
            )
        return engine.submit_outside(path, action, on_end)

    # --- what the pool says -----------------------------------------------------------------

    def _deliver(self, attempt_id: int, result: ActionResult) -> None:
        # A value over a frame's size is still in its file. Read here, in the root: the cap of
        # a tree is low, see `PoolSettings`.
        if not self._probe.take(attempt_id, result):
            self._engine.deliver(attempt_id, spill.load(result))

    def _hear_pool(self, event: Event) -> None:
        match event:
            case events.ProcEnded(slot=slot):
                self._dead_slots.append(slot)
            case events.ActionProgressed() | events.ActionLogged():
                # Observations have keys of their own; people know the worker's path.
                event = msgspec.structs.replace(event, path=event.path.rstrip("?"))
        self._telemetry(event)


def _refuse_config(place: str, why: str) -> None:
    raise StartError(f"cannot use the config: {place}: {why}")
