"""Which relay is reached through which proxy of the environment; section 1.6, scenario 71."""

from __future__ import annotations

import pytest

from fsmv2.communicator.transport.proxies import proxy_for

PROXY = "http://proxy.example.com:3128"
RELAY = "https://relay.example.com/api"


def is_direct(monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str) -> bool:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = proxy_for(url)
    assert found in (None, PROXY)
    return found is None


@pytest.mark.parametrize(
    ("no_proxy", "exempt", "not_exempt"),
    [
        ("10.0.0.0/8", "http://10.20.30.40/api", "http://11.0.0.1"),
        ("10.1.2.3/8", "http://10.20.30.40:8080", "http://10.example.com"),
        ("192.168.0.0/24", "https://192.168.0.255", "https://192.168.1.0"),
        ("fd00::/8", "https://[fd12::1]/api", "https://[fe80::1]"),
        ("10.0.0.0/8", "https://[::ffff:10.0.0.1]", "https://[::ffff:11.0.0.1]"),
        ("10.0.0.1", "https://10.0.0.1:8443", "https://10.0.0.10"),
        ("10.0.0.1:8443", "https://10.0.0.1:8443", "https://10.0.0.1"),
        ("10.0.0.1:443", "https://10.0.0.1", "http://10.0.0.1"),
        ("fd00::1", "https://[fd00:0::1]:8443", "https://[fd00::2]"),
        ("[fd00::1]:443", "https://[fd00::1]", "https://[fd00::1]:8443"),
        ("[fd00::1]:", "https://[fd00::1]", "https://[fd00::2]"),
        ("example.com", RELAY, "https://notexample.com"),
        ("example.com", "https://example.com", "https://example.com.evil.org"),
        ("Example.COM", RELAY, "https://example.org"),
        (".example.com", RELAY, "https://example.com"),
        ("*.example.com", RELAY, "https://example.com"),
        ("relay.example.com:443", RELAY, "http://relay.example.com"),
        (".example.com:8443", "https://relay.example.com:8443", RELAY),
        ("bücher.example", "https://xn--bcher-kva.example", "https://bucher.example"),
        ("a.org , relay.example.com,b.org", RELAY, "https://c.org"),
    ],
)
def test_entries_of_no_proxy(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, exempt: str, not_exempt: str
) -> None:
    """Networks, addresses and domains, with a port or without."""
    assert is_direct(monkeypatch, no_proxy, exempt)
    assert not is_direct(monkeypatch, no_proxy, not_exempt)


@pytest.mark.parametrize(
    "no_proxy", ["", ",", " ", ".", ":443", "[]", "[", "*.", "10.0.0.0/99", "x/8", "relay", "/"]
)
def test_entry_that_means_nothing_exempts_nothing(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    assert not is_direct(monkeypatch, no_proxy, RELAY)
    assert not is_direct(monkeypatch, no_proxy, "https://10.0.0.1")
    assert is_direct(monkeypatch, f"{no_proxy},*", RELAY)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_loopback_is_always_direct(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert is_direct(monkeypatch, "", f"http://{host}/api")
    assert not is_direct(monkeypatch, "", "http://127.example.com")


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*example.com", RELAY),
        ("*example.com", "https://example.com"),
        ("relay.*", RELAY),
        ("*:443", "https://relay.example.com."),
        ("*10.1.2.3", "https://10.1.2.3"),
        ("*2001:db8::1", "https://[2001:db8::1]"),
        ("10.0.0.0/255.0.0.0", "https://10.1.2.3"),
        ("10.0.0.0/0.255.255.255", "https://10.1.2.3"),
        ("fe80::%1/64", "https://[fe80::1]"),
        ("[2001:db8::1", "https://[2001:db8::1]"),
        ("[2001:db8::1]", "https://[2001:db8::1]"),
        ("[2001:db8::1]443", "https://[2001:db8::1]"),
    ],
)
def test_entry_that_means_nothing_to_the_field_exempts_nothing_here(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str
) -> None:
    """Other wildcards, masks, brackets without a port: a site that must not be reached past its
    proxy is not, as before."""
    assert not is_direct(monkeypatch, no_proxy, url)


def test_the_variable_is_that_of_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """In either case, the capitals first; without a scheme of its own it is http."""
    assert proxy_for(RELAY) is None
    monkeypatch.setenv("HTTP_PROXY", "http://plain.example.com:1")
    assert proxy_for(RELAY) is None
    monkeypatch.setenv("https_proxy", "ada:hunter2@low.example.com:2")
    assert proxy_for(RELAY) == "http://ada:hunter2@low.example.com:2"
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert proxy_for(RELAY) == PROXY
    assert proxy_for("http://relay.example.com") == "http://plain.example.com:1"
    monkeypatch.setenv("no_proxy", "example.com")
    assert proxy_for(RELAY) is None


def test_all_proxy_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is often there for others, and with a scheme that no relay is reached through."""
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks5://proxy.example.com:1080")
    assert proxy_for(RELAY) is None
    assert proxy_for("http://relay.example.com") is None
