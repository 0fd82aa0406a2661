"""What a worker goes on with after its root was restarted.

Knows: the document of the role "resume", how nodes are read into it and made from it.
Does not know: where it is kept.
Invariants: no value in which a Secret is, or may be, is kept; what cannot be read is left out
and stops nobody; moments are kept by the wall clock, and none of them lies in the future but the
next start, which is at most `NEXT_START_S_MAX` away; results go on only where type and config are
provably the same.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect
from msgspec.structs import replace

from fsmv2.ipc.codec import decode
from fsmv2.supervisor.core.action import (
    Action,
    ActionError,
    ActionResult,
    Status,
    action_name,
    value_type,
)
from fsmv2.supervisor.core.childbreaker import Cause, Track
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.core.restarts import Counted
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.store.protocol import document
from fsmv2.supervisor.tree.care import Care
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.node import NEVER, Node
from fsmv2.supervisor.tree.restarting import later_of

VALUE_BYTES_MAX = 64 * 1024
PART_BYTES_MAX = 128 * 1024
NEXT_START_S_MAX = 60.0


def _refuse(value: Any) -> Any:
    raise TypeError(f"no value of type {type(value).__qualname__} is kept")


# Unlike the wire's encoder it knows no value that hides itself.
_encoder = msgspec.msgpack.Encoder(enc_hook=_refuse)


class KeptResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """An `ActionResult` without what may quote a secret, its error's text and its certificate.
    ``value`` is msgpack."""

    status: Status
    value: bytes = b""
    error_type: str = ""
    queued_s: float = 0.0
    ran_s: float = 0.0
    ended_at: float = 0.0


class KeptRestart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `core.restarts.Counted`."""

    name: str
    at: float
    started: bool = False


class KeptWait(msgspec.Struct, frozen=True, omit_defaults=True):
    """Until when a child is not made; ``given_up``: for its parent's budget is spent."""

    until: float
    given_up: bool = False


