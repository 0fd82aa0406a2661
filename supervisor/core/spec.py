"""Specs: what a parent declares of its children, and what a worker derives.

Knows: the fields, their rules, the order dependencies impose.
Does not know: nodes, what is running.
Invariants: I11, unknown or unusable input is refused with its place, never skipped; all specs
are validated before any child is touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from fsmv2.supervisor.core.configrender import render_config
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.restarts import (
    RESTART_TYPES,
    STRATEGIES,
    RestartBudget,
    RestartType,
    Strategy,
)
from fsmv2.supervisor.core.variables import VariableBundle, check_values
from fsmv2.supervisor.core.words import WORD_CHARS_MAX, is_word, plain_text

T = TypeVar("T")

NAME_WANT = "1 to 63 of letters, digits, '_', '-' or '.', beginning with a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
CHILDREN_MAX = 10_000
DEPTH_MAX = 16


class UserSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the user wrote for one worker: ``config`` is a mapping (its strings may be
    templates) or one template text that renders to YAML; ``variables`` feed the templates."""

    config: dict[str, Any] | str = msgspec.field(default_factory=dict)
    variables: VariableBundle = msgspec.field(default_factory=VariableBundle)

    def decode(self, kind: type[T]) -> T:
        """Render the config and return it as ``kind``.

        Raises `TemplateError` for a template that does not render and `SpecError` for a
        value that does not fit; both name the place inside the config.
        """
        rendered = render_config(self.config, self.variables)
        try:
            return msgspec.convert(rendered, kind, dec_hook=_decode_wire_type)
        except msgspec.ValidationError as error:
            text, _, place = str(error).partition(" - at `")
            at = place.rstrip("`").replace("$", "config", 1) if place else "config"
            raise SpecError(f"{at}: {text}{_nearest(text, kind)}") from None


class ChildSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Declares one child. ``name`` is unique among its siblings.

    ``state_mapping`` maps the parent's desired state to this child's; a state that is not in
    it leaves the child's own. ``enabled=False`` keeps the child resident and stopped.
    ``depends_on`` names siblings that must be in phase running before this one starts; it is held,
    not stopped, when one of them goes away later: it runs on, and waits for them if it has to
    start again. ``restart`` says after which ends of its own it is started again: ``permanent``
    after each, ``transient`` after an abnormal one (`Restart`, or dropped by force while on its own
    way out), ``temporary`` after none; until its spec changes. A stop that its parent, an operator
    or a reload asks for is no such end.
    ``shutdown_timeout_s`` is how long a stop may take before the child is dropped by force.
    """

    name: str
    worker_type: str
    user_spec: UserSpec = msgspec.field(default_factory=UserSpec)
    state_mapping: dict[str, str] = msgspec.field(default_factory=dict)
    enabled: bool = True
    depends_on: tuple[str, ...] = ()
    restart: RestartType = "permanent"
    shutdown_timeout_s: float = 10.0
    location: Location = msgspec.field(default_factory=Location)


class DesiredState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a worker wants of itself: a state word ("stopped" stops it), its decoded config,
    and its children in the order they start.

    ``strategy`` names the siblings that are restarted along with a child: none (``one_for_one``),
    all (``one_for_all``), those after it in start order (``rest_for_one``). They stop in reverse
    start order, one after the other, and start in start order when all are down. More restarts than
    ``restart_budget`` allows end this worker too, abnormally: then its own restart type and its
    parent's budget decide. At the top the child is given up instead, until the window has drained.

    While a child has failed, this worker derives and acts no more, but its other children go on;
    with ``strict_circuit`` they are not looked at either.
    """

    state: str
    config: Any = None
    children: tuple[ChildSpec, ...] = ()
    strategy: Strategy = "one_for_one"
    restart_budget: RestartBudget = msgspec.field(default_factory=RestartBudget)
    strict_circuit: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.state, str) or not is_word(str.__str__(self.state)):
            got = repr(self.state)[:WORD_CHARS_MAX]
            raise SpecError(f"cannot use DesiredState: state is {got}, want a word")
        if type(self.state) is not str:  # a subclass may compare by code of its own
            msgspec.structs.force_setattr(self, "state", plain_text(self.state))
        children: object = self.children
        if isinstance(children, list):  # what a worker's author is most likely to hand over
            msgspec.structs.force_setattr(self, "children", tuple(children))
        if self.strategy not in STRATEGIES:
            raise SpecError(
                f"cannot use DesiredState: strategy is {self.strategy!r}, "
                f"want one of {', '.join(STRATEGIES)}"
            )
        strict: object = self.strict_circuit
        if not isinstance(strict, bool):
            raise SpecError(
                f"cannot use DesiredState: strict_circuit is {type(strict).__name__}, want bool"
            )
        budget: object = self.restart_budget
        if not isinstance(budget, RestartBudget):
            raise SpecError(
                f"cannot use DesiredState: restart_budget is {type(budget).__name__}, "
                "want RestartBudget"
            )


