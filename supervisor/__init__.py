"""fsmv2's public surface: everything promised, nothing else.

The effect-free names come from the core at once. The shell's names (`Supervisor`,
`ActionPool`, `KillableExecutor`, `Settings`) load on first use, so that a proc that imports an
action's module does not load the engine.
"""

from typing import TYPE_CHECKING, Any

from fsmv2.supervisor.core.action import Action, ActionContext, ActionResult, Limits, Retry
from fsmv2.supervisor.core.fsm import Act, Go, Phase, Remove, Restart, Snapshot, State, Stay
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.restarts import RestartBudget
from fsmv2.supervisor.core.sanity import SanityCheck
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import Worker, WorkerFactory

if TYPE_CHECKING:
    from fsmv2.supervisor.config.settings import Settings
    from fsmv2.supervisor.core.template import render_template
    from fsmv2.supervisor.library.actionpool import ActionPool
    from fsmv2.supervisor.library.executor import KillableExecutor
    from fsmv2.supervisor.root import Supervisor

__all__ = [
    "Act",
    "Action",
    "ActionContext",
    "ActionPool",
    "ActionResult",
    "ChildSpec",
    "DesiredState",
    "Go",
    "KillableExecutor",
    "Limits",
    "Location",
    "Phase",
    "Remove",
    "Restart",
    "RestartBudget",
    "Retry",
    "SanityCheck",
    "Secret",
    "Settings",
    "Snapshot",
    "State",
    "Stay",
    "Supervisor",
    "UserSpec",
    "VariableBundle",
    "Worker",
    "WorkerFactory",
    "render_template",
]

_LAZY = {
    "ActionPool": "fsmv2.supervisor.library.actionpool",
    "KillableExecutor": "fsmv2.supervisor.library.executor",
    "Settings": "fsmv2.supervisor.config.settings",
    "Supervisor": "fsmv2.supervisor.root",
    "render_template": "fsmv2.supervisor.core.template",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