class KeptBreaker(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `core.childbreaker.Track`, without its texts and waits: the child comes anew."""

    attempts: tuple[float, ...] = ()
    since: float | None = None
    cause: Cause = "healthy"
    made: int = 0
    warned: bool = False
    escalated: bool = False


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """The document. Moments are seconds since the epoch; actions go by ``module:qualname``.
    ``restarts``, ``waits`` and ``breakers`` are those of the children; ``successes`` has the last
    one of each action type whose last result is none."""

    restarts: tuple[KeptRestart, ...] = ()
    waits: dict[str, KeptWait] = {}
    breakers: dict[str, KeptBreaker] = {}
    failures: dict[str, int] = {}
    results: dict[str, KeptResult] = {}
    successes: dict[str, KeptResult] = {}


def resume_of(node: Node, now: float, wall: float) -> Resume:
    """What ``node`` would go on with."""

    def moment(monotonic: float) -> float:
        return round(wall - (now - monotonic), 3)

    tracks = node.care.tracks if node.care is not None else {}
    return Resume(
        restarts=tuple(
            KeptRestart(one.name, moment(one.at), one.started) for one in node.restarted
        ),
        waits={
            name: KeptWait(moment(later.moment), later.given_up)
            for name, later in node.later.items()
            if now < later.moment < NEVER
        },
        breakers={
            name: KeptBreaker(
                tuple(moment(at) for at in track.attempts),
                None if track.since is None else moment(track.since),
                track.cause,
                track.made,
                track.warned,
                track.escalated,
            )
            for name, track in tracks.items()
        },
        failures={_reference(kind): count for kind, count in node.failures.items()},
        results=_keep_all(node.results),
        successes=_keep_all({kind: success for kind, (success, _) in node.successes.items()}),
    )


def _reference(kind: type[Action]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _keep_all(results: dict[type[Action], ActionResult]) -> dict[str, KeptResult]:
    kept = {_reference(kind): _keep(result, kind) for kind, result in results.items()}
    return {name: result for name, result in kept.items() if result is not None}


def _keep(result: ActionResult, kind: type[Action]) -> KeptResult | None:
    if not isinstance(result.value, None | bool | int | float) and not _tells_all(kind):
        return None
    try:
        value = _encoder.encode(result.value)
    except Exception:  # what a value's own code raises is no reason to keep less of the others
        return None
    if len(value) > VALUE_BYTES_MAX:
        return None
    return KeptResult(
        result.status,
        value,
        result.error.type if result.error is not None else "",
        result.queued_s,
        result.ran_s,
        result.ended_at,
    )


@lru_cache(maxsize=1024)
def _tells_all(kind: type[Action]) -> bool:
    try:
        return says_all(value_type(kind))
    except FsmError:
        return False


@lru_cache(maxsize=1024)
def says_all(annotation: Any) -> bool:
    """Whether a type says of each part of its values what that is. Where it says Any, a secret
    that was given as plain text looks like any other."""
    try:
        todo: list[msgspec.Struct] = [inspect.type_info(annotation)]
    except TypeError:
        return False
    seen: set[int] = set()
    while todo:
        part = todo.pop()
        if isinstance(part, inspect.AnyType | inspect.RawType):
            return False
        if id(part) in seen:
            continue
        seen.add(id(part))
        for name in part.__struct_fields__:
            field = getattr(part, name)
            fields = field if isinstance(field, tuple) else (field,)
            todo += [one for one in fields if isinstance(one, msgspec.Struct)]
    return True


def config_of(config: Any) -> Any:
    """A worker's config as it is kept: whole where its type says all, else only what it is. One
    that no type was given for, as a child's in its parent's config, may hold a secret in clear."""
    kind: Any = type(config)
    if config is None or (kind not in (str, bytes) and says_all(kind)):
        return part_of(config)
    return f"<{kind.__qualname__}>"


def part_of(value: Any) -> Any:
    """A worker's own value, as far as it can be kept."""
    try:
        raw = document(value)
    except BaseException:  # a worker's value may raise anything at all
        return f"<{type(value).__qualname__}>"
    if len(raw) > PART_BYTES_MAX:
        return f"<{type(value).__qualname__}, {len(raw)} bytes>"
    return msgspec.Raw(raw)


# --- going on -------------------------------------------------------------------------------


def goes_on(parent: Node, name: str, ctx: Context) -> bool:
    """Whether the next incarnation of a child is its first in this run and not its first at all:
    its count goes on."""
    recalled = ctx.recalled.get(f"{parent.path}/{name}")
    if recalled is None:
        return False
    return parent.generations.setdefault(name, recalled.generation) == recalled.generation


def go_on_with_children(node: Node, ctx: Context, declared: tuple[ChildSpec, ...]) -> None:
    """After the first declaration of a worker in this run: restarts of its children count on, and
    what waits to start waits on."""
    recalled = ctx.recalled.get(node.path)
    if recalled is None or not recalled.resume:
        return
    resume = _resume_from(recalled.resume)
    ctx.recalled[node.path] = replace(recalled, resume={})
    specs = {spec.name: spec for spec in declared}

    def moment(at: float) -> float:
        return ctx.now + min(at - ctx.wall, NEXT_START_S_MAX)

    for name, wait in resume.waits.items():
        if name in specs and wait.until > ctx.wall:
            later = later_of(node, specs[name])
            later.moment, later.given_up = moment(wait.until), wait.given_up
    for name, kept in resume.breakers.items():
        if name in specs:
            node.care = node.care or Care()
            attempts = tuple(min(moment(at), ctx.now) for at in kept.attempts)
            track = Track(
                attempts=attempts,
                since=None if kept.since is None else min(moment(kept.since), ctx.now),
                cause=kept.cause,
                detail="in an earlier run",
                made=kept.made,
                warned=kept.warned,
                escalated=kept.escalated,
                escalated_at=max(attempts, default=ctx.now) if kept.escalated else -NEVER,
            )
            node.care.keep(name, track)
    node.restarted = tuple(
        # What was carried out was so before now, whatever the clock says.
        Counted(one.name, min(moment(one.at), ctx.now if one.started else NEVER), one.started)
        for one in resume.restarts
        if one.name in specs
    )


def go_on_with_results(node: Node, ctx: Context) -> None:
    """After the first desired state of a worker in this run: its results and failures go on, if it
    is the same worker as before."""
    recalled = ctx.recalled.get(node.path)
    if recalled is None or node.desired is None or not recalled.worker_type:
        return
    ctx.recalled[node.path] = replace(recalled, worker_type="", desired={})
    if recalled.worker_type != node.spec.worker_type:
        return
    config = node.desired.config
    try:
        # A config that hides something cannot be told to be the same: refused by the encoder.
        _encoder.encode(config)
    except Exception:  # a config's own code may raise anything at all
        return
    kept = config_of(config)
    before = document(recalled.desired.get("config"))
    if not isinstance(kept, msgspec.Raw) or document(kept) != before:
        return
    resume = _resume_from(recalled.resume)
    for kind, (result, end) in _results_from(resume.results, ctx).items():
        node.results[kind], node.result_ends[kind] = result, end
    for kind, (result, end) in _results_from(resume.successes, ctx).items():
        if result.succeeded:
            node.successes[kind] = result, end
    for reference, count in resume.failures.items():
        if (counted := _kind_of(reference)) is not None:
            node.failures[counted] = count


def _resume_from(plain: dict[str, Any]) -> Resume:
    try:
        return msgspec.convert(plain, Resume)
    except msgspec.ValidationError:
        return Resume()


def _kind_of(reference: str) -> type[Action] | None:
    """The action type, if its module is loaded: a file makes nobody import anything."""
    module, _, qualname = reference.partition(":")
    try:
        found: Any = sys.modules[module]
        for name in qualname.split("."):
            found = getattr(found, name)
    except (KeyError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, Action) else None


def _results_from(
    kept: dict[str, KeptResult], ctx: Context
) -> dict[type[Action], tuple[ActionResult, float]]:
    """The results that can be read, each with the moment of its end."""
    found = {}
    for reference, one in kept.items():
        kind = _kind_of(reference)
        result = _result_from(one, kind) if kind is not None else None
        if kind is not None and result is not None:
            found[kind] = result, ctx.now - max(0.0, ctx.wall - one.ended_at)
    return found


def _result_from(kept: KeptResult, kind: type[Action]) -> ActionResult | None:
    try:
        value = decode(kept.value, value_type(kind)) if kept.status == "succeeded" else None
    except Exception:  # the type has changed since
        return None
    return ActionResult(
        status=kept.status,
        action_type=action_name(kind),
        attempt_id=0,
        value=value,
        error=ActionError(kept.error_type, "in an earlier run") if kept.error_type else None,
        queued_s=kept.queued_s,
        ran_s=kept.ran_s,
        ended_at=kept.ended_at,
    )
