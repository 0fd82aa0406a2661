"""The worker contract and the factory that knows worker types.

Knows: what a worker class must have, and how to say what it lacks.
Does not know: nodes, the engine.
Invariants: a factory is an instance, never a global; a type registered twice is an error
unless ``replace=True``; a worker type is checked when it is registered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from fsmv2.supervisor.core.action import Action
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.fsm import Decision, Phase, Snapshot, State
from fsmv2.supervisor.core.runbooks import url
from fsmv2.supervisor.core.sanity import SanityCheck, sanity_fault
from fsmv2.supervisor.core.spec import DesiredState, UserSpec, check_name

UNHEALTHY_S_MAX = 86_400


class Worker:
    """One component's logic: three pure methods, run in the root.

    Everything that touches the world is an `Action` that a decision or `observe` describes
    and a proc executes. Set ``type_name``, ``config_type``, ``status_type``, ``initial`` and
    ``stopping``; ``observe_interval_s`` is the seconds between two observations.

    A worker that is degraded for ``unhealthy_after_s`` without a break counts as failed, and its
    parent restarts it; None: degraded is a normal way to work. ``sanity_checks`` are what may
    not be so of its children together. ``runbook_url`` and ``manual_steps`` are for the person who
    is called when restarts do not help.
    """

    type_name: ClassVar[str]
    config_type: ClassVar[Any] = dict
    status_type: ClassVar[Any] = None
    initial: ClassVar[type[State]]
    stopping: ClassVar[type[State]]
    observe_interval_s: ClassVar[float] = 1.0
    unhealthy_after_s: ClassVar[float | None] = 30.0
    sanity_checks: ClassVar[tuple[SanityCheck, ...]] = ()
    runbook_url: ClassVar[str] = url("circuit-open")
    manual_steps: ClassVar[tuple[str, ...]] = (
        "see why it fails: fsmv2 explain PATH",
        "look at what it depends on: the machine, the network, the service behind it",
        "correct its config where that is the cause, then: fsmv2 reload",
    )

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """Return what should be, from ``spec`` alone. Pure and deterministic."""
        return DesiredState(state="running", config=spec.decode(self.config_type))

    def observe(self, desired: DesiredState) -> Action | None:
        """Return the read-only action that observes the world, or None for no observation.

        Its value becomes ``snapshot.status``.
        """
        return None

    def next_action(self, snapshot: Snapshot) -> Decision:
        """Return one decision. Inherited: asks the current state."""
        return snapshot.state.next(snapshot)


class WorkerFactory:
    """Worker types by name. ``WorkerFactory([Lamp, Fan])``, then `create`."""

    def __init__(self, workers: Iterable[type[Worker]] = ()) -> None:
        self._types: dict[str, type[Worker]] = {}
        for worker in workers:
            self.register(worker)

    def __repr__(self) -> str:
        return f"<WorkerFactory {', '.join(self._types)}>"

    def __contains__(self, type_name: object) -> bool:
        return type_name in self._types

    @property
    def type_names(self) -> frozenset[str]:
        """All registered names."""
        return frozenset(self._types)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules the registered classes come from, each once."""
        return tuple(dict.fromkeys(worker.__module__ for worker in self._types.values()))

    def register(self, worker: type[Worker], *, replace: bool = False) -> None:
        """Make ``worker`` known under its ``type_name``; raises `SpecError` for a class that
        is no usable worker, or a name that is taken."""
        check_worker_type(worker)
        if worker.type_name in self._types and not replace:
            first = self._types[worker.type_name]
            raise SpecError(
                f"cannot register worker type {worker.type_name!r} from {worker.__module__}: "
                f"{first.__module__}.{first.__qualname__} has that name already"
            )
        self._types[worker.type_name] = worker

    def create(self, type_name: str) -> Worker:
        """A new worker of that type; raises `SpecError` for an unknown one."""
        return self.type_of(type_name)()

    def type_of(self, type_name: str) -> type[Worker]:
        """The class registered under that name; raises `SpecError` for an unknown one."""
        try:
            return self._types[type_name]
        except KeyError:
            raise SpecError(
                f"unknown worker type {type_name!r}, want one of "
                f"{', '.join(sorted(self._types)) or 'none registered'}"
            ) from None


def check_worker_type(worker: object) -> None:
    """Raise `SpecError` unless ``worker`` is a Worker class with everything set."""
    if not (isinstance(worker, type) and issubclass(worker, Worker)):
        raise SpecError(f"cannot register {worker!r}: want a subclass of Worker")
    where = f"cannot register worker {worker.__module__}.{worker.__qualname__}"
    for name in ("type_name", "initial", "stopping"):
        if not hasattr(worker, name):
            raise SpecError(f"{where}: it has no {name}")
    try:
        check_name(worker.type_name, "type_name")
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    for name in ("initial", "stopping"):
        state = getattr(worker, name)
        if not (isinstance(state, type) and issubclass(state, State)):
            raise SpecError(f"{where}: {name} is {state!r}, want a State class")
        if not isinstance(getattr(state, "phase", None), Phase):
            raise SpecError(f"{where}: state {state.__name__} has no phase, want a Phase")
    if worker.initial.phase is not Phase.STOPPED:
        raise SpecError(f"{where}: initial is of phase {worker.initial.phase}, want stopped")
    if worker.stopping.phase not in (Phase.STOPPED, Phase.STOPPING):
        raise SpecError(
            f"{where}: stopping is of phase {worker.stopping.phase}, want stopping or stopped"
        )
    if not 0 < worker.observe_interval_s <= 3600:
        raise SpecError(
            f"{where}: observe_interval_s is {worker.observe_interval_s!r}, "
            "want more than 0 and at most 3600 seconds"
        )
    limit = worker.unhealthy_after_s
    is_limit = isinstance(limit, int | float) and 0 < limit <= UNHEALTHY_S_MAX
    if limit is not None and not is_limit:
        raise SpecError(
            f"{where}: unhealthy_after_s is {limit!r}, "
            f"want more than 0 and at most {UNHEALTHY_S_MAX} seconds, or None"
        )
    steps: object = worker.manual_steps
    if not (isinstance(steps, tuple) and all(type(step) is str for step in steps)):
        raise SpecError(f"{where}: manual_steps is {steps!r:.200}, want a tuple of texts")
    if type(worker.runbook_url) is not str:
        got = type(worker.runbook_url).__name__
        raise SpecError(f"{where}: runbook_url is {got}, want a text")
    fault = sanity_fault(worker.sanity_checks)
    if fault:
        raise SpecError(f"{where}: {fault}")
