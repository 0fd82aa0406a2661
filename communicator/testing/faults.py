"""What a relay stand-in can be told to do wrong.

Knows: one fault as data, the well-known pages of middleboxes, which fault is due next.
Does not know: sockets, tokens, messages.
Invariants: one-shot faults of an endpoint come in the order they were set and before the
persistent one, that before chance; a fault says whether the request still takes effect; the same
seed and the same requests give the same faults.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

LOGIN, PULL, PUSH = "login", "pull", "push"
ENDPOINTS = (LOGIN, PULL, PUSH)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong answer.

    ``status``, ``body`` and ``headers`` replace the answer (``status`` None keeps the real
    one). ``delay_s`` seconds pass before the headers. ``commit`` lets the request take effect
    although the answer is replaced. ``drop`` resets the connection instead of an answer.
    ``keep_bytes`` cuts the body after that many bytes, with a matching Content-Length;
    ``cut_bytes`` ends the connection after that many bytes of a longer one, with a reset if
    ``drop`` is set too. ``drip_s`` is the pause between two single bytes of the body, in seconds,
    with ``drip_head`` of the headers too. ``close_after`` answers as it should, then closes a
    connection that was promised to be kept.
    """

    status: int | None = None
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    commit: bool = False
    drop: bool = False
    keep_bytes: int | None = None
    cut_bytes: int | None = None
    drip_s: float = 0.0
    drip_head: bool = False
    close_after: bool = False

    @property
    def replaces(self) -> bool:
        """Whether the request gets another answer than the real one."""
        return self.status is not None or (self.drop and self.cut_bytes is None)


_HTML = (("Content-Type", "text/html; charset=utf-8"),)


def _page(title: str, text: str) -> bytes:
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{text}</body></html>"
    return page.encode()


def cloudflare_challenge(status: int = 429) -> Fault:
    """Cloudflare's interstitial; seen with 429, 403 and 503."""
    body = _page("Just a moment...", '<form id="challenge-form" action="/cdn-cgi/"></form>')
    return Fault(status=status, body=body, headers=(*_HTML, ("Server", "cloudflare")))


def zscaler_block(status: int = 403) -> Fault:
    """A corporate proxy's refusal."""
    body = _page("Internet Security by Zscaler", "Your organization has blocked this page.")
    return Fault(status=status, body=body, headers=(*_HTML, ("Server", "Zscaler/6.2")))


def bluecoat_block() -> Fault:
    """Another corporate proxy's, which looks like a refused token."""
    body = _page("Access Denied", "Access Denied (content_filter_denied) BlueCoat ProxySG")
    return Fault(status=403, body=body, headers=_HTML)


def fortinet_block() -> Fault:
    """A firewall's page."""
    body = _page("Web Page Blocked", "FortiGuard Intrusion Prevention: web filter")
    return Fault(status=403, body=body, headers=(*_HTML, ("Server", "xxxxxxxx-xxxxx")))


def redirect(location: str, status: int = 302) -> Fault:
    """Somewhere else, please."""
    return Fault(status=status, headers=(("Location", location),))


def nginx_502() -> Fault:
    """A reverse proxy without its backend."""
    body = _page("502 Bad Gateway", "<center><h1>502 Bad Gateway</h1></center><hr>nginx")
    return Fault(status=502, body=body, headers=(*_HTML, ("Server", "nginx/1.25.3")))


def captive_portal() -> Fault:
    """A hotel's login page: status 200, and not the relay at all."""
    return Fault(status=200, body=_page("Guest Wi-Fi", "Please accept the terms."), headers=_HTML)


def rate_limit(retry_after: str | None = None) -> Fault:
    """The relay's own 429, with ``Retry-After`` as given."""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    if retry_after is not None:
        headers += (("Retry-After", retry_after),)
    return Fault(status=429, body=b'{"error":"too many requests"}', headers=headers)


def truncated_json() -> Fault:
    """A real answer whose JSON stops in the middle, though the response is complete."""
    return Fault(keep_bytes=12)


def dropped(commit: bool = False) -> Fault:
    """The connection is reset instead of an answer, before or after the request took effect."""
    return Fault(drop=True, commit=commit)


# By the name the command line knows them by. Without a Retry-After, a limit is ours to guess.
PRESETS: Mapping[str, Callable[[], Fault]] = {
    "cloudflare-429": cloudflare_challenge,
    "cloudflare-403": lambda: cloudflare_challenge(403),
    "cloudflare-503": lambda: cloudflare_challenge(503),
    "zscaler": zscaler_block,
    "bluecoat": bluecoat_block,
    "fortinet": fortinet_block,
    "nginx-502": nginx_502,
    "rate-limit": lambda: rate_limit("30"),
    "captive-portal": captive_portal,
    "truncated-json": truncated_json,
    "drop": dropped,
    "drop-after-commit": lambda: dropped(commit=True),
    "unauthorized": lambda: Fault(status=401, body=b'{"error":"unauthorized"}'),
}


class FaultBook:
    """The faults that are set, per endpoint. Not thread-safe: its owner holds the lock."""

    def __init__(self) -> None:
        self._chance: tuple[random.Random, float, tuple[Fault, ...]] | None = None
        self._once: dict[str, deque[Fault]] = {name: deque() for name in ENDPOINTS}
        self._always: dict[str, Fault] = {}

    def set(self, endpoint: str, fault: Fault, times: int | None) -> None:
        """Add ``fault``: for the next ``times`` requests, or until `clear` with None."""
        if endpoint not in ENDPOINTS:
            raise ValueError(f"cannot set a fault: endpoint is {endpoint!r}, want {ENDPOINTS}")
        if times is None:
            self._always[endpoint] = fault
        else:
            self._once[endpoint].extend([fault] * times)

    def set_chance(self, seed: int, rate: float, faults: Sequence[Fault]) -> None:
        """Let each request without a fault of its own meet one of ``faults`` with probability
        ``rate``, as ``seed`` has it."""
        if not 0 <= rate <= 1 or not faults:
            raise ValueError(f"cannot set chance: rate is {rate!r}, want 0 to 1, and some faults")
        self._chance = (random.Random(seed), rate, tuple(faults))

    def clear(self, endpoint: str | None = None) -> None:
        """Forget the faults of ``endpoint``, or all and chance too."""
        if endpoint is None:
            self._chance = None
        for name in ENDPOINTS if endpoint is None else (endpoint,):
            self._once[name].clear()
            self._always.pop(name, None)

    def take(self, endpoint: str) -> Fault | None:
        """The fault of this request; a one-shot one is used up."""
        if self._once[endpoint]:
            return self._once[endpoint].popleft()
        if endpoint in self._always or self._chance is None:
            return self._always.get(endpoint)
        dice, rate, faults = self._chance
        # Two throws each time, so that what is thrown for one request moves no other one's.
        hit, which = dice.random(), dice.randrange(len(faults))
        return faults[which] if hit < rate else None
