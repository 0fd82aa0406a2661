"""The communicator: its config and its worker class.

Knows: what a user may configure and which values are usable.
Does not know: transports' inside, when anything is sent.
Invariants: pure; an unusable config is refused with all its faults, each with its field, and a URL
with a password in it is refused without showing it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec

from fsmv2.communicator.actions.pull import INBOX_BYTES_MAX, INBOX_MESSAGES_MAX
from fsmv2.communicator.states.flushing import Flushing
from fsmv2.communicator.states.stopped import Stopped
from fsmv2.communicator.transport.address import check_relay_url
from fsmv2.communicator.transport.protocol import TIMEOUT_S_MAX
from fsmv2.supervisor import Action, DesiredState, Secret, State, UserSpec, Worker

PATH_CHARS_MAX = 4096
_PATH_BEGINS = ("/", "./", "../")


class CommunicatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may set.

    ``relay_url``: the base of the relay's API, ``https://host/api``; without it the variable
    API_URL. ``auth_token``: the instance's token; without it ``auth_token_file`` is read, without
    that the variable AUTH_TOKEN. The file's path begins with ``/``, ``./`` or ``../``: paths are
    shown, and a token that was put there is not to be. ``timeout_s``: seconds a request may wait
    for an answer.
    ``allow_insecure_tls``: accept any certificate; without it the variable ALLOW_INSECURE_TLS.
    Files and variables are read in the proc, which has inherited the root's variables: these
    change with a restart of the root only. ``poll_interval_s``: seconds between two syncs while
    nothing moves; for ``lively_s`` seconds after a message the outbox is looked at 50 times a
    second and the relay asked 10 times (0: never). ``outbox`` and ``inbox``: folders, see
    `fsmv2.communicator.spool`; without one that direction is off (pulling deletes at the relay, so
    it needs a place). ``inbox_messages_max`` and ``inbox_bytes_max``: with so many or so much
    in the inbox nothing is pulled.
    """

    relay_url: str | None = None
    auth_token: Secret | None = None
    auth_token_file: str | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_S_MAX)] = 10.0
    allow_insecure_tls: bool | None = None
    poll_interval_s: Annotated[float, msgspec.Meta(ge=0.05, le=3600)] = 1.0
    lively_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 2.0
    outbox: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_CHARS_MAX)] | None = None
    inbox: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_CHARS_MAX)] | None = None
    inbox_messages_max: Annotated[int, msgspec.Meta(ge=200, le=1_000_000)] = INBOX_MESSAGES_MAX
    inbox_bytes_max: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 40)] = INBOX_BYTES_MAX

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ValueError("; ".join(faults))

    def _faults(self) -> Iterator[str]:
        """Everything that makes these values unusable, each with its field."""
        if self.relay_url is not None:
            try:
                check_relay_url(self.relay_url)
            except ValueError as error:
                yield str(error)
        if self.auth_token_file is not None and not self.auth_token_file.startswith(_PATH_BEGINS):
            begins = ", ".join(_PATH_BEGINS)
            yield (
                f"auth_token_file begins with none of {begins}, want a path (a token belongs in "
                "auth_token)"
            )
        unusable = False
        for name, folder in (("outbox", self.outbox), ("inbox", self.inbox)):
            if folder is not None and ("\0" in folder or folder.splitlines() != [folder]):
                unusable = True
                yield f"{name} has a NUL or a line break in it, want a path on one line"
        if unusable or self.outbox is None or self.inbox is None:
            return
        if _written_out(self.outbox) == _written_out(self.inbox):
            yield (
                f"outbox {self.outbox!r} and inbox {self.inbox!r} are one folder, want two folders"
            )


def _written_out(path: str) -> str:
    """``path`` in the one way that everybody would write it. The disk is not looked at, so links
    are not followed: the root must not wait for one."""
    try:
        path = os.path.abspath(path)
    except OSError:  # the folder we are in has gone
        path = os.path.normpath(path)
    return f"/{path.lstrip('/')}" if path.startswith("/") else path


class Communicator(Worker):
    """Keeps one instance logged in at its relay and moves messages both ways."""

    type_name: ClassVar[str] = "communicator"
    config_type: ClassVar[type[CommunicatorConfig]] = CommunicatorConfig
    initial: ClassVar[type[State]] = Stopped
    stopping: ClassVar[type[State]] = Flushing
    # An outage of the relay is no failure of ours: a restart would forget the session and how
    # long to wait, and ask the relay all the more often.
    unhealthy_after_s: ClassVar[float | None] = None
    runbook_url: ClassVar[str] = "/runbooks/relay-unreachable.md"

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """Always running, with the decoded config; raises `SpecError` for an unusable one."""
        return DesiredState(state="running", config=spec.decode(CommunicatorConfig))

    def observe(self, desired: DesiredState) -> Action | None:
        """None: what the relay answered to the last action is all there is to see."""
        return None
