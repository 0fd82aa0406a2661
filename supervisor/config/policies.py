"""What the config says of action types and of observations, as the engine has it.

Knows: how a name in the config finds its action class, the rules between the figures.
Does not know: files, lines, the engine.
Invariants: a name that means no class, or several, is a fault and is never skipped; all faults
are told before anything is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import msgspec

from fsmv2.supervisor.config.configfault import at_key, hint
from fsmv2.supervisor.config.settings import ActionSettings, ObservationSettings
from fsmv2.supervisor.core.action import (
    Action,
    ActionPolicy,
    Retry,
    action_name,
    action_reference,
)
from fsmv2.supervisor.core.freshness import ObservationRules

# Of these no plug-in's action comes.
_OURS = ("fsmv2.supervisor", "fsmv2.ipc", "msgspec")

Tell = Callable[[str, str], None]  # the place in the config, and what is wrong there


def rules_of(settings: ObservationSettings) -> ObservationRules:
    """The config's words for observations, as the engine has them. Raises `SpecError`."""
    return msgspec.convert(settings, ObservationRules, from_attributes=True)


def check_observation(settings: ObservationSettings, types: Iterable[str], tell: Tell) -> None:
    """Tell of every figure of ``settings`` that does not go with the others."""
    known = sorted(types)
    if settings.stale_s >= settings.dead_s:
        text = f"got {settings.dead_s:g} s, want more than stale_s ({settings.stale_s:g} s)"
        tell("observation.dead_s", text)
    for name, interval_s in settings.intervals.items():
        place = at_key("observation.intervals", name)
        if name not in known:
            tell(place, f"unknown worker type {name!r}{hint(name, known)}")
        fault = interval_fault(settings, interval_s)
        if fault:
            tell(place, fault)


def interval_fault(settings: ObservationSettings, interval_s: float) -> str:
    """Why a worker cannot be observed each ``interval_s``; empty: it can."""
    if interval_s < settings.dead_s:
        return ""
    return (
        f"observed each {interval_s:g} s, want less than observation.dead_s ({settings.dead_s:g} s)"
    )


def resolve_actions(
    actions: Mapping[str, ActionSettings], modules: Iterable[str], tell: Tell
) -> dict[type[Action], ActionPolicy]:
    """The policy of each action class that ``actions`` names, by short name or by reference
    (``module:Name``); ``modules`` are those of the plug-ins."""
    known = list(action_types(modules)) if actions else []
    policies: dict[type[Action], ActionPolicy] = {}
    for name, settings in actions.items():
        place = at_key("actions", name)
        kind = _find(name, known, place, tell)
        if kind is None:
            continue
        if kind in policies:
            tell(place, f"{action_reference(kind)} is named twice, want one policy")
        policy = policies[kind] = _policy(settings, kind.retry)
        if policy.retry is not None and policy.retry.max_s < policy.retry.base_s:
            base_s = policy.retry.base_s
            got = f"got {policy.retry.max_s:g} s, want at least base_s ({base_s:g} s)"
            tell(f"{place}.retry.max_s", got)
    return policies


def _policy(settings: ActionSettings, own: Retry) -> ActionPolicy:
    retry = settings.retry
    if retry is None:
        return ActionPolicy(timeout_s=settings.timeout_s, grace_s=settings.grace_s)
    given = {
        name: value for name, value in msgspec.structs.asdict(retry).items() if value is not None
    }
    return ActionPolicy(
        timeout_s=settings.timeout_s,
        grace_s=settings.grace_s,
        retry=msgspec.structs.replace(own, **given),
    )


def _find(name: str, known: list[type[Action]], place: str, tell: Tell) -> type[Action] | None:
    if ":" in name:
        kind = _import(name)
        if kind is None:
            near = hint(name, [action_reference(each) for each in known])
            tell(place, f"unknown action type {name!r}{near}")
        return kind
    found = [kind for kind in known if action_name(kind) == name]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(action_reference(kind) for kind in found)
        tell(place, f"{name!r} means {len(found)} action types, want one of {several}")
    else:
        near = hint(name, [action_name(kind) for kind in known])
        tell(place, f"unknown action type {name!r}{near}")
    return None


def _import(reference: str) -> type[Action] | None:
    module_name, _, qualname = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # a module of somebody else's may raise anything
        return None
    return found if isinstance(found, type) and issubclass(found, Action) else None


def action_types(modules: Iterable[str]) -> Iterator[type[Action]]:
    """The action classes that the modules hold or reach through what they hold, in order."""
    todo, seen = list(modules), set()
    told: set[type[Action]] = set()
    while todo:
        name = todo.pop(0)
        module = sys.modules.get(name)
        if module is None or name in seen:
            continue
        seen.add(name)
        for value in list(vars(module).values()):
            home = value.__name__ if isinstance(value, ModuleType) else _home(value)
            if isinstance(home, str) and home.partition(".")[0] not in sys.stdlib_module_names:
                todo += [] if home.startswith(_OURS) else [home]
            if not (isinstance(value, type) and issubclass(value, Action)):
                continue
            if value not in told and not value.__module__.startswith(_OURS):
                told.add(value)
                yield value


def _home(value: object) -> object:
    """The module a class or function was made in."""
    return (
        getattr(value, "__module__", None) if isinstance(value, type) or callable(value) else None
    )
