"""From the config's words for the tree to the engine's own.

Knows: both vocabularies; what a reload may change and what only a start can.
Does not know: files, the pool, who runs the engine: the root and the simulation both do.
Invariants: one place for both, so that a simulation of a config does what `fsmv2 run` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

from fsmv2.supervisor.config.policies import check_observation, resolve_actions, rules_of
from fsmv2.supervisor.config.settings import BreakerSettings, Settings, child_specs
from fsmv2.supervisor.core.action import Action, ActionPolicy
from fsmv2.supervisor.core.freshness import ObservationRules
from fsmv2.supervisor.core.location import GapPolicy, Location
from fsmv2.supervisor.core.restarts import RestartBudget, Strategy
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.tree.infrastructure import Rules


class Declared(TypedDict):
    """What `Engine.reload` exchanges."""

    children: tuple[ChildSpec, ...]
    variables: VariableBundle
    location: Location
    gaps: GapPolicy
    strategy: Strategy
    restart_budget: RestartBudget
    strict_circuit: bool
    interval_s: float


class EngineOptions(Declared):
    """What of `Engine`'s options is in the config."""

    name: str
    observation: ObservationRules
    policies: Mapping[type[Action], ActionPolicy]
    slow_s: float
    outside_max: int
    restart_failed: bool
    heartbeat_s: float
    runbooks: str


def declared(settings: Settings) -> Declared:
    """What ``settings`` says that may change while the engine runs."""
    return Declared(
        children=child_specs(settings),
        variables=VariableBundle(global_=dict(settings.global_)),
        location=settings.location,
        gaps=settings.location_gaps,
        strategy=settings.strategy,
        restart_budget=settings.restart_budget,
        strict_circuit=settings.strict_circuit,
        interval_s=settings.tick_interval_s,
    )


def reloaded(options: Declared, children: tuple[ChildSpec, ...]) -> Declared:
    """What a reload exchanges that changes the root's children only."""
    return Declared(
        children=children,
        variables=options["variables"],
        location=options["location"],
        gaps=options["gaps"],
        strategy=options["strategy"],
        restart_budget=options["restart_budget"],
        strict_circuit=options["strict_circuit"],
        interval_s=options["interval_s"],
    )


def policies_of(
    settings: Settings, factory: WorkerFactory, tell: Callable[[str, str], None]
) -> Mapping[type[Action], ActionPolicy]:
    """What ``settings`` says of action types; ``tell`` is told the place of each fault there."""
    check_observation(settings.observation, factory.type_names, tell)
    return resolve_actions(settings.actions, factory.modules, tell)


def engine_options(
    settings: Settings, policies: Mapping[type[Action], ActionPolicy]
) -> EngineOptions:
    """All of what ``settings`` says of the tree; ``policies`` are those of `policies_of`."""
    return EngineOptions(
        **declared(settings),
        name=settings.name,
        observation=rules_of(settings.observation),
        policies=policies,
        slow_s=settings.slow_worker_s,
        outside_max=settings.outside_queue,
        restart_failed=settings.restart_failed,
        heartbeat_s=settings.breaker.heartbeat_s,
        runbooks=settings.runbooks,
    )


def breaker_rules(settings: BreakerSettings) -> Rules:
    """What ``settings`` says of the infrastructure breaker."""
    return Rules(
        mode=settings.mode,
        heartbeat_s=settings.heartbeat_s,
        probe_s=settings.probe_s,
        limits={name: None if limit == "off" else limit for name, limit in settings.limits.items()},
    )
