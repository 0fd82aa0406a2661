"""What the root says to its processes and they to it: closed unions.

Knows: the fields of each message.
Does not know: when they are sent.
Invariants: an unknown tag or field is refused by the decoder; actions and their values travel
encoded, as bytes, until the side that knows their type asks for them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, array_like=True):
    """Base of all messages; never sent itself. As an array on the wire: tag, then the fields in
    order, a third of the bytes and half of the time of a map."""


# --- root to proc ---------------------------------------------------------------------------


# The attempt's id, ``module:qualname`` of its action, the action encoded, and its timeout in
# seconds, counted from its start. A tuple, which costs both sides half of what a struct does.
Order = tuple[int, str, bytes, float]


class Run(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="run"):
    """Run actions, one after the other. The first is the ``place``th order to this proc, the
    next the one after that; each is begun, and may be revoked, by its number. ``stays_awake``: a
    CPU is left on which the proc may look out for the next order (see `ipc.busywait`)."""

    place: int
    orders: list[Order]
    stays_awake: bool = False


class Warm(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="warm"):
    """Import the module of ``action``, which another proc has run already: this one may be needed
    soon, and then without delay."""

    action: str


class Exit(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="exit"):
    """Leave the loop and exit 0. Sent only to idle procs."""


ToProc = Run | Warm | Exit

# --- proc to root ---------------------------------------------------------------------------


class Hello(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="hello"):
    """First frame of a proc: it can take an action now."""

    pid: int
    protocol: int
    slot: str
    # Whether an order that it has not begun can be revoked on the page; where in its memory an
    # outside reader of stacks begins (0: nowhere).
    revokes: bool = False
    anchor: int = 0


class Skipped(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="skipped"):
    """The order was revoked before it was begun."""

    attempt_id: int
    place: int


class Done(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="done"):
    """The action returned; ``value`` is what it returned, encoded. It began at ``began_at``
    (CLOCK_MONOTONIC seconds, which all processes of a machine share) and took ``ran_s``."""

    attempt_id: int
    value: bytes
    began_at: float
    ran_s: float


class Spilled(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="spilled"):
    """The action returned more than a frame holds: ``size`` encoded bytes are in the file
    ``spill-ATTEMPT`` of the proc's scratch folder."""

    attempt_id: int
    size: int
    began_at: float
    ran_s: float


class Raised(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="raised"):
    """The action raised, or could not be decoded, imported, or its result encoded."""

    attempt_id: int
    kind: str
    message: str
    traceback: str
    began_at: float
    ran_s: float
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


Answer = Done | Spilled | Raised
FromProc = Hello | Answer | Skipped | Progress | Logged

# --- root and template ----------------------------------------------------------------------


class Fork(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="fork"):
    """Fork one proc, called ``name``, that gets the file descriptors sent along, in the order
    of `PROC_FDS`. It joins a kernel group by writing to the file ``group`` (empty: none), and
    sends no result of more than ``result_bytes_max`` encoded bytes."""

    slot: str
    name: str
    root_pid: int
    group: str
    result_bytes_max: int


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

# --- root and ops ---------------------------------------------------------------------------


class Published(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="published"):
    """A finished JSON document. ``topic`` is "tree", "status" or "readings" (the newest replaces
    the one before) or "event" (one each, in order). A tree over a frame's size comes in parts:
    "tree<", any number of "tree+", "tree>". Topics the reader does not know are skipped."""

    topic: str
    body: bytes


# What became of a command: see `CommandAnswered`.
Outcome = Literal[
    "done", "no_such_attempt", "no_such_worker", "not_in_quarantine", "ambiguous", "refused"
]


class CommandAnswered(
    Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="command_answered"
):
    """The root has carried out command ``number``, or answered that question, or could not.
    ``action_type`` and ``path`` (empty: no worker's) are those of what it was about; ``detail``
    says more of an outcome that its word does not say all of, ``document`` is finished JSON (empty:
    none)."""

    number: int
    outcome: Outcome
    action_type: str = ""
    path: str = ""
    detail: str = ""
    document: bytes = b""


ToOps = Published | CommandAnswered


class OpsReady(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="ops_ready"):
    """The ops process serves now."""

    pid: int


class KillAction(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="kill_action"):
    """Kill attempt ``attempt_id``. ``client`` is the address of who asked; the answer carries
    ``number``."""

    number: int
    client: str
    attempt_id: int


class ReleaseType(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="release_type"):
    """Let the quarantined ``action_type`` run like any other again; the rest as `KillAction`."""

    number: int
    client: str
    action_type: str


class ReloadConfig(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="reload"):
    """Read the config anew and take it over; ``dry``: only say what that would do. The rest as
    `KillAction`, but the answer may take its time."""

    number: int
    client: str
    dry: bool


# How an operator has a breaker held; "auto": not at all.
Held = Literal["open", "closed", "auto"]


class ForceBreaker(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="force_breaker"):
    """Hold the infrastructure breaker ``state`` for ``for_s`` seconds, or (``auto``) let it go by
    what is read again; the rest as `KillAction`."""

    number: int
    client: str
    state: Held
    for_s: float


Command = KillAction | ReleaseType | ReloadConfig | ForceBreaker


class ExplainWorker(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="explain"):
    """Say why the worker at ``path`` is as it is: a question, it changes nothing."""

    number: int
    path: str


FromOps = OpsReady | Command | ExplainWorker

# --- root and store -------------------------------------------------------------------------


# What a document is of its worker; "removed" is none: the worker is gone.
Role = Literal["identity", "desired", "observed", "resume", "removed"]


class Write(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="write"):
    """One document of the worker at ``path`` as it is at ``at`` (seconds since the epoch), as
    JSON; an empty one with the role "removed" says that the worker is gone."""

    path: str
    role: Role
    at: float
    document: bytes


class Save(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="save"):
    """Save all of ``writes`` in one transaction, then answer with ``number``."""

    number: int
    writes: list[Write]


class Recall(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="recall"):
    """What a worker goes on with: `store.protocol.Recalled` as JSON. Comes before `StoreReady`."""

    path: str
    document: bytes


class StoreReady(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="store_ready"):
    """The store is open. ``fresh``: it holds nothing. ``moved_to`` is where a damaged file was
    put, and ``reason`` what is wrong with it (both empty: nothing was)."""

    pid: int
    fresh: bool
    moved_to: str = ""
    reason: str = ""


class StoreShut(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="store_shut"):
    """The store cannot be opened: ``error`` says why. The writer ends after it."""

    error: str


class Saved(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="saved"):
    """Order ``number`` is on the disk, but for the writes that ``refused`` tells of."""

    number: int
    refused: list[str] = []


class NotSaved(Message, frozen=True, gc=False, forbid_unknown_fields=True, tag="not_saved"):
    """Nothing of order ``number`` was saved."""

    number: int
    error: str


FromStore = Recall | StoreReady | StoreShut | Saved | NotSaved
