"""The error table: which reply is which kind, and how long each is waited out."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from fsmv2.communicator.backoff import delay_s, spread, wait_s
from fsmv2.communicator.transport.errors import (
    FACTS,
    RULES,
    TEXT_BYTES_MAX,
    Kind,
    Problem,
    classify,
    clip,
    parse_retry_after,
)
from fsmv2.communicator.transport.pages import PROXY_MARKERS, is_html

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "body", "server", "kind"),
    [
        (429, b"<title>Just a moment...</title>", "", Kind.CLOUDFLARE),
        (403, b"<title>Just a moment...</title>", "cloudflare", Kind.CLOUDFLARE),
        (503, b'<form id="challenge-form">', "", Kind.CLOUDFLARE),
        (429, b"cf-browser-verification", "cloudflare", Kind.CLOUDFLARE),
        (429, b"cf-browser-verification", "nginx", Kind.RATE_LIMIT),
        (401, b"Just a moment", "cloudflare", Kind.INVALID_TOKEN),
        (403, b"Zscaler", "", Kind.PROXY_BLOCK),
        (403, b"zscaler", "", Kind.INVALID_TOKEN),
        (503, b"Access Denied", "", Kind.PROXY_BLOCK),
        (302, b"web filter", "", Kind.PROXY_BLOCK),
        (429, b"FortiGuard", "", Kind.PROXY_BLOCK),
        (429, b"", "cloudflare", Kind.RATE_LIMIT),
        (401, b"", "", Kind.INVALID_TOKEN),
        (403, b"{}", "", Kind.INVALID_TOKEN),
        (404, b"", "", Kind.INSTANCE_DELETED),
        (500, b"", "", Kind.SERVER_ERROR),
        (502, b"<html>nginx", "", Kind.SERVER_ERROR),
        (599, b"\xff\xfe", "", Kind.SERVER_ERROR),
        (400, b"", "", Kind.UNKNOWN),
        (301, b"", "", Kind.UNKNOWN),
        (408, b"", "", Kind.UNKNOWN),
        (413, b"", "", Kind.UNKNOWN),
        (201, b"", "", Kind.UNKNOWN),
    ],
)
def test_first_matching_rule_gives_the_kind(
    status: int, body: bytes, server: str, kind: Kind
) -> None:
    """Scenario 69: order is the meaning of the table: the first rule that matches wins."""
    assert classify(status, body, server) is kind


@pytest.mark.parametrize("marker", PROXY_MARKERS)
def test_every_proxy_marker_is_recognised_on_any_status(marker: str) -> None:
    """A middlebox is recognised by its page, whatever status it chose."""
    for status in (200, 307, 403, 407, 500):
        assert classify(status, f"<p>{marker}</p>".encode()) is Kind.PROXY_BLOCK


def test_table_is_complete() -> None:
    """Every kind has its facts, and the last rule matches everything."""
    assert set(FACTS) == set(Kind)
    assert RULES[-1].statuses is None
    assert RULES[-1].markers == ()
    assert all(classify(status, b"") for status in range(100, 1000))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        (" 7 ", 7.0),
        ("7200", 3600.0),
        ("9" * 18, 3600.0),
        ("9" * 5000, None),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), None),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_garbage_is_none(
    value: str | None, seconds: float | None
) -> None:
    """Scenario 8: only a moment ahead of us counts, and never more than an hour of it."""
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize("kind", [Kind.NETWORK, Kind.SERVER_ERROR, Kind.UNKNOWN])
def test_passing_errors_double_up_to_a_minute(kind: Kind) -> None:
    """2, 4, 8, 16, 32 and then 60 s for ever: the backoff never collapses."""
    waits = [delay_s(Problem(kind, ""), n) for n in (1, 2, 3, 4, 5, 6, 7, 500)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_lasting_errors_have_their_own_waits() -> None:
    """What only people can mend is asked for rarely."""
    assert delay_s(Problem(Kind.INVALID_TOKEN, ""), 1) == 60
    assert delay_s(Problem(Kind.INSTANCE_DELETED, ""), 9) == 300
    limits = [delay_s(Problem(Kind.RATE_LIMIT, ""), n) for n in (1, 2, 3, 4, 5)]
    assert limits == [30, 60, 120, 300, 300]


def test_retry_after_wins_from_the_first_error_and_is_capped() -> None:
    """What the relay asks for goes before our own schedule, within an hour."""
    assert delay_s(Problem(Kind.SERVER_ERROR, "", 503, 45.0), 1) == 45
    assert delay_s(Problem(Kind.SERVER_ERROR, "", 503, 1e9), 1) == 3600
    assert wait_s(Problem(Kind.SERVER_ERROR, "", 503, 1e9), 1, "root/a") == 3600


def test_spread_lengthens_only_and_is_the_same_each_time() -> None:
    """Many workers part, none comes early, and one snapshot gives one decision."""
    problem = Problem(Kind.NETWORK, "")
    waits = {wait_s(problem, 3, f"root/{n}") for n in range(200)}
    assert all(8 <= wait <= 8 * 1.2 for wait in waits)
    assert len(waits) > 190
    assert max(waits) - min(waits) > 1
    assert wait_s(problem, 3, "root/1") == wait_s(problem, 3, "root/1")
    assert spread("root/1", 1) != spread("root/1", 2)


def test_text_is_one_bounded_line() -> None:
    """256 bytes of UTF-8 with the ellipsis inside, no control character, no cut character."""
    assert clip("a\r\n\tb\x00 \x1b[31mc") == "a b [31mc"
    long = clip("é" * 500)
    assert len(long.encode()) <= TEXT_BYTES_MAX
    assert long.endswith("é…")
    assert clip("x" * 256) == "x" * 256


def test_a_page_is_recognised_by_type_or_by_its_first_character() -> None:
    """No relay answer begins with a tag."""
    assert is_html(b"", "text/html")
    assert is_html(b"\xef\xbb\xbf\n <!DOCTYPE html>")
    assert not is_html(b'{"uuid":"<b>"}', "application/json")
