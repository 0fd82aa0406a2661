"""What can go wrong between a communicator and its relay, as one table.

Knows: the kinds of error, which reply is which, how long each kind is waited out.
Does not know: the HTTP client, states, who waits; how a page is recognised (`pages`).
Invariants: the first matching rule wins and the last one always matches; no text holds a word of
the other end's: it is made of status, kind, sizes and names from a list of our own. Who repeats
what we have sent it, in whatever pieces, is quoted nowhere.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import msgspec

from fsmv2.communicator.transport.pages import PROXY_MARKERS, SCANNED_BYTES_MAX

TEXT_BYTES_MAX = 256
RETRY_AFTER_S_MAX = 3600.0


class Kind(enum.StrEnum):
    """The class of an error; every wait and every transition depends on it alone."""

    CLOUDFLARE = "cloudflare_challenge"
    PROXY_BLOCK = "proxy_block"
    RATE_LIMIT = "backend_rate_limit"
    INVALID_TOKEN = "invalid_token"
    INSTANCE_DELETED = "instance_deleted"
    SERVER_ERROR = "server_error"
    UNKNOWN = "unknown"
    NETWORK = "network"
    CHANNEL_FULL = "channel_full"


class Facts(NamedTuple):
    """What follows from a kind. ``delays_s[n - 1]`` is the wait after the n-th error in a row;
    the last entry stands for all later ones. Connections are reset at each ``reset_every``-th
    error in a row, never with 0."""

    delays_s: tuple[float, ...]
    reset_every: int = 0


_DOUBLING = (2.0, 4.0, 8.0, 16.0, 32.0, 60.0)

FACTS: Mapping[Kind, Facts] = {
    Kind.CLOUDFLARE: Facts((60.0,), reset_every=10),
    Kind.PROXY_BLOCK: Facts((60.0,)),
    Kind.RATE_LIMIT: Facts((30.0, 60.0, 120.0, 300.0)),
    Kind.INVALID_TOKEN: Facts((60.0,)),
    Kind.INSTANCE_DELETED: Facts((300.0,)),
    Kind.SERVER_ERROR: Facts(_DOUBLING, reset_every=10),
    Kind.UNKNOWN: Facts(_DOUBLING),
    Kind.NETWORK: Facts(_DOUBLING, reset_every=5),
    Kind.CHANNEL_FULL: Facts((5.0,)),
}


class Rule(NamedTuple):
    """One line of the table. ``statuses`` None is every status; empty markers match any body.

    ``cloudflare_markers`` count only when the ``Server`` header says cloudflare.
    """

    kind: Kind
    statuses: Collection[int] | None = None
    markers: tuple[str, ...] = ()
    cloudflare_markers: tuple[str, ...] = ()


# The order is the meaning. Challenges come on 403 and 503 too: taken for an invalid token, the
# first would park a healthy instance at login.
RULES: tuple[Rule, ...] = (
    Rule(
        Kind.CLOUDFLARE,
        statuses=(403, 429, 503),
        markers=("Just a moment", "challenge-form"),
        cloudflare_markers=("cf-browser-verification",),
    ),
    Rule(Kind.PROXY_BLOCK, markers=PROXY_MARKERS),
    Rule(Kind.RATE_LIMIT, statuses=(429,)),
    Rule(Kind.INVALID_TOKEN, statuses=(401, 403)),
    Rule(Kind.INSTANCE_DELETED, statuses=(404,)),
    Rule(Kind.SERVER_ERROR, statuses=range(500, 1000)),
    Rule(Kind.UNKNOWN),
)


class Problem(msgspec.Struct, frozen=True):
    """One classified error, as it travels from a proc to the root.

    ``retry_after_s`` are the seconds the relay asked us to stay away, None where it did not.
    ``is_page``: what answered served a page, so it was something on the way and not the relay.
    """

    kind: Kind
    text: str
    status: int | None = None
    retry_after_s: float | None = None
    is_page: bool = False

    def __str__(self) -> str:
        return self.text


class TransportError(Exception):
    """A request that did not succeed; ``problem`` says how."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.text)


def classify(status: int, body: bytes, server: str = "") -> Kind:
    """The kind of a reply that is no success, from the first rule that matches."""
    text = body[:SCANNED_BYTES_MAX].decode("utf-8", "replace")
    from_cloudflare = "cloudflare" in server.lower()
    for rule in RULES:
        if rule.statuses is not None and status not in rule.statuses:
            continue
        markers = rule.markers + (rule.cloudflare_markers if from_cloudflare else ())
        if not rule.markers or any(marker in text for marker in markers):
            return rule.kind
    raise AssertionError("unreachable: the last rule matches everything")


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from now that a ``Retry-After`` header asks for, at most `RETRY_AFTER_S_MAX`.

    Takes whole seconds or an HTTP date; ``now`` is in epoch seconds. Garbage, zero, negative
    numbers and moments in the past give None.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - now
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    return min(seconds, RETRY_AFTER_S_MAX)


def clip(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """``text`` on one line without control characters, at most ``bytes_max`` bytes of UTF-8.

    What is cut ends in an ellipsis that counts towards the limit.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    raw = line.encode("utf-8", "replace")
    if len(raw) <= bytes_max:
        return raw.decode("utf-8")
    return raw[: bytes_max - len("…".encode())].decode("utf-8", "ignore") + "…"
