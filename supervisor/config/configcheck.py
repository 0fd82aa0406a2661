"""Checks what a config means: names, types, dependencies, templates, and a dry derive.

Knows: the rules the core has for specs and variables, what the engine will inject.
Does not know: files and formats, processes; no action is ever executed here.
Invariants: all faults are found before one is raised; what worker code raises becomes a fault
that names worker and step; a value under a key that looks like a credential's is in no message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fsmv2.ipc.redact import redact, secrets_in
from fsmv2.supervisor.config.configfault import (
    ConfigError,
    Fault,
    Places,
    at_key,
    hint,
    in_order,
    secret_texts,
    shown,
)
from fsmv2.supervisor.config.configtemplates import template_faults
from fsmv2.supervisor.config.configwalk import describe, misfits
from fsmv2.supervisor.config.policies import check_observation, interval_fault, resolve_actions
from fsmv2.supervisor.config.settings import Settings, child_spec
from fsmv2.supervisor.core.action import Action, check_action_type
from fsmv2.supervisor.core.circles import Declarer, check_no_circle
from fsmv2.supervisor.core.configrender import render_config
from fsmv2.supervisor.core.errors import SpecError, TemplateError
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.plan import DeclaredNode
from fsmv2.supervisor.core.spec import (
    DEPTH_MAX,
    ChildSpec,
    DesiredState,
    UserSpec,
    check_children,
    check_name,
    dependency_faults,
)
from fsmv2.supervisor.core.variables import RESERVED, VariableBundle, name_faults
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.tree.containment import told

WORKERS_MAX = 10_000
# `pool.procs` and `pool.observers` are their sizes; the last is the pool's own.
RESERVED_LANES = frozenset({"actions", "observations", "quarantine"})
# Fixed: derive_desired_state must not depend on the moment, and a check must be repeatable.
CHECKED_AT = "1970-01-01T00:00:00+00:00"
_CONFIG_PLACE = re.compile(r"(?P<place>config\b[^:]*): (?P<text>.*)", re.DOTALL)


def check_settings(
    settings: Settings,
    factory: WorkerFactory,
    places: Places | None = None,
    *,
    missing: bool = False,
) -> tuple[DeclaredNode, ...]:
    """The whole tree that ``settings`` declare, parents before children.

    Raises `ConfigError` with everything that would keep ``settings`` from running. ``missing``:
    a plug-in is, which is told already, and a name that nobody knows may be one of its.
    ``places`` (from `config.read_config`) adds file and line to each fault. Worker code runs
    here: constructors, ``derive_desired_state`` and ``observe``, which are pure by contract.
    """
    check = _Check(settings, factory, Places() if places is None else places, missing)
    check.names()
    check.dependencies()
    check.variables()
    check.http()
    check.lanes()
    check.policies()
    check.workers()
    if check.faults:
        raise ConfigError(in_order(check.faults))
    return tuple(check.declared)


@dataclass(frozen=True)
class _Planned:
    """One node of the tree as it would be made. ``path`` is the node's, ``place`` the
    config's; ``lineage`` are the workers above, the root left out."""

    path: str
    parent_path: str
    place: str
    spec: ChildSpec
    above: VariableBundle
    location: Location
    lineage: tuple[Declarer, ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def worker_type(self) -> str:
        return self.spec.worker_type

    @property
    def config(self) -> dict[str, Any] | str:
        return self.spec.user_spec.config


class _Check:
    def __init__(
        self, settings: Settings, factory: WorkerFactory, places: Places, missing: bool
    ) -> None:
        self.missing = missing
        self.settings = settings
        self.factory = factory
        self.places = places
        self.faults: list[Fault] = []
        self.checked = 0
        self.declared: list[DeclaredNode] = []

    def add(self, place: str, message: str, hidden: tuple[str, ...] = ()) -> None:
        self.faults.append(self.places.fault(place, redact(message, hidden)))

    # --- the config itself ------------------------------------------------------------------

    def names(self) -> None:
        """Usable names, each once."""
        self._name(self.settings.name, "name")
        first: dict[str, int] = {}
        for index, worker in enumerate(self.settings.workers):
            place = f"workers[{index}].name"
            self._name(worker.name, place)
            if worker.name in first:
                earlier = f"workers[{first[worker.name]}].name"
                mark = self.places.mark(earlier)
                line = f" (line {mark[0]})" if mark else ""
                told = f"name {worker.name!r} is used twice, first at {earlier}{line}"
                self.add(place, f"{told}, want a name of its own")
            first.setdefault(worker.name, index)
            if worker.type not in self.factory and not self.missing:
                known = sorted(self.factory.type_names)
                near = hint(worker.type, known) or ", none is registered (see plugins)"
                self.add(f"workers[{index}].type", f"unknown worker type {worker.type!r}{near}")

    def _name(self, name: str, place: str) -> None:
        try:
            check_name(name, "name")
        except SpecError as error:
            self.add(place, str(error))

    def dependencies(self) -> None:
        """``depends_on`` names siblings and has no cycle."""
        workers = self.settings.workers
        specs = [ChildSpec(w.name, w.type, depends_on=w.depends_on) for w in workers]
        for fault in dependency_faults(specs):
            index = next(
                (i for i, w in enumerate(workers) if fault.startswith(f"{w.name}: ")), None
            )
            if index is None:
                self.add("workers", fault)
            else:
                text = fault.removeprefix(f"{workers[index].name}: ")
                self.add(f"workers[{index}].depends_on", text)

    def variables(self) -> None:
        """Every variable's name is one a template can use."""
        self._variables(self.settings.global_, "global", "global variable", ())
        for index, worker in enumerate(self.settings.workers):
            place = f"workers[{index}].variables"
            self._variables(worker.variables, place, "user variable", RESERVED)

    def _variables(
        self, names: dict[str, Any], place: str, what: str, reserved: tuple[str, ...]
    ) -> None:
        for name in names:
            for fault in name_faults({name: None}, what, reserved):
                self.add(at_key(place, name), fault)

    def http(self) -> None:
        """``listen`` is HOST:PORT or off."""
        listen = self.settings.http.listen
        host, _, port = listen.rpartition(":")
        # isdecimal alone would let other alphabets' digits through to the socket.
        usable = port.isascii() and port.isdecimal() and int(port[:6]) <= 65535
        if listen != "off" and not (host and usable):
            got = shown(listen, "http.listen")
            self.add("http.listen", f'got {got}, want HOST:PORT with port 0 to 65535, or "off"')

    def lanes(self) -> None:
        """Further lanes have names of their own."""
        for name in self.settings.pool.lanes:
            place = at_key("pool.lanes", name)
            self._name(name, place)
            if name in RESERVED_LANES:
                taken = ", ".join(sorted(RESERVED_LANES))
                self.add(place, f"got {name!r}, want another name than {taken}")

    def policies(self) -> None:
        """Observation's figures go together; policies are for action types there are."""
        settings = self.settings
        types = settings.observation.intervals if self.missing else self.factory.type_names
        check_observation(settings.observation, types, self.add)
        if not self.missing:
            resolve_actions(settings.actions, self.factory.modules, self.add)

    # --- the tree ---------------------------------------------------------------------------

    def workers(self) -> None:
        """A dry derive of every worker and of the children it declares."""
        settings = self.settings
        spoilt = {fault.path.partition(".variables")[0] for fault in self.faults}
        if any(fault.path.startswith("global") for fault in self.faults):
            return  # no bundle can be built, and that is already told
        for index, worker in enumerate(settings.workers):
            place = f"workers[{index}]"
            if place in spoilt:
                continue
            self._node(
                _Planned(
                    path=f"{settings.name}/{worker.name}",
                    parent_path=settings.name,
                    place=place,
                    spec=child_spec(worker),
                    above=VariableBundle(global_=settings.global_),
                    location=settings.location.merge(worker.location),
                )
            )

    def _node(self, node: _Planned) -> None:
        self.checked += 1
        if self.checked > WORKERS_MAX:
            if self.checked == WORKERS_MAX + 1:
                self.add(node.place, f"got over {WORKERS_MAX} workers, want at most that")
            return
        bundle = node.above.for_child(node.spec.user_spec.variables, self._internal(node))
        hidden = secret_texts(node.config) + secret_texts(bundle.flatten()) + node.hidden
        found = list(template_faults(node.config, bundle, at_key(node.place, "config")))
        for place, message in found:
            self.add(place, message, hidden)
        if found or node.worker_type not in self.factory:
            return
        desired = self._derive(node, bundle, hidden)
        if desired is not None:
            # What the worker's own type calls a secret may stand under any key in the file.
            hidden = tuple(dict.fromkeys(hidden + secrets_in(desired.config)))
            declared = DeclaredNode(node.path, node.parent_path, node.spec, bundle, hidden)
            self.declared.append(declared)
            self._children(node, desired, bundle, hidden)

    def _internal(self, node: _Planned) -> dict[str, Any]:
        return {
            "id": node.path,
            "created_at": CHECKED_AT,
            "parent_id": node.parent_path,
            "bridged_by": node.parent_path,
            "location": msgspec.to_builtins(node.location),
            "location_path": node.location.path(self.settings.location_gaps),
        }

    def _derive(
        self, node: _Planned, bundle: VariableBundle, hidden: tuple[str, ...]
    ) -> DesiredState | None:
        desired: Any
        kind = node.worker_type
        spec = UserSpec(config=node.config, variables=bundle)
        try:
            worker = _call(lambda: self.factory.create(kind), f"worker {kind!r}, constructor")
            desired = _call(
                lambda: worker.derive_desired_state(spec), f"worker {kind!r}, derive_desired_state"
            )
            if not isinstance(desired, DesiredState):
                got = type(desired).__name__
                raise SpecError(
                    f"worker {kind!r}, derive_desired_state: returned {got}, want DesiredState"
                )
            action = _call(lambda: worker.observe(desired), f"worker {kind!r}, observe")
            if isinstance(action, Action):
                check_action_type(type(action))
                self._interval(node, type(worker).observe_interval_s)
            elif action is not None:
                got = type(action).__name__
                raise SpecError(f"worker {kind!r}, observe: returned {got}, want Action or None")
        except SpecError as error:
            wrong = self._misfits(node, bundle, error)
            for place, message in wrong or [_placed(error, node.place)]:
                self.add(place, message, hidden)
            return None
        return desired

    def _interval(self, node: _Planned, own_interval_s: float) -> None:
        if node.worker_type in self.settings.observation.intervals:
            return  # told there
        fault = interval_fault(self.settings.observation, own_interval_s)
        if fault:
            self.add(node.place, f"worker type {node.worker_type!r} is {fault}")

    def _misfits(
        self, node: _Planned, bundle: VariableBundle, error: SpecError
    ) -> list[tuple[str, str]]:
        """Every field of the config that does not fit, where decoding it was the trouble.

        Only asked after a failure: a worker is free to decode its config in its own way.
        """
        if _CONFIG_PLACE.match(str(error)) is None or isinstance(error, TemplateError):
            return []
        config_type = self.factory.type_of(node.worker_type).config_type
        try:
            rendered = render_config(node.config, bundle)
            return misfits(describe(config_type), rendered, at_key(node.place, "config"))
        except (SpecError, TypeError):
            return []

    def _known_types(self, children: Sequence[ChildSpec]) -> set[str]:
        asked = [getattr(child, "worker_type", None) for child in children] if self.missing else []
        return {*self.factory.type_names, *(kind for kind in asked if isinstance(kind, str))}

    def _children(
        self, node: _Planned, desired: DesiredState, bundle: VariableBundle, hidden: tuple[str, ...]
    ) -> None:
        if not desired.children:
            return
        declarer = Declarer(node.spec.name, node.worker_type, node.config, bundle)
        lineage = (*node.lineage, declarer)
        if node.path.count("/") + 1 >= DEPTH_MAX:
            chain = " -> ".join(("root", *(above.worker_type for above in lineage)))
            self.add(node.place, f"got children below depth {DEPTH_MAX}, want less: {chain}")
            return
        try:
            _call(
                lambda: check_children(
                    desired.children, self._known_types(desired.children), node.path
                ),
                f"worker {node.worker_type!r}, children",
            )
            check_no_circle(lineage, desired.children)
        except SpecError as error:
            self.add(node.place, str(error), hidden)
            return
        for child in desired.children:
            self._node(
                _Planned(
                    path=f"{node.path}/{child.name}",
                    parent_path=node.path,
                    place=f"{node.place}.children[{child.name}]",
                    spec=child,
                    above=bundle,
                    location=node.location.merge(child.location),
                    lineage=lineage,
                    hidden=hidden,
                )
            )


def _call(step: Callable[[], object], where: str) -> Any:
    """Run worker code; what it raises becomes a `SpecError` that says where.

    Returns Any: what worker code gives back need not be what its annotation says.
    """
    try:
        return step()
    except (SpecError, KeyboardInterrupt):  # Ctrl-C, as far as anybody can tell
        raise
    except BaseException as error:
        at = ""
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            at = f" ({os.path.basename(code.co_filename)}:{trace.tb_lineno})"
            trace = trace.tb_next
        raise SpecError(f"{where}: raised {told(error)}{at}") from None


def _placed(error: SpecError, place: str) -> tuple[str, str]:
    """Split "config.port: Expected ..." into its place and its text."""
    found = _CONFIG_PLACE.match(str(error))
    return (f"{place}.{found['place']}", found["text"]) if found else (place, str(error))
