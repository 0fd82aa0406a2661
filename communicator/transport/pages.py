"""Pages: what answers in the relay's place, and whose it looks like.

Knows: how a page is told from an answer, the marks of middleboxes.
Does not know: kinds of errors, waits, the HTTP client.
Invariants: what is told of a page is its size and a name from a list of our own, no word of it; no
more than the first 64 KiB are looked at.
"""

from __future__ import annotations

SCANNED_BYTES_MAX = 64 * 1024

# A page with one of these blocks what we sent, whatever its status says.
PROXY_MARKERS = (
    "Zscaler",
    "BlueCoat",
    "Access Denied",
    "This site has been blocked",
    "web filter",
    "Security Policy",
    "Websense",
    "FortiGuard",
)

# Whom a page is taken to be from, by what is in it or in its ``Server`` header, in lower case. What
# blocks goes before what only passes on, for it often stands behind one of these.
MIDDLEBOXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Zscaler", ("zscaler",)),
    ("Blue Coat", ("bluecoat", "blue coat", "proxysg")),
    ("Forcepoint", ("forcepoint", "websense")),
    ("Fortinet", ("fortiguard", "fortinet", "fortigate")),
    ("Palo Alto", ("palo alto networks", "pan-os")),
    ("Sophos", ("sophos",)),
    ("McAfee", ("mcafee", "skyhigh")),
    ("Cisco Umbrella", ("cisco umbrella", "opendns")),
    ("Squid", ("squid",)),
    ("Cloudflare", ("cloudflare", "just a moment", "challenge-form")),
    ("a captive portal", ("wi-fi", "wifi", "hotspot", "captive")),
    ("Akamai", ("akamai",)),
    ("Amazon CloudFront", ("cloudfront",)),
    ("Amazon's load balancer", ("awselb",)),
    ("Azure", ("microsoft-azure", "azure front door")),
    ("Google's front end", ("google frontend",)),
    ("Traefik", ("traefik",)),
    ("Envoy", ("envoy",)),
    ("HAProxy", ("haproxy", "no server is available to handle this request")),
    ("Varnish", ("varnish",)),
    ("IIS", ("microsoft-iis", "iis detailed error")),
    ("nginx", ("nginx", "openresty")),
    ("Apache", ("apache",)),
)


# Blanks and the marks of UTF-8 and UTF-16.
_BEFORE_A_TAG = b" \t\r\n\x0b\x0c\xef\xbb\xbf\xff\xfe\x00"


def is_html(body: bytes, content_type: str = "") -> bool:
    """True for a page: a relay never serves one, whatever the status claims. Where no type is given
    the body alone tells."""
    begins = body[:SCANNED_BYTES_MAX].lstrip(_BEFORE_A_TAG)[:1]
    return begins == b"<" or "html" in content_type.lower()


def middlebox(body: bytes, server: str = "") -> str:
    """Who stands between us and the relay, judging by a page and its ``Server`` header: a name of
    `MIDDLEBOXES`, or an empty text."""
    seen = f"{server}\n{body[:SCANNED_BYTES_MAX].decode('utf-8', 'replace')}".lower()
    return next((name for name, marks in MIDDLEBOXES if any(mark in seen for mark in marks)), "")


def shape(body: bytes, content_type: str = "", server: str = "") -> str:
    """What a body is, without a word of it."""
    if not is_html(body, content_type):
        return f"{len(body):,} bytes of body"
    name = middlebox(body, server)
    return f"an HTML page of {len(body):,} bytes" + (f"; looks like {name}" if name else "")
