"""From the config's words for the pool to the pool's own.

Knows: both vocabularies.
Does not know: files, procs.
Invariants: what the config leaves out has the config's defaults, not the library's.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fsmv2.supervisor.config.settings import PoolSettings
from fsmv2.supervisor.core.action import Action, ActionPolicy, action_reference
from fsmv2.supervisor.core.quarantine import QuarantineRules
from fsmv2.supervisor.core.recycling import Recycling
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.probe import actions


def pool_options(
    settings: PoolSettings,
    modules: tuple[str, ...],
    search: tuple[str, ...],
    policies: Mapping[type[Action], ActionPolicy],
) -> PoolOptions:
    """The config's words for the pool, as the pool has them."""
    kept_apart = settings.quarantine
    return PoolOptions(
        spares=settings.spares,
        queue=settings.queue,
        pipeline=settings.pipeline,
        starts_per_s=settings.starts_per_s,
        result_bytes_max=settings.result_bytes_max,
        recycling=msgspec.convert(settings.recycling, Recycling, from_attributes=True),
        quarantine=(
            msgspec.convert(kept_apart, QuarantineRules, from_attributes=True)
            if kept_apart.after
            else None
        ),
        start_method=settings.start_method,
        # Each proc that reads would import it by itself, psutil included.
        preload=(*modules, actions.READER),
        search=search,
        graces=graces_of(policies),
        # One dead mount must not keep the others from being read.
        never_apart=frozenset({action_reference(actions.ReadDisk)}),
    )


def graces_of(policies: Mapping[type[Action], ActionPolicy]) -> dict[str, float]:
    """`Action.grace_s` of those whose policy says another, by ``module:name``."""
    return {
        action_reference(kind): policy.grace_s
        for kind, policy in policies.items()
        if policy.grace_s is not None
    }
