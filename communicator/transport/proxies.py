"""Which proxy of the environment a URL is reached through, by the rules of the instances in the
field (Go's).

Knows: HTTP_PROXY, HTTPS_PROXY, NO_PROXY and what stands in them.
Does not know: how a proxy is spoken to, any other variable: ALL_PROXY says nothing here.
Invariants: loopback is never reached through a proxy; an entry of NO_PROXY that means nothing
exempts nothing; no name is resolved to find out.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from typing import NamedTuple

_PORTS = {"http": 80, "https": 443}
_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Target(NamedTuple):
    """Whom a URL is of. ``ip`` is the host where that is an address."""

    host: str
    port: int | None
    ip: _IpAddress | None


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for ``url``, or None where it is to be direct."""
    parts = urllib.parse.urlsplit(url)
    found = _variable(f"{parts.scheme}_proxy") if parts.scheme in _PORTS else ""
    if not found:
        return None
    host = _plain(parts.hostname or "")
    target = _Target(host, parts.port or _PORTS[parts.scheme], _ip(host))
    if host == "localhost" or (target.ip is not None and target.ip.is_loopback):
        return None
    if any(_exempts(entry, target) for entry in _variable("no_proxy").split(",")):
        return None
    return found if "://" in found else f"http://{found}"


def _variable(name: str) -> str:
    """In capitals first, as the field reads them."""
    return os.environ.get(name.upper(), "") or os.environ.get(name, "")


def _exempts(entry: str, target: _Target) -> bool:
    """Whether an entry of NO_PROXY names ``target``.

    A network, with the length of its prefix, names its addresses; an address or a domain may go
    with a port; a domain names what is below it too, and with a dot before it (or ``*.``) nothing
    else. No other ``*`` means anything.
    """
    entry = entry.strip().lower()
    if entry == "*":
        return True
    if "/" in entry:
        return target.ip is not None and _is_in(target.ip, entry)
    host, port = _host_and_port(entry)
    if not host.strip(".") or port not in ("", str(target.port)):
        return False
    ip = _ip(host)
    if ip is not None:
        return ip == target.ip
    domain = _plain(host[1:] if host.startswith("*.") else host)
    if domain.startswith("."):
        return target.host.endswith(domain)
    return target.host == domain or target.host.endswith(f".{domain}")


def _host_and_port(entry: str) -> tuple[str, str]:
    """``host:port``, ``[IPv6]:port`` or a bare host; a bare IPv6 has colons and no port. Brackets
    without a port, or that do not close, hold no host."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return (host, rest[1:]) if rest.startswith(":") else ("", "")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _is_in(ip: _IpAddress, network: str) -> bool:
    prefix = network.rpartition("/")[2]
    if not (prefix.isascii() and prefix.isdigit()) or "%" in network:
        return False  # the library takes masks and zones too
    try:
        return ip in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _ip(host: str) -> _IpAddress | None:
    """An IPv4 that is written as IPv6 counts as what it is."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _plain(host: str) -> str:
    """A name as it is asked for in DNS."""
    if host.isascii():
        return host.lower()
    try:
        return host.lower().encode("idna").decode("ascii")
    except UnicodeError:
        return host.lower()
