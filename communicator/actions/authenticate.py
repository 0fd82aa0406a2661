"""The login, as an action.

Knows: where an auth token may come from, what a session is made of.
Does not know: when to log in, how long to wait.
Invariants: a login that the relay or the network refused is an outcome, never an exception, so
that the state machine sees its kind; the auth token is read in the proc; a token that is known to
be refused is not sent again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import ClassVar

from fsmv2.communicator import metrics
from fsmv2.communicator.actions.call import is_insecure, transport_of
from fsmv2.communicator.actions.told import facts_of, say
from fsmv2.communicator.failurerate import LOGIN, FailureRate
from fsmv2.communicator.outcomes import Credentials, Held, LoginOutcome, Said, Session
from fsmv2.communicator.transport import token
from fsmv2.communicator.transport.address import TOKEN_ENV, relay_url_of_environment
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.supervisor import Action, ActionContext, Secret

# What only people can mend: the same token would be refused again.
LASTING = frozenset({Kind.INVALID_TOKEN, Kind.INSTANCE_DELETED})
TOKEN_FILE_BYTES_MAX = 16_384
_WANTED = "want one line of text"
# A name of its own, so that a test can let years pass for logins and for nothing else.
wall_clock_s = time.time


class AuthenticateAction(Action, frozen=True):
    """Log in with ``credentials``. The identity of the last login, the count of failures, their
    rate, what the log has ``said`` of them and the session that is in use (``held``) travel along,
    so that the outcome of a login that fails can carry them on.
    rate, the count of sessions that were of no use and the session that is in use (``held``) travel
    along, so that the outcome, of a login that fails too, can carry them on.

    With the ``refused`` outcome of before, nothing is sent unless the token has changed since.
    """

    timeout_s: ClassVar[float] = 40.0

    credentials: Credentials
    errors_in_row: int = 0
    instance_uuid: str = ""
    rate: FailureRate = FailureRate()
    refused: LoginOutcome | None = None
    held: Held | None = None
    said: Said = Said()
    unused: int = 0

    def execute(self, ctx: ActionContext) -> LoginOutcome:
        """One login; returns its outcome, whatever the relay says."""
        credentials = self.credentials
        metrics.of(credentials.path)
        auth_token: Secret | None = None
        try:
            auth_token = resolve_auth_token(credentials)
            if self.refused is not None and _is_marked(auth_token, self.refused.refused_mark):
                return self.refused
            transport = transport_of(credentials)
            if is_insecure(credentials):
                url = credentials.relay_url or relay_url_of_environment()
                ctx.log("TLS certificates are not verified", "warning", relay=url)
            login = transport.authenticate(auth_token)
        except TransportError as error:
            return self._failed(ctx, error.problem, auth_token)
        if not login.instance_uuid:
            ctx.log("the login reply has no uuid, keeping the last one", "warning")
        say(ctx, "login", self.said, None, self.errors_in_row)
        now = wall_clock_s()
        life_s = token.life_s(login.token.reveal(), now)
        return LoginOutcome(
            made_for=credentials,
            session=Session(
                token=login.token,
                expires_at=now + life_s,
                refresh_at=now + life_s - token.refresh_margin_s(life_s),
                made_at=now,
            ),
            instance_uuid=login.instance_uuid or self.instance_uuid,
            instance_name=login.instance_name,
            unused=self.unused,
        )

    def _failed(
        self, ctx: ActionContext, problem: Problem, auth_token: Secret | None
    ) -> LoginOutcome:
        metrics.failed("login", problem)
        said = say(ctx, "login", self.said, problem, self.errors_in_row)
        rate = self.rate.with_outcome(True, LOGIN)
        if rate.alarmed and not self.rate.alarmed:
            counts = {"failed": rate.failures, "of": rate.count}
            ctx.log("logins keep failing", "error", **counts, **facts_of(problem))
        mark, asked_s_ago = None, 0.0
        if auth_token is not None and problem.kind in LASTING:
            mark = _mark(auth_token)
        elif auth_token is None and self.refused is not None:
            # There is no token for now. The one that was refused may come back.
            mark, asked_s_ago = self.refused.refused_mark, self.refused.asked_s_ago
        return LoginOutcome(
            made_for=self.credentials,
            problem=problem,
            errors_in_row=self.errors_in_row + 1,
            instance_uuid=self.instance_uuid,
            refused_mark=mark,
            asked_s_ago=asked_s_ago,
            rate=rate,
            held=self.held,
            said=said,
            unused=self.unused,
        )


def _mark(auth_token: Secret, salt: str = "") -> Secret:
    """What recognises a token and tells nothing of it: its keyed hash, under a salt of its own."""
    salt = salt or secrets.token_hex(16)
    digest = hashlib.blake2b(auth_token.reveal().encode(), key=bytes.fromhex(salt), digest_size=16)
    return Secret(f"{salt}:{digest.hexdigest()}")


def _is_marked(auth_token: Secret, mark: Secret | None) -> bool:
    return mark is not None and _mark(auth_token, mark.reveal().partition(":")[0]) == mark


def resolve_auth_token(credentials: Credentials) -> Secret:
    """The auth token, from the config, a file or the environment, in this order.

    Raises `TransportError` of kind invalid_token: a missing token is waited out like a refused
    one, because only people can mend it.
    """
    if credentials.auth_token:
        return credentials.auth_token
    if credentials.auth_token_file:
        return _from_file(Path(credentials.auth_token_file))
    text = os.environ.get(TOKEN_ENV, "").strip()
    if not text:
        raise _no_token(f"want auth_token, auth_token_file or the variable {TOKEN_ENV}")
    return _one_line(text, f"the variable {TOKEN_ENV}")


def _from_file(path: Path) -> Secret:
    where = f"auth_token_file {path}"
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _no_token(f"{where}: got no regular file, {_WANTED}")
            raw = file.read(TOKEN_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _no_token(f"{where}: {error.strerror}") from None
    except ValueError:  # a NUL in it, or half a character
        raise _no_token("auth_token_file can be no path, want one") from None
    # Before it is read as text: it may be cut within a character.
    if len(raw) > TOKEN_FILE_BYTES_MAX:
        raise _no_token(f"{where}: got more than {TOKEN_FILE_BYTES_MAX:,} bytes, {_WANTED}")
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise _no_token(f"{where}: got no UTF-8, {_WANTED}") from None
    if not text:
        raise _no_token(f"{where}: got an empty file, {_WANTED}")
    return _one_line(text, where)


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for a pipe's writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _one_line(text: str, where: str) -> Secret:
    if not text.isprintable():  # nor are the bytes of a variable that are no UTF-8
        raise _no_token(f"{where}: got no single line of text, {_WANTED}")
    return Secret(text)


def _no_token(why: str) -> TransportError:
    return TransportError(Problem(Kind.INVALID_TOKEN, f"cannot log in without a token: {why}"))
