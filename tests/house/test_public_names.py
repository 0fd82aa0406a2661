"""What other programs may rely on: the names, where they come from, what importing them costs."""

from __future__ import annotations

import importlib
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

import fsmv2.supervisor
import fsmv2.supervisor.testing
from fsmv2.supervisor import (
    Action,
    ChildSpec,
    DesiredState,
    Limits,
    Location,
    RestartBudget,
    Retry,
    State,
    UserSpec,
    VariableBundle,
    Worker,
)

PROMISED = {
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
}
WRITTEN_BY_USERS = (
    *(Action, ChildSpec, DesiredState, Limits, Location, RestartBudget, Retry),
    *(State, UserSpec, VariableBundle, Worker),
)
PROMISED_FOR_TESTS = {"FakeProbe", "FaultPlan", "ManualClock", "SimPool", "Simulation"}

# A proc imports an action's module, and that imports `fsmv2.supervisor`: whatever comes along
# is paid for in every proc, in time and in memory.
NOT_LOADED = (
    "fsmv2.communicator",
    "fsmv2.examples",
    "fsmv2.ipc",
    "fsmv2.supervisor.tree.engine",
    "fsmv2.supervisor.pool.pool",
    "fsmv2.supervisor.root",
    "fsmv2.workerproc",
    "asyncio",
    "click",
    "dill",
    "multiprocess",
    "prometheus_client",
    "psutil",
    "socket",
    "starlette",
    "structlog",
    "urllib3",
    "uvicorn",
    "yaml",
)


def test_public_names_are_the_promised_ones() -> None:
    """Nothing promised is missing, and nothing else is promised."""
    assert set(fsmv2.supervisor.__all__) == PROMISED
    assert len(fsmv2.supervisor.__all__) == len(PROMISED)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_public_name_can_be_imported(name: str) -> None:
    """Each promised name is there, the ones that load on first use included."""
    assert getattr(fsmv2.supervisor, name).__name__ == name


def test_whatever_a_public_class_asks_for_is_public() -> None:
    """Who declares a worker, an action or children writes values of these types: none of them has
    to be imported from inside."""
    declared = [
        (kind.__name__, field, part)
        for kind in WRITTEN_BY_USERS
        for field, hint in typing.get_type_hints(kind).items()
        if not field.startswith("_")
        for part in _classes_in(hint)
        if part.__module__.startswith("fsmv2.")
    ]

    assert {part for *_, part in declared} > {RestartBudget, Retry, Limits, VariableBundle}
    assert [each for each in declared if each[2].__name__ not in PROMISED] == []


def _classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes_in(part)


def test_lazy_name_is_one_object() -> None:
    """A name that loads on first use is the class of its module, also the second time."""
    from fsmv2.supervisor.pool.pool import Pool

    first = fsmv2.supervisor.ActionPool
    assert first is fsmv2.supervisor.ActionPool
    assert first is importlib.import_module("fsmv2.supervisor.library.actionpool").ActionPool
    assert first is not Pool


def test_unknown_name_is_an_attribute_error() -> None:
    """Loading on first use does not make a typing error look like something else."""
    with pytest.raises(AttributeError, match="no attribute 'Wroker'"):
        _ = fsmv2.supervisor.Wroker


def test_testing_names_are_among_the_promised_ones() -> None:
    """`fsmv2.supervisor.testing` exports the promised doubles and nothing else."""
    exported = set(getattr(fsmv2.supervisor.testing, "__all__", ()))

    assert exported <= PROMISED_FOR_TESTS
    for name in exported:
        assert getattr(fsmv2.supervisor.testing, name).__name__ == name


@pytest.mark.proc
def test_importing_the_public_names_loads_no_shell() -> None:
    """`import fsmv2.supervisor` costs a proc the core and nothing of the root."""
    loaded = _modules_after("import fsmv2.supervisor")

    assert "fsmv2.supervisor.core.fsm" in loaded
    assert sorted(loaded & set(NOT_LOADED)) == []


@pytest.mark.proc
def test_importing_a_plug_in_loads_no_shell() -> None:
    """The same for what a proc really imports: a module with workers and actions."""
    loaded = _modules_after("import fsmv2.examples.hello, fsmv2.communicator")

    assert "fsmv2.communicator.worker" in loaded
    # The plug-ins themselves, and what a header's date needs.
    asked_for = {"fsmv2.communicator", "fsmv2.examples", "socket"}
    assert sorted(loaded & set(NOT_LOADED) - asked_for) == []


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "package",
    [
        "fsmv2.communicator",
        "fsmv2.examples",
        "fsmv2.ipc",
        "fsmv2.supervisor",
        "fsmv2.workerproc",
    ],
)
def test_package_is_typed(package: str) -> None:
    """Type checkers read the annotations of each package: its marker is installed."""
    assert resources.files(package).joinpath("py.typed").is_file()


def test_fsmv2_is_a_namespace_without_files() -> None:
    """The five packages share the name `fsmv2`; nothing lies in it that could collide."""
    import fsmv2

    assert getattr(fsmv2, "__file__", None) is None
