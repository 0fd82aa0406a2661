"""The real engine on a fake clock, a simulated pool and a fake probe: a tree without a process.

Knows: what is due next, the faults of the world, the promises that are checked after each step.
Does not know: what the workers are.
Invariants: I10, same seed, same calls, same trace: no real clock, no real chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fsmv2.supervisor.config.poolsettings import graces_of
from fsmv2.supervisor.config.settings import PoolSettings, Settings
from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.errors import BugError, SpecError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import Worker, WorkerFactory
from fsmv2.supervisor.engineoptions import breaker_rules, engine_options, policies_of, reloaded
from fsmv2.supervisor.testing.clock import ManualClock
from fsmv2.supervisor.testing.faultplan import CALM, OF_RESULTS, OF_THE_WORLD, FaultPlan
from fsmv2.supervisor.testing.invariants import Invariants, unsettled
from fsmv2.supervisor.testing.probe import FakeProbe
from fsmv2.supervisor.testing.simpool import SimPool
from fsmv2.supervisor.testing.trace import Trace
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.infrastructure import NO_PROC, Infrastructure
from fsmv2.supervisor.tree.node import Node


class Broken(BugError):
    """An invariant does not hold; the message has the whole story."""


LOOK_S = 1.0  # the world's faults are drawn so often
RESULTS_KEPT = 50


class Simulation:
    """A tree of ``workers`` (their classes) in simulated time.

    ``children`` are what the root declares; or ``config`` is a `Settings`, all of which counts as
    for a `Supervisor`, except what the simulated pool does not have (see `simpool`), the store and
    the ops process; what it says of no known type is a `SpecError`. ``answers`` says what actions
    come to, see `SimPool.answer`.
    ``full`` has every tick look at every node. Times are seconds.
    """

    def __init__(
        self,
        workers: Sequence[type[Worker]] = (),
        children: Sequence[ChildSpec] = (),
        *,
        config: Settings | None = None,
        answers: Mapping[type[Action], object] | None = None,
        seed: int = 0,
        faults: FaultPlan = CALM,
        variables: VariableBundle | None = None,
        location: Location | None = None,
        name: str = "root",
        procs: int = 2,
        observers: int = 1,
        queue: int = 1_000,
        interval_s: float = 0.1,
        full: bool = False,
    ) -> None:
        factory = WorkerFactory(workers)
        pool = PoolSettings(procs=procs, observers=observers, queue=queue)
        settings = config or Settings(name=name, tick_interval_s=interval_s, pool=pool)
        pool = settings.pool
        options = engine_options(settings, policies_of(settings, factory, _refuse_config))
        if config is None:
            options["children"] = tuple(children)
            options["variables"] = variables or VariableBundle()
            options["location"] = location or Location()
        self.seed = seed
        self.full = full
        self.faults = faults
        self.clock = ManualClock()
        self.probe = FakeProbe(self.clock)
        self.trace = Trace(self.clock)
        self.events: list[Event] = []
        self.replay = f"Simulation(…, seed={seed})"
        self.pool = SimPool(
            {"actions": pool.procs, **pool.lanes, "observations": pool.observers},
            clock=self.clock,
            answers=answers,
            seed=seed,
            faults=faults,
            spares=pool.spares,
            queue=pool.queue,
            graces=graces_of(options["policies"]),
            on_result=self._take_result,
            on_event=self._hear,
            note=self.trace.add,
        )
        self.engine = Engine(
            **options,
            factory=factory,
            pool=self.pool,
            emit=self._hear,
            now=self.clock.now,
            wall=self.clock.wall,
            # Stands while worker code runs, unless that moves it: so is worker code slow here.
            clock=lambda: self.clock.now,
            seed=seed,
        )
        rules = breaker_rules(settings.breaker)
        self.infrastructure = Infrastructure(rules, self.engine, self.pool, self._hear)
        self._options = options
        self._invariants = Invariants(self.engine, self.pool, self.clock)
        self._declared = options["children"]
        self._gone_until: dict[str, float] = {}
        self._touches = 0
        self._chance = random.Random(f"{seed}/world")
        self._next_look = self.clock.now
        self._ordered = sorted(faults.at)
        self._given: list[tuple[int, ActionResult]] = []

    def __repr__(self) -> str:
        return f"<Simulation seed {self.seed}, {self.clock.elapsed_s:.3f} s, {self.engine!r}>"

    # --- time -------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass: everything that is due in them happens."""
        end = self.clock.now + seconds
        while (moment := self._next_moment()) is not None and moment <= end:
            self._advance(moment)
        self.clock.set(max(end, self.clock.now))

    def step(self) -> bool:
        """Go on up to and including the next tick. False: nothing is pending any more."""
        ticks = self.engine.ticks
        while self.engine.ticks == ticks:
            moment = self._next_moment()
            if moment is None or self.stopped:
                return False
            self._advance(moment)
        return True

    def until(self, claim: Callable[[], object], seconds: float) -> None:
        """Step until ``claim()`` is true; raises AssertionError if it is not in ``seconds``."""
        end = self.clock.now + seconds
        while not claim():
            moment = self._next_moment()
            if moment is None or moment > end:
                raise AssertionError(self._story(f"did not happen within {seconds:g} s"))
            self._advance(moment)

    def tick_at(self, moment: float) -> None:
        """Go on to ``moment`` without a tick, then have one there, due or not."""
        while (due := self._next_pool_moment()) is not None and due <= moment:
            self.clock.set(max(due, self.clock.now))
            self._happen()
        self.clock.set(max(moment, self.clock.now))
        self._tick()

    def _next_pool_moment(self) -> float | None:
        moments = [
            self.pool.next_moment(),
            self.probe.next_moment(),
            self.infrastructure.next_moment(self.clock.now),
        ]
        if self.faults is not CALM:
            moments += [self._next_look, self.clock.start + self._ordered[0][0]
                        if self._ordered else None]  # fmt: skip
        return min((each for each in moments if each is not None), default=None)

    def _next_moment(self) -> float | None:
        moments = (self._next_pool_moment(), self.engine.next_moment())
        if self.stopped:
            return None
        return min((each for each in moments if each is not None), default=None)

    def _advance(self, moment: float) -> None:
        self.clock.set(max(moment, self.clock.now))
        self._happen()
        due = self.engine.next_moment()
        if due is not None and due <= self.clock.now:
            self._tick()

    def _happen(self) -> None:
        self._have_faults()
        try:
            self.pool.step()
        except BugError as error:
            raise Broken(self._story(str(error))) from error
        self.infrastructure.tend(self._troubles(), self.probe.take(), self.clock.now)

    def _troubles(self) -> tuple[str, ...]:
        found = [] if self.probe.trouble is None else [self.probe.trouble]
        if self.pool.failed.stuck_since is not None:
            found.append(NO_PROC)
        return tuple(found)

    def _tick(self) -> None:
        self.trace.ticks += 1
        try:
            self.engine.tick(self.clock.now, self.clock.wall, full=self.full)
            self._invariants.look()
        except Broken:
            raise
        except BugError as error:
            raise Broken(self._story(str(error))) from error

    def _story(self, what: str) -> str:
        return (
            f"{what}\nseed {self.seed}, tick {self.trace.ticks}, {self.clock.elapsed_s:.3f} s; "
            f"again: {self.replay}\nthe last lines of the trace:\n{self.trace.tail()}"
        )

    # --- what happens -----------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.trace.hear(event)
        try:
            self._invariants.hear(event)
        except BugError as error:
            raise Broken(self._story(str(error))) from error

    def _take_result(self, attempt_id: int, result: ActionResult) -> None:
        self.engine.deliver(attempt_id, result)
        chance = random.Random(f"{self.seed}/result/{attempt_id}")
        match self.faults.of(OF_RESULTS, chance):
            case "twice":
                self._deliver_again(attempt_id, result)
            case "stale" if self._given:
                self._deliver_again(*chance.choice(self._given))
        self._given = [*self._given[-RESULTS_KEPT:], (attempt_id, result)]

    def _deliver_again(self, attempt_id: int, result: ActionResult) -> None:
        self.trace.add(f"fault: the result of attempt {attempt_id} comes again")
        self.engine.deliver(attempt_id, result)

    # --- faults of the world ----------------------------------------------------------------

    def _have_faults(self) -> None:
        now = self.clock.now
        while self._ordered and self.clock.start + self._ordered[0][0] <= now:
            self._have(self._ordered.pop(0)[1])
        while self._next_look <= now:
            self._next_look += LOOK_S
            for name in list(self._gone_until):
                if self._gone_until[name] <= now:
                    del self._gone_until[name]
                    self._declare(f"{name} appears")
            for name in OF_THE_WORLD:
                rate = getattr(self.faults, name)
                if rate and self._chance.random() < rate:
                    self._have(name)

    def _have(self, fault: str) -> None:
        while_s = self._chance.uniform(0.1, self.faults.outage_s)
        match fault:
            case "spawn_fails":
                self.trace.add(f"fault: no proc can be started for {while_s:.3f} s")
                self.pool.no_starts_until = self.clock.now + while_s
            case "spike":
                self.trace.add(f"fault: bad readings for {while_s:.3f} s")
                self.probe.trip("simulated readings", while_s)
            case "respec" if self._declared:
                self._respec(self._chance.choice(self._declared))
            case "vanish" if self._declared:
                gone = self._chance.choice(self._declared)
                self._gone_until[gone.name] = self.clock.now + while_s
                self._declare(f"fault: {gone.name} vanishes for {while_s:.3f} s")
            case "shutdown":
                self.stop("fault: shutdown")
            case "twice" | "stale" if self._given:
                self._deliver_again(*self._given[-1])
            case _ if fault not in OF_THE_WORLD and fault not in OF_RESULTS:
                self.pool.ordered_faults.append(fault)

    def _respec(self, spec: ChildSpec) -> None:
        self._touches += 1
        user = {**spec.user_spec.variables.user, "simulated": self._touches}
        variables = msgspec.structs.replace(spec.user_spec.variables, user=user)
        touched = msgspec.structs.replace(
            spec, user_spec=msgspec.structs.replace(spec.user_spec, variables=variables)
        )
        self._declared = tuple(touched if each is spec else each for each in self._declared)
        self._declare(f"fault: {spec.name} has another spec")

    def _declare(self, why: str) -> None:
        """Declare what is there; what depends on one that has vanished goes with it."""
        if self.engine.stopping is not None:
            return
        self.trace.add(why)
        kept = [spec for spec in self._declared if spec.name not in self._gone_until]
        names = {spec.name for spec in kept}
        while any(not names.issuperset(spec.depends_on) for spec in kept):
            kept = [spec for spec in kept if names.issuperset(spec.depends_on)]
            names = {spec.name for spec in kept}
        self._take_over(kept)

    def _take_over(self, children: Sequence[ChildSpec]) -> None:
        self.engine.reload(**reloaded(self._options, tuple(children)))

    # --- commands ---------------------------------------------------------------------------

    def reload(self, children: Sequence[ChildSpec]) -> None:
        """The root declares these children from the next tick on. Raises `SpecError` for children
        that cannot be, with nothing changed."""
        self._take_over(children)
        self.trace.add("reload")
        self._declared = tuple(children)
        self._gone_until.clear()

    def heal(self) -> None:
        """No faults any more: procs start, the machine is well, what has vanished is declared
        again. `is_settled` is what should follow."""
        self.faults = self.pool.faults = CALM
        self._ordered.clear()
        self.pool.ordered_faults.clear()
        self.pool.no_starts_until = self.clock.now
        self.probe.clear()
        self._gone_until.clear()
        self._declare("heal")

    def stop(self, reason: str = "asked to stop") -> None:
        """Have the whole tree walk to stopped."""
        self.engine.stop(reason)

    # --- looking in -------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether the tree is down."""
        return self.engine.stopped

    def is_settled(self) -> bool:
        """Whether everything is where it should be, and nothing is in flight."""
        return not self.unsettled()

    def unsettled(self) -> list[str]:
        """What is not, one text each."""
        return [] if self.stopped else unsettled(self.engine.nodes())

    def tree(self) -> dict[str, str]:
        """Each node's path and phase, parents before children."""
        if self.stopped:
            return {}
        return {node.path: str(node.phase) for node in self.engine.nodes()}

    def node(self, path: str) -> Node:
        """The node at ``path``, which begins with the root's name; raises `SpecError` if there is
        none. Look at its ``state_name``, ``phase``, ``reason``, ``status``; change nothing."""
        for node in self.engine.nodes():
            if node.path == path:
                return node
        raise SpecError(f"got path {path!r}, want one of {', '.join(self.tree())}")


def _refuse_config(place: str, why: str) -> None:
    raise SpecError(f"cannot use the config: {place}: {why}")
