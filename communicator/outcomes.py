"""What the communicator's actions bring back, and what the next ones take along.

Knows: the data of a login, of a session, of the two directions, of a reset.
Does not know: transports, files, states.
Invariants: everything a decision needs is in here, so that no client and no session lives in
the root; a token is always a `Secret`.
"""

from __future__ import annotations

import os

import msgspec

from fsmv2.communicator.failurerate import FailureRate
from fsmv2.communicator.transport.errors import Problem
from fsmv2.supervisor import Secret


class Credentials(msgspec.Struct, frozen=True):
    """Which relay, and who we are there. Two equal ones may share a session; ``path`` is the
    worker's, which its metrics go by.

    The auth token is looked for in this order: ``auth_token``, the file ``auth_token_file``,
    the environment variable AUTH_TOKEN; always in the proc, never in the root. So are the
    variables that an empty ``relay_url`` and an ``allow_insecure_tls`` of None stand for; procs
    inherit them from the root, so they are those of its start.
    """

    relay_url: str = ""
    auth_token: Secret | None = None
    auth_token_file: str | None = None
    timeout_s: float = 10.0
    allow_insecure_tls: bool | None = None
    path: str = ""


class Session(msgspec.Struct, frozen=True):
    """A login that succeeded. Moments are seconds since the epoch.

    From ``refresh_at`` on a new login is due, well before ``expires_at``.
    """

    token: Secret
    expires_at: float
    refresh_at: float
    made_at: float = 0.0


class Held(msgspec.Struct, frozen=True):
    """A session in use, and the attempt id of the login that made it."""

    session: Session
    login_id: int


class Said(msgspec.Struct, frozen=True):
    """What the log says of a trouble that lasts: the classes of problems that it has named, which
    one it named last, and of which class the last ``times`` tries in a row were."""

    named: tuple[int, ...] = ()
    last: int = 0
    now: int = 0
    times: int = 0


class LoginOutcome(msgspec.Struct, frozen=True):
    """The result of one login: a ``session`` or a ``problem``.

    With a problem, ``held`` is the session that was in use before: it is good as long as it was.
    The UUID is the last one the relay told us, kept over failures and over replies without one;
    the name is what came with this session: it is the relay's word, so it is shown nowhere.
    ``errors_in_row`` counts failed logins since the last that succeeded. ``refused_mark``
    recognises the auth token that was refused, without telling it; ``asked_s_ago`` are the
    seconds since the relay was last asked, at the end of this attempt. ``unused`` counts the
    sessions in a row, up to this login, that ended before anything was done with them.
    """

    made_for: Credentials
    session: Session | None = None
    problem: Problem | None = None
    errors_in_row: int = 0
    instance_uuid: str = ""
    instance_name: str = ""
    refused_mark: Secret | None = None
    asked_s_ago: float = 0.0
    rate: FailureRate = FailureRate()
    held: Held | None = None
    said: Said = Said()
    unused: int = 0

    def __repr__(self) -> str:
        # Without the identity: what the relay says of us may be anything.
        return f"LoginOutcome({self.session!r}, {self.problem!r}, {self.errors_in_row})"


class Doubt(msgspec.Struct, frozen=True):
    """The messages at the head of an outbox of which it is not known whether the relay refuses them
    or everything.

    They are those up to the message at ``index`` of the file ``name``; ``count`` of them are in
    doubt, with ``size`` bytes in all. The relay has taken the others: ``taken`` are their marks,
    and they are not sent again. ``head_asked``: none behind the first was sent since that was.
    """

    name: bytes = b""
    index: int = 0
    count: int = 0
    size: int = 0
    taken: tuple[str, ...] = ()
    head_asked: bool = False

    @property
    def last(self) -> tuple[str, int] | None:
        """Where it ends; None where there is none."""
        return (os.fsdecode(self.name), self.index) if self.name else None


class Direction(msgspec.Struct, frozen=True):
    """How pushing, or pulling, stands after an attempt.

    ``errors_in_row`` and ``problem`` are of the last tries, 0 and None after a success;
    ``idle_s`` are the seconds from the last try of this direction to the end of the attempt
    that reports it; ``moved`` counts the messages of the last attempt that tried it; ``waiting``
    the files left in the folder afterwards; ``refused`` the messages that this attempt set aside;
    ``held`` says that the inbox has no room, so that nothing is pulled; ``strangers`` how many
    things in the folder have been told to be no messages; ``said`` what the log has of its errors;
    ``doubt`` which messages are in doubt, so that the next try goes on from there.
    """

    errors_in_row: int = 0
    problem: Problem | None = None
    idle_s: float = float("inf")
    moved: int = 0
    waiting: int = 0
    refused: int = 0
    held: bool = False
    rate: FailureRate = FailureRate()
    strangers: int = 0
    said: Said = Said()
    doubt: Doubt = Doubt()


class SyncOutcome(msgspec.Struct, frozen=True):
    """Both directions after one attempt, each with its own error.

    ``login_id`` is the attempt id of the login whose session was used, ``session_at`` when that
    was made: a rejection concerns that one only, not a later one, nor one of another root, whose
    attempts are counted from 1 again. ``generation`` is the reset it was made under.
    ``push_tried`` and ``pull_tried`` tell which direction has anything new to say. For
    ``lively_left_s`` seconds more messages are counted on.
    """

    made_for: Credentials
    login_id: int
    session_at: float = 0.0
    push: Direction = Direction()
    pull: Direction = Direction()
    token_rejected: bool = False
    generation: int = 0
    push_tried: bool = True
    pull_tried: bool = True
    lively_left_s: float = 0.0


class ResetOutcome(msgspec.Struct, frozen=True):
    """Connections made before ``generation`` are used no more."""

    generation: int
