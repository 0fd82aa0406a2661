"""What the root and its procs say to each other: two closed unions, and fork orders.

Knows: the fields of each message.
Does not know: when they are sent.
Invariants: an unknown tag or field is refused by the decoder; `payload` and `value` stay
undecoded (`Raw`) until the side that knows their type asks for them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Base of all messages; never sent itself."""


# --- root to proc ---------------------------------------------------------------------------


class Run(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="run"):
    """Run one action. ``action`` is ``module:qualname``; ``timeout_s`` counts from its start."""

    attempt_id: int
    action: str
    payload: msgspec.Raw
    timeout_s: float
    key: str = ""


class Exit(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="exit"):
    """Leave the loop and exit 0. Sent only to idle procs."""


ToProc = Run | Exit

# --- proc to root ---------------------------------------------------------------------------


class Hello(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="hello"):
    """First frame of a proc: it can take an action now."""

    pid: int
    protocol: int
    slot: str


class Done(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="done"):
    """The action returned; ``value`` is what it returned, encoded."""

    attempt_id: int
    value: msgspec.Raw
    cpu_s: float


class Raised(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="raised"):
    """The action raised, or could not be decoded, imported, or its result encoded."""

    attempt_id: int
    kind: str
    message: str
    traceback: str
    cpu_s: float
    cancelled: bool = False


class Progress(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="progress"):
    """What a running action says of itself."""

    attempt_id: int
    text: str


class Logged(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="logged"):
    """One log record of a running action."""

    attempt_id: int
    level: str
    event: str
    fields: dict[str, Any]


FromProc = Hello | Done | Raised | Progress | Logged

# --- root and template ----------------------------------------------------------------------


class Fork(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="fork"):
    """Fork one proc, called ``name``, that gets the file descriptors sent along, in the order
    of `PROC_FDS`."""

    slot: str
    name: str
    root_pid: int


class Importing(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="importing"):
    """The template imports ``module`` next: whatever happens before its next word is its doing."""

    module: str


class Preloaded(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="preloaded"):
    """The template has imported what it was told to. ``failed`` maps modules it could not import
    to why. ``unsafe`` maps the module that makes forking unsafe to why (``__main__``: the
    program that uses the pool); empty: the template is ready, else it forks nothing, and is to
    be replaced by one without that module. ``threads`` is how many OS threads it has."""

    pid: int
    failed: dict[str, str]
    threads: int
    unsafe: dict[str, str] = {}


class Forked(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="forked"):
    """The proc for ``slot`` exists under ``pid``, or (pid 0) could not be made: ``error``."""

    slot: str
    pid: int
    error: str = ""


FromTemplate = Importing | Preloaded | Forked

PROC_FDS = ("run_read", "result_write", "page", "woken_write", "output_write")

# --- root to ops ----------------------------------------------------------------------------


class Published(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="published"):
    """A finished JSON document. ``topic`` is "tree" or "status" (the newest replaces the one
    before) or "event" (one each, in order). Topics the reader does not know are skipped."""

    topic: str
    body: bytes


class OpsReady(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="ops_ready"):
    """The ops process serves now."""

    pid: int