def check_name(name: object, what: str) -> str:
    """Return ``name`` if it can be part of a path; raises `SpecError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(f"cannot use {what} {name!r}: want {NAME_WANT}")
    return name


def check_children(specs: Sequence[ChildSpec], known_types: Collection[str], path: str) -> None:
    """Validate all of a parent's specs at once; raises one `SpecError` that names every fault.

    Faults: something that is no ChildSpec or has a field of the wrong type, an unusable or
    repeated name, an unknown worker or restart type, an unknown or circular dependency, a shutdown
    timeout out of range, variables that are no plain data, too many children.
    """
    declared: object = specs
    if not isinstance(declared, tuple | list):
        raise SpecError(f"{path}: children is {type(declared).__name__}, want ChildSpecs")
    faults: list[str] = []
    if len(specs) > CHILDREN_MAX:
        faults.append(f"{path}: got {len(specs)} children, want at most {CHILDREN_MAX}")
    seen: dict[str, int] = {}
    usable: list[ChildSpec] = []
    for index, spec in enumerate(specs):
        where = f"{path}: children[{index}]"
        wrong = _wrong_types(spec)
        if wrong:
            faults += [f"{where}: {fault}" for fault in wrong]
            continue
        usable.append(spec)
        faults += [f"{where}: {fault}" for fault in _own_faults(spec, known_types)]
        if spec.name in seen:
            faults.append(
                f"{where}: name {spec.name!r} is used twice, first at children[{seen[spec.name]}]"
            )
        seen.setdefault(spec.name, index)
    faults += [f"{path}: {fault}" for fault in dependency_faults(usable)]
    if faults:
        raise SpecError("; ".join(faults))


_PLAIN = {tuple, list, dict, str, int, float}
_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "worker_type": (str,),
    "user_spec": (UserSpec,),
    "state_mapping": (dict,),
    "enabled": (bool,),
    "depends_on": (tuple, list),
    "restart": (str,),
    "shutdown_timeout_s": (int, float),
    "location": (Location,),
}


def _wrong_types(spec: object) -> list[str]:
    """Worker code builds specs, and msgspec checks no types in constructors."""
    if not isinstance(spec, ChildSpec):
        return [f"got {type(spec).__name__}, want ChildSpec"]
    faults = [
        f"{field} is {type(value).__name__}, want {' or '.join(k.__name__ for k in kinds)}"
        for field, kinds in _FIELD_TYPES.items()
        if not isinstance(value := getattr(spec, field), kinds)
    ]
    if faults:
        return faults
    variables: object = spec.user_spec.variables
    if not isinstance(variables, VariableBundle):
        return [f"user_spec.variables is {type(variables).__name__}, want VariableBundle"]
    texts = (*spec.depends_on, *spec.state_mapping, *spec.state_mapping.values())
    if not all(isinstance(text, str) for text in texts):
        return ["depends_on and state_mapping hold something else than text"]
    texts += (spec.name, spec.worker_type, spec.restart)
    others = (spec.depends_on, spec.state_mapping, spec.user_spec.config, spec.shutdown_timeout_s)
    if not ({*map(type, texts)} == {str} and {*map(type, others)} <= _PLAIN):
        _make_plain(spec)
    if not all(is_word(word) for word in spec.state_mapping.values()):
        return ["state_mapping holds a state that is no word"]
    return []


def _make_plain(spec: ChildSpec) -> None:
    """Take the code away that subclasses of built-in types bring: comparing, hashing and listing a
    spec would run it inside a tick."""
    set_field = msgspec.structs.force_setattr
    for field in ("name", "worker_type", "restart"):
        set_field(spec, field, plain_text(getattr(spec, field)))
    mapping, config = dict(spec.state_mapping), spec.user_spec.config
    plain = {plain_text(word): plain_text(mapped) for word, mapped in mapping.items()}
    set_field(spec, "state_mapping", plain)
    set_field(spec, "depends_on", tuple(plain_text(name) for name in spec.depends_on))
    set_field(spec, "shutdown_timeout_s", float(spec.shutdown_timeout_s))
    config = dict(config) if isinstance(config, dict) else plain_text(config)
    set_field(spec, "user_spec", msgspec.structs.replace(spec.user_spec, config=config))


def _own_faults(spec: ChildSpec, known_types: Collection[str]) -> Iterator[str]:
    try:
        check_name(spec.name, "name")
    except SpecError as error:
        yield str(error)
    if spec.worker_type not in known_types:
        yield (
            f"({spec.name}) unknown worker type {spec.worker_type!r}, "
            f"want one of {', '.join(sorted(known_types)) or 'none registered'}"
        )
    if spec.restart not in RESTART_TYPES:
        yield f"({spec.name}) restart is {spec.restart!r}, want one of {', '.join(RESTART_TYPES)}"
    if not 0 < spec.shutdown_timeout_s <= 3600:
        yield (
            f"({spec.name}) shutdown_timeout_s is {spec.shutdown_timeout_s!r}, "
            "want more than 0 and at most 3600 seconds"
        )
    try:
        check_values(spec.user_spec.variables)
    except SpecError as error:
        yield f"({spec.name}) {error}"


def dependency_faults(specs: Sequence[ChildSpec]) -> list[str]:
    """What is wrong with ``depends_on``: unknown names, and a cycle written out by name."""
    needs = {spec.name: spec.depends_on for spec in specs}
    faults = [
        f"{name}: depends_on names {other!r}, want a sibling: {', '.join(needs)}"
        for name, others in needs.items()
        for other in others
        if other not in needs
    ]
    cycle = _find_cycle(needs) if any(needs.values()) else []
    if cycle:
        faults.append(f"depends_on is circular: {' -> '.join(cycle)}")
    return faults


def start_order(specs: Sequence[ChildSpec]) -> tuple[str, ...]:
    """Names in declared order, but each after what it depends on, as far as that is among
    ``specs``: a dependency may be missing (it has just restarted, or could not be made)."""
    needs = {spec.name: spec.depends_on for spec in specs}
    if not any(needs.values()):
        return tuple(needs)
    order: dict[str, None] = {}
    # Not recursive: a chain may be longer than Python's stack.
    for start in needs:
        trail = [start]
        on_trail = {start}
        while trail:
            name = trail[-1]
            waiting = [
                other
                for other in needs[name]
                if other in needs and other not in order and other not in on_trail
            ]
            if waiting:
                trail.append(waiting[0])
                on_trail.add(waiting[0])
            else:
                order.setdefault(trail.pop())
                on_trail.discard(name)
    return tuple(order)


def _find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    done: set[str] = set()
    for start in needs:
        trail: list[str] = []
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            name, index = stack.pop()
            if index == 0:
                if name in trail:
                    return [*trail[trail.index(name) :], name]
                if name in done:
                    continue
                trail.append(name)
            others = [other for other in needs.get(name, ()) if other in needs]
            if index < len(others):
                stack.append((name, index + 1))
                stack.append((others[index], 0))
            else:
                trail.remove(name)
                done.add(name)
    return []


def _decode_wire_type(kind: type, raw: Any) -> Any:
    if kind is object:
        return raw
    decode_value = getattr(kind, "__wire_decode__", None)
    if decode_value is None:
        raise SpecError(
            f"cannot decode a config value as {kind.__qualname__}: want msgspec Structs, "
            "dataclasses, Secret, and the built-in types"
        )
    return decode_value(raw)


def _nearest(text: str, kind: Any) -> str:
    """For an unknown field, the fields there are (the class knows; msgspec's text does not)."""
    if "unknown field" not in text:
        return ""
    names = (
        [field.encode_name for field in msgspec.structs.fields(kind)]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        else []
    )
    return f", want one of {', '.join(names)}" if names else ""
