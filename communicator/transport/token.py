"""Credentials on the wire: the login hash and how long a login lasts.

Knows: the double hash, the `exp` and `iat` of a JWT, the refresh margin.
Does not know: requests, where a token comes from, whether a signature is right.
Invariants: a token that lives at all gets a refresh moment after its issue (that one which is dead
before its use makes no login loop is the states' care); nothing here raises for whatever a server
sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from typing import Any

import msgspec

ASSUMED_LIFE_S = 23 * 3600.0
LIFE_S_MAX = 366 * 24 * 3600.0
REFRESH_MARGIN_S_MAX = 600.0
JWT_CHARS_MAX = 16_384


def double_hash(auth_token: str) -> str:
    """The bearer of a login: SHA3-256 over the 64 hex characters of the token's SHA3-256.

    The outer hash is over the text, not over the 32 raw bytes.
    """
    inner = hashlib.sha3_256(auth_token.encode("utf-8")).hexdigest()
    return hashlib.sha3_256(inner.encode("ascii")).hexdigest()


def life_s(jwt: str, now: float) -> float:
    """Seconds a token received at ``now`` (epoch seconds) may be used.

    Prefers the token's own ``exp``. Where the local clock disagrees with the issuer's (the
    token seems expired on arrival, or to outlive its own span), ``exp - iat`` counts instead;
    without a usable ``exp`` it is 23 h. A year at most: whatever says more is no date.
    """
    return min(_said_life_s(jwt, now), LIFE_S_MAX)


def _said_life_s(jwt: str, now: float) -> float:
    claims = _claims(jwt)
    expires, issued = _moment(claims, "exp"), _moment(claims, "iat")
    if expires is None:
        return ASSUMED_LIFE_S
    left = expires - now
    span = None if issued is None or issued >= expires else expires - issued
    if span is not None and not 0 < left <= span:
        return span
    # Expired on arrival and no way to tell by how much the clocks differ: believing it would
    # log in again and again; a token that is really dead is answered with 401.
    return left if left > 0 else ASSUMED_LIFE_S


def refresh_margin_s(token_life_s: float) -> float:
    """Seconds before its expiry at which a token is renewed: 10 min, or half of a short life."""
    return min(REFRESH_MARGIN_S_MAX, token_life_s / 2)


def is_cookie_safe(jwt: str) -> bool:
    """True when ``jwt`` can stand in a Cookie header as it is."""
    return 0 < len(jwt) <= JWT_CHARS_MAX and all("!" <= c <= "~" and c not in '",;\\' for c in jwt)


def _claims(jwt: str) -> dict[str, Any]:
    parts = jwt.split(".")
    if len(parts) != 3:
        return {}
    payload = parts[1]
    try:
        raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        claims = msgspec.json.decode(raw)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _moment(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        moment = float(value)
    except OverflowError:  # JSON's numbers have no end
        return None
    return moment if math.isfinite(moment) else None
