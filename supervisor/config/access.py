"""Who may give commands: one token, where it comes from, how it is compared.

Knows: the sources of the token and their order, its form, its digest.
Does not know: HTTP, commands, who asks.
Invariants: no message holds any part of a token; the ops process knows its digest only, so
that no dump of it tells the token; comparing takes as long for a near miss as for a far one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.secret import Secret

TOKEN_VARIABLE = "FSMV2_TOKEN"
TOKEN_FILE_VARIABLE = "FSMV2_TOKEN_FILE"
# "b64token" of RFC 6750 §2.1: what may stand behind "Bearer" in a header.
_FORM = re.compile(r"[A-Za-z0-9._~+/-]+=*")
TOKEN_CHARS_MIN, TOKEN_CHARS_MAX = 16, 512
HOW_TO_SET = (
    f"set http.token in the config, or {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE} in the "
    "environment of `fsmv2 run`"
)


def misfit(text: str) -> str:
    """What is wrong with a token, "" for nothing; no part of it is repeated."""
    if not TOKEN_CHARS_MIN <= len(text) <= TOKEN_CHARS_MAX:
        return f"got {len(text)} characters, want {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX}"
    if not _FORM.fullmatch(text):
        return "got another character, want letters, digits and -._~+/ with = at the end only"
    return ""


def token_of(configured: Secret | None, environment: Mapping[str, str]) -> Secret | None:
    """The token: ``configured``, else the environment's, else that in the file it names.

    None when there is none; an empty variable counts as not set. Raises `SpecError` for a
    token that no header can carry or that is short, and for a file that cannot be read.
    """
    if configured is not None:
        return configured
    text, file = environment.get(TOKEN_VARIABLE, ""), environment.get(TOKEN_FILE_VARIABLE, "")
    if text:
        return _checked(text, TOKEN_VARIABLE)
    return read_token(file) if file else None


def take_token(configured: Secret | None, environment: MutableMapping[str, str]) -> Secret | None:
    """`token_of`, and no process started from now on finds the token in its environment."""
    found = token_of(configured, environment)
    environment.pop(TOKEN_VARIABLE, None)
    return found


def read_token(path: str) -> Secret:
    """The token in the file at ``path``, white space around it left out. Raises `SpecError`."""
    try:
        # Opening a pipe without a writer would wait for ever.
        if not Path(path).is_file():
            raise SpecError(f"cannot read the token from {path}: want a regular file")
        with Path(path).open("rb") as file:
            text = file.read(TOKEN_CHARS_MAX * 8).decode("latin-1").strip()
    except OSError as error:
        why = error.strerror or error
        raise SpecError(f"cannot read the token from {path}: {why}") from None
    return _checked(text, path)


def _checked(text: str, source: str) -> Secret:
    fault = misfit(text)
    if fault:
        raise SpecError(f"cannot use the token of {source}: {fault}")
    return Secret(text)


def digest_of(token: Secret | None) -> bytes:
    """What the ops process is given in the token's place; empty: there is none."""
    return b"" if token is None else hashlib.sha256(token.reveal().encode()).digest()


def is_token(presented: str, digest: bytes) -> bool:
    """Whether ``presented`` is the token of ``digest``. Nothing is the token of none."""
    # Of a digest: neither the time nor the length of the token shows.
    found = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
    return hmac.compare_digest(found, digest)
