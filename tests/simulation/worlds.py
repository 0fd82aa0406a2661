"""Random trees in a random world: what the seeds of the simulation are about.

Knows: workers of every sort, trees of them, what happens to them from outside.
Does not know: what should come of it: `fsmv2.supervisor.testing` checks that.
Invariants: I10, all chance comes from the seed; workers are pure, so that two simulations of one
seed can run side by side, each with a world of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from fsmv2.supervisor.core.action import Action, ActionContext, Retry
from fsmv2.supervisor.core.fsm import (
    Act,
    Decision,
    Go,
    Phase,
    Remove,
    Restart,
    Snapshot,
    State,
    Stay,
)
from fsmv2.supervisor.core.restarts import RESTART_TYPES, STRATEGIES, RestartBudget
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.testing import FaultPlan, Simulation

INTERVAL_S = 0.125  # a binary fraction, so that moments add up exactly
CALM_S = 240.0  # from the last trouble until everybody must be where they should


# --- workers --------------------------------------------------------------------------------


class Off(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Coming, "asked to run")


class Coming(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Decision:
        if snap.config.get("fault") == "next":
            raise ValueError("this state cannot be left")
        if snap.config.get("fault") == "nonsense":
            return "up"  # type: ignore[return-value]
        return Go(On, "nothing to prepare")


class On(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        if snap.config.get("ends") == "restart" and snap.time_in_state_s > 2:
            return Restart("it is time")
        if snap.config.get("ends") == "remove" and snap.time_in_state_s > 2:
            return Remove("it is done")
        return Stay("on")


class Going(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Decision:
        return Go(Off, "nothing to close")


class Plain(Worker):
    """No action, no observation; its config says how it fails, how it ends, its children."""

    type_name = "plain"
    initial = Off
    stopping = Going

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config: Any = spec.config
        if config.get("fault") == "derive":
            raise ValueError("nothing can be derived")
        if config.get("fault") == "bad child":
            return DesiredState("running", config, (ChildSpec("x", "unheard-of"),))
        return DesiredState(
            config.get("state", "running"),
            config,
            config.get("children", ()),
            strategy=config.get("strategy", "one_for_one"),
            restart_budget=RestartBudget(*config.get("budget", ())),
        )

    def observe(self, desired: DesiredState) -> Action | None:
        if desired.config.get("fault") == "observe":
            raise ValueError("nothing to look at")
        return None


class Moody(Plain):
    """Its decisions depend on the time."""

    type_name = "moody"

    def next_action(self, snapshot: Snapshot) -> Decision:
        if snapshot.state.phase is Phase.RUNNING and snapshot.time_in_state_s > 3:
            return Go(Low, f"up for {snapshot.time_in_state_s:.3f} s")
        return super().next_action(snapshot)


class Low(State):
    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Decision:
        if snap.time_in_state_s > 1:
            return Go(On, "better again")
        return Stay(f"low for {snap.time_in_state_s:.3f} s")


def _on_their_way(snap: Snapshot) -> int:
    return snap.children.count(Phase.STARTING, Phase.STOPPING)


class Counting(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Decision:
        if _on_their_way(snap):
            return Stay(f"{_on_their_way(snap)} of {len(snap.children)} are on their way")
        return Go(Complete, f"{len(snap.children)} are where they should be")


class Complete(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        if _on_their_way(snap):
            return Go(Counting, "lost one")
        return Stay(f"{snap.children.healthy_count} healthy")


class BeginCounting(Off):
    def next(self, snap: Snapshot) -> Decision:
        return Go(Counting, "asked to run")


class Line(Plain):
    """Runs when its children do."""

    type_name = "line"
    initial = BeginCounting


class Look(Action, frozen=True):
    timeout_s = 2.0
    host: str

    def execute(self, ctx: ActionContext) -> bool: ...


class Open(Action, frozen=True):
    timeout_s = 4.0
    grace_s = 0.5
    retry = Retry(base_s=0.5, factor=2.0, max_s=4.0)
    host: str

    def execute(self, ctx: ActionContext) -> None: ...


class Close(Action, frozen=True):
    timeout_s = 4.0
    retry = Retry(base_s=0.5, factor=2.0, max_s=4.0)
    host: str

    def execute(self, ctx: ActionContext) -> None: ...


class Shut(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Opening, "asked to run")


class Opening(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Decision:
        if snap.status:
            return Go(Opened, "seen open")
        failed = snap.failures(Open)
        return Act(Open(snap.config["host"]), f"seen {snap.status}, failed {failed} times")


class Opened(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Stay("open") if snap.status else Go(Opening, "seen shut")


class Closing(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Decision:
        done = snap.result(Close)
        if done is not None and done.succeeded and snap.since_result_s(Close) < 60:
            return Go(Shut, "closed")
        return Act(Close(snap.config["host"]), "asked to stop")


class Valve(Worker):
    """Observed; one action to open, one to close."""

    type_name = "valve"
    initial = Shut
    stopping = Closing

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config: Any = spec.config
        return DesiredState(config.get("state", "running"), config)

    def observe(self, desired: DesiredState) -> Action | None:
        return Look(desired.config["host"])


WORKERS = (Plain, Moody, Line, Valve)


class World:
    """What is behind the valves. ``broken`` is what cannot be done at present."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.broken: set[str] = set()

    def answers(self) -> dict[type[Action], Callable[[Any], Any]]:
        """For `Simulation`."""
        return {
            Look: lambda action: self._do("look", self.open.__contains__, action.host),
            Open: lambda action: self._do("open", self.open.add, action.host),
            Close: lambda action: self._do("close", self.open.discard, action.host),
        }

    def _do(self, what: str, effect: Callable[[str], Any], host: str) -> Any:
        if what in self.broken:
            raise OSError(f"cannot {what}")
        return effect(host)


