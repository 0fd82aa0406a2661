"""Workers whose one action always ends badly: what the supervisor is for.

Knows: five ways to fail: hang in Python, hang in C with the interpreter's lock held, crash,
leave, raise.
Does not know: what becomes of an attempt; the reason only tells what the result says.
Invariants: each worker acts every ``every_s`` seconds, whatever happened before.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import NoReturn

import msgspec

from fsmv2.supervisor import (
    Act,
    Action,
    ActionContext,
    ActionResult,
    Go,
    Phase,
    Snapshot,
    State,
    Stay,
    Worker,
)

# Short waits, so that a minute of watching shows several attempts.
SHORT = msgspec.structs.replace(Action.retry, base_s=0.5, max_s=2.0)


class FaultyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``every_s``: seconds from the end of an attempt to the next."""

    every_s: float = 3.0


class Hang(Action, frozen=True):
    """Runs Python code for ever."""

    timeout_s = 2.0
    retry = SHORT

    def execute(self, ctx: ActionContext) -> NoReturn:
        """Never returns."""
        ctx.progress("looping for ever")
        while True:
            pass


class HangInC(Action, frozen=True):
    """Stays inside one C call for ever and holds the interpreter's lock: no other Python
    thread of that process runs any more, so nothing inside it could end the attempt."""

    timeout_s = 2.0
    retry = SHORT

    def execute(self, ctx: ActionContext) -> None:
        """Never returns: the pattern is tried in about 2 ** 60 ways, and none fits."""
        ctx.progress("matching a pattern for ever")
        re.match(r"(a+)+$", "a" * 60 + "b")


class Segfault(Action, frozen=True):
    """Reads address 0."""

    timeout_s = 2.0
    retry = SHORT

    def execute(self, ctx: ActionContext) -> None:
        """Dies of SIGSEGV."""
        ctx.progress("reading address 0")
        ctypes.string_at(0)


class Exit(Action, frozen=True):
    """Ends its process."""

    timeout_s = 2.0
    retry = SHORT

    def execute(self, ctx: ActionContext) -> NoReturn:
        """Leaves with exit code 3, without unwinding."""
        ctx.progress("leaving")
        os._exit(3)


class Fail(Action, frozen=True):
    """Raises."""

    timeout_s = 2.0
    retry = SHORT

    def execute(self, ctx: ActionContext) -> NoReturn:
        """Always raises ValueError."""
        raise ValueError("cannot read sensor: got 999.9, want at most 120.0")


ATTEMPTS: dict[str, Action] = {
    "hangs": Hang(),
    "hangs_in_c": HangInC(),
    "segfaults": Segfault(),
    "exits": Exit(),
    "fails": Fail(),
}


def told(last: ActionResult) -> str:
    """How an attempt ended, for people."""
    error = f" ({last.error})" if last.error is not None else ""
    ran = f"{last.ran_s:.1f} s" if last.ran_s >= 1 else f"{last.ran_s * 1000:.0f} ms"
    return f"last attempt {last.verdict} after {ran}{error}"


class Stopped(State):
    """Nothing is tried."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        """Start at once."""
        return Go(Running, reason=f"trying every {snap.config.every_s:.0f} s")


class Running(State):
    """No attempt has ended badly yet."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act | Go | Stay:
        """Try; degraded after the first bad end."""
        action = ATTEMPTS[snap.identity.worker_type]
        last = snap.result(type(action))
        if last is not None and not last.succeeded:
            return Go(Degraded, reason=told(last))
        return _try_again(snap, action)


class Degraded(State):
    """The last attempt ended badly."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Act | Go | Stay:
        """Try again and again; running as soon as one attempt succeeds."""
        action = ATTEMPTS[snap.identity.worker_type]
        last = snap.result(type(action))
        if last is not None and last.succeeded:
            return Go(Running, reason=told(last))
        return _try_again(snap, action)


def _try_again(snap: Snapshot, action: Action) -> Act | Stay:
    last = snap.result(type(action))
    if last is None:
        return Act(action, reason="first attempt")
    left_s = snap.config.every_s - snap.since_result_s(type(action))
    if left_s > 0:
        return Stay(reason=f"{told(last)}, next in {left_s:.0f} s")
    return Act(action, reason=f"{told(last)}, trying again")


class Hangs(Worker):
    """See `Hang`."""

    type_name = "hangs"
    config_type = FaultyConfig
    initial = stopping = Stopped


class HangsInC(Worker):
    """See `HangInC`."""

    type_name = "hangs_in_c"
    config_type = FaultyConfig
    initial = stopping = Stopped


class Segfaults(Worker):
    """See `Segfault`."""

    type_name = "segfaults"
    config_type = FaultyConfig
    initial = stopping = Stopped


class Exits(Worker):
    """See `Exit`."""

    type_name = "exits"
    config_type = FaultyConfig
    initial = stopping = Stopped


class Fails(Worker):
    """See `Fail`."""

    type_name = "fails"
    config_type = FaultyConfig
    initial = stopping = Stopped


WORKERS = [Hangs, HangsInC, Segfaults, Exits, Fails]
