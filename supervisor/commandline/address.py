"""Where a supervisor is asked: the text of `--http`, checked.

Knows: what an address may be.
Does not know: who is there.
Invariants: what is no address is refused, never bent into one, for a token goes there; a user or
a password that stands in it is shown nowhere.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from fsmv2.supervisor.core.errors import SpecError

WANT = "want HOST:PORT or http(s)://HOST:PORT, PORT from 1 to 65535"
SHOWN_CHARS_MAX = 80

_SCHEME = re.compile(r"(?:(https?)://)?(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")
_PORT = re.compile(r"[0-9]{1,5}")


class Address(NamedTuple):
    """A scheme, a host (an IPv6 address without brackets), a port."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def address_of(listen: str) -> Address:
    """The address that ``listen`` says; `SpecError` when it says none."""
    match = _SCHEME.fullmatch(listen)
    scheme, rest = match.groups() if match is not None else ("", listen)
    host, _, port = rest.removesuffix("/" if scheme else "").rpartition(":")
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65_535 or not _is_host(host):
        raise SpecError(f"cannot use --http: got {_shown(listen)}, {WANT}")
    return Address((scheme or "http").lower(), host.strip("[]"), int(port))


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST.fullmatch(text) is not None
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return bool(_IPV6.fullmatch(inner)) and ipaddress.ip_address(inner).version == 6
    except ValueError:
        return False


def _shown(listen: str) -> str:
    if "@" in listen:
        return "one with a user or a password (not shown)"
    if "?" in listen or "#" in listen:
        return "one with more behind its port (not shown)"
    return repr(listen if len(listen) <= SHOWN_CHARS_MAX else f"{listen[:SHOWN_CHARS_MAX]}…")