# --- trees ----------------------------------------------------------------------------------

MAPPINGS: tuple[dict[str, str], ...] = (
    {}, {}, {"running": "running"}, {"running": "stopped"}, {"stopped": "running"},
)  # fmt: skip


class Trees:
    """Draws trees: three levels, up to six children each."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def draw(self, faulty: bool) -> tuple[ChildSpec, ...]:
        """What a root declares. Not ``faulty``: one that comes up and stays up."""
        return self._children("root", 1, faulty)

    def _children(self, path: str, depth: int, faulty: bool) -> tuple[ChildSpec, ...]:
        chance = self._chance
        widest = 6 if depth == 1 else 3
        names = chance.sample("abcdef", chance.randint(0 if depth > 1 else 1, widest))
        made = [
            self._spec(f"{path}/{name}", name, names[:i], depth, faulty)
            for i, name in enumerate(names)
        ]
        chance.shuffle(made)  # declared in any order
        return tuple(made)

    def _spec(self, path: str, name: str, before: list[str], depth: int, faulty: bool) -> ChildSpec:
        chance = self._chance
        # Mostly the same type for the same name, so that a reload is mostly an update.
        kinds = ("plain", "moody", "valve", "line", "plain", "valve")
        kind = kinds["abcdef".index(name)]
        if chance.random() < 0.2:
            kind = chance.choice(kinds)
        if not faulty and kind == "moody":
            kind = "plain"
        config: dict[str, Any] = {"host": path, "n": chance.randint(1, 2)}
        if chance.random() < 0.1:
            config["state"] = "stopped"
        if faulty and kind != "valve" and chance.random() < 0.2:
            config["fault"] = chance.choice(("derive", "next", "nonsense", "observe", "bad child"))
        if faulty and kind in ("plain", "moody") and chance.random() < 0.2:
            config["ends"] = chance.choice(("restart", "remove"))
        if kind == "line" or (kind == "plain" and chance.random() < 0.2):
            config["children"] = self._children(path, depth + 1, faulty) if depth < 3 else ()
        if config.get("children"):
            config["strategy"] = chance.choice(STRATEGIES)
            config["budget"] = chance.choice(((5, 300.0), (2, 20.0), (3, 5.0)))
        needs = tuple(chance.sample(before, 1)) if before and chance.random() < 0.3 else ()
        return ChildSpec(
            name,
            kind,
            UserSpec(config, VariableBundle(user={"V": chance.randint(0, 1)})),
            state_mapping=chance.choice(MAPPINGS) if depth > 1 else {},
            enabled=chance.random() > 0.1,
            depends_on=needs,
            restart=chance.choice(RESTART_TYPES) if faulty else "permanent",
            shutdown_timeout_s=chance.choice((1.0, 4.0, 10.0)),
        )


# --- histories ------------------------------------------------------------------------------

Step = Callable[[Simulation, World], None]


def declare(sim: Simulation, tree: tuple[ChildSpec, ...]) -> None:
    """A reload, where there can be one: a tree that stops takes none."""
    if sim.engine.stopping is None:
        sim.reload(tree)


class History:
    """All that is drawn of one seed: the first tree, the faults, what happens when.

    ``steps`` are moments (seconds since the start) and what is done then.
    """

    def __init__(self, seed: int, faults: FaultPlan | None = None) -> None:
        chance = random.Random(f"{seed}/history")
        trees = Trees(chance)
        self.seed = seed
        self.faults = FaultPlan.drawn(chance) if faults is None else faults
        self.children = trees.draw(faulty=True)
        self.length_s = chance.choice((5.0, 20.0, 60.0))
        self.last = trees.draw(faulty=False)
        self.steps: list[tuple[float, str, Step]] = []
        for _ in range(chance.randint(0, 6)):
            moment = round(chance.uniform(0, self.length_s) / INTERVAL_S) * INTERVAL_S
            self.steps.append((moment, *self._draw_step(chance, trees)))
        self.steps.sort(key=lambda step: step[0])

    def _draw_step(self, chance: random.Random, trees: Trees) -> tuple[str, Step]:
        match chance.choice(("reload", "reload", "same", "break", "mend", "upset")):
            case "reload":
                tree = trees.draw(faulty=True)
                return "reload", lambda sim, _world: declare(sim, tree)
            case "same":
                return "first tree", lambda sim, _world: declare(sim, self.children)
            case "break":
                what = chance.choice(("look", "open", "close"))
                return f"{what} breaks", lambda _sim, world: world.broken.add(what)
            case "mend":
                return "all mended", lambda _sim, world: world.broken.clear()
            case _:
                return "all valves shut", lambda _sim, world: world.open.clear()

    def begin(self, *, full: bool = False) -> Run:
        """A simulation at the beginning of this history."""
        return Run(self, full)


class Run:
    """One simulation of a history, with its own world."""

    def __init__(self, history: History, full: bool) -> None:
        self.history = history
        self.world = World()
        self.sim = Simulation(
            WORKERS,
            history.children,
            answers=self.world.answers(),
            seed=history.seed,
            faults=history.faults,
            interval_s=INTERVAL_S,
            full=full,
        )
        self.sim.replay = f"ops/replay {history.seed}"
        self._steps = list(history.steps)

    def do_due(self) -> None:
        """The history's steps whose moment has come."""
        while self._steps and self._steps[0][0] <= self.sim.clock.elapsed_s:
            _moment, name, step = self._steps.pop(0)
            self.sim.trace.add(f"history: {name}")
            step(self.sim, self.world)

    def play(self, ticks_max: int | None = None) -> None:
        """The whole of it: trouble, then none and everybody where they should be, then a stop.
        ``ticks_max``: only so many ticks."""
        sim, end_s = self.sim, self.history.length_s
        while sim.clock.elapsed_s < end_s and not sim.stopped:
            self.do_due()
            upcoming = self._steps[0][0] if self._steps else end_s
            if not self._run_to(min(upcoming, end_s), ticks_max):
                return
        if not sim.stopped:
            self.heal()
            if not self._settle(ticks_max):
                return
        sim.stop("the history is over")
        while not sim.stopped and sim.step():  # within its time, or it is I4
            if ticks_max is not None and sim.engine.ticks >= ticks_max:
                return

    def heal(self) -> None:
        """The end of all trouble."""
        self.world.broken.clear()
        self.sim.heal()
        declare(self.sim, self.history.last)

    def _run_to(self, elapsed_s: float, ticks_max: int | None) -> bool:
        sim = self.sim
        if ticks_max is None:
            sim.run(max(0.0, elapsed_s - sim.clock.elapsed_s))
            return True
        while sim.clock.elapsed_s < elapsed_s and sim.engine.ticks < ticks_max and sim.step():
            pass
        return sim.engine.ticks < ticks_max

    def _settle(self, ticks_max: int | None) -> bool:
        if ticks_max is not None:
            end = self.sim.clock.now + CALM_S
            while not self.sim.is_settled() and self.sim.clock.now < end and self.sim.step():
                if self.sim.engine.ticks >= ticks_max:
                    return False
        if self.sim.engine.stopping is None:
            self.sim.until(lambda: self.sim.stopped or self.sim.is_settled(), CALM_S)
        return True
