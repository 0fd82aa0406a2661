"""Where the relay is: what makes a usable URL, and the environment's word for it.

Knows: the rules of a base URL, the variables of the environment that stand in for a config.
Does not know: HTTP, when anything is sent.
Invariants: a URL that may have a password or a key in it is refused without being shown. Neither is
what is no URL or no known word: it may be a token that was put into the wrong setting.
"""

from __future__ import annotations

import os
import urllib.parse

URL_ENV = "API_URL"
TOKEN_ENV = "AUTH_TOKEN"
INSECURE_ENV = "ALLOW_INSECURE_TLS"
_YES = frozenset({"1", "t", "true", "yes", "on"})
_NO = frozenset({"", "0", "f", "false", "no", "off"})


def check_relay_url(url: str, what: str = "relay_url") -> None:
    """Raise `ValueError` that names ``what`` unless ``url`` is a relay's plain http(s) base."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{what} is no URL, want http(s)://host[:port][/path]") from None
    if "@" in url:
        raise ValueError(f"{what} has a user or a password in it, want auth_token instead")
    if "?" in url or "#" in url or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError(f"{what} has a query, a fragment or a blank in it, want none of them")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{what} begins with no http(s)://, want http(s)://host[:port][/path]")
    if not host:
        raise ValueError(f"{what} has no host, want http(s)://host[:port][/path]")


def relay_url_of_environment() -> str:
    """The URL in API_URL; raises `ValueError` where there is none or none that can be used."""
    url = os.environ.get(URL_ENV, "").strip()
    if not url:
        raise ValueError(f"no relay is set, want relay_url or the variable {URL_ENV}")
    check_relay_url(url, URL_ENV)
    return url


def insecure_by_environment() -> bool:
    """What ALLOW_INSECURE_TLS says; raises `ValueError` where that is neither yes nor no."""
    text = os.environ.get(INSECURE_ENV, "").strip()
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    got = f"{len(text)} characters that are neither yes nor no"
    raise ValueError(f"{INSECURE_ENV} has {got}, want true or false")
