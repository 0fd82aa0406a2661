"""The page's marks of a running attempt: heartbeat, extension, the answered signal, wear."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.ipc.page import _BEGUN_PLACE, Page, create_page


@pytest.fixture
def pages() -> Iterator[tuple[Page, Page]]:
    """The root's view and the proc's."""
    fd = create_page("test")
    root, proc = Page(fd), Page(fd)
    yield root, proc
    root.close()
    proc.close()
    os.close(fd)


def test_a_new_page_has_no_marks(pages: tuple[Page, Page]) -> None:
    """Zeroes say: nothing yet."""
    root, _proc = pages
    assert root.heartbeat_at() == 0.0
    assert root.extension_of(1) == 0.0
    assert root.heard() == 0
    assert not root.is_worn_out()


def test_each_mark_is_seen_by_the_root_and_touches_no_other(pages: tuple[Page, Page]) -> None:
    """One field, one place."""
    root, proc = pages
    proc.begin(7, 1.5, 0.5, 12)
    proc.beat(2.5)
    proc.extend(7, 30.25)
    proc.hear()
    proc.hear()
    root.cancel(7)
    root.revoke(3, 5)
    root.tell_of_stop(7)
    proc.wear_out()
    assert root.begun() == (7, 1.5, 0.5)
    assert root.begun_place() == 12
    assert proc.is_begun(7)
    assert not proc.is_begun(6)
    assert root.heartbeat_at() == 2.5
    assert root.extension_of(7) == 30.25
    assert root.heard() == 2
    assert proc.is_cancelled(7)
    assert [proc.is_revoked(place) for place in (2, 3, 4, 5)] == [False, True, True, False]
    assert proc.is_told_of_stop(7)
    assert root.is_worn_out()


@given(
    st.integers(1, (1 << 37) - 2),
    st.floats(0, 130_000, allow_nan=False),
    st.integers(1, 1_000),
)
def test_an_extension_is_its_own_attempts_only(attempt: int, extra_s: float, step: int) -> None:
    """Told in milliseconds, and never seen with another attempt's id."""
    fd = create_page("test")
    page = Page(fd)
    try:
        page.extend(attempt, extra_s)
        assert abs(page.extension_of(attempt) - extra_s) <= 0.0005 + 1e-9
        assert page.extension_of(attempt + step) == 0.0
    finally:
        page.close()
        os.close(fd)


def test_an_extension_that_does_not_fit_is_the_longest_that_does(pages: tuple[Page, Page]) -> None:
    """And a negative one is none: the neighbouring bits hold the attempt's id."""
    root, proc = pages
    proc.extend(5, 1e12)
    assert root.extension_of(5) > 86_400
    proc.extend(5, -1e12)
    assert root.extension_of(5) == 0.0
    assert root.extension_of(4) == 0.0


@given(st.integers(1, 2**31), st.integers(0, 100), st.integers(-200, 200))
def test_exactly_the_orders_of_the_range_are_revoked(first: int, count: int, distance: int) -> None:
    """From the first up to, not including, the end; none if the range is empty."""
    fd = create_page("test")
    root, proc = Page(fd), Page(fd)
    try:
        root.revoke(first, first + count)
        place = max(0, first + distance)
        assert proc.is_revoked(place) is (first <= place < first + count)
        assert not proc.is_revoked(first + count)
    finally:
        root.close()
        proc.close()
        os.close(fd)


def test_no_order_is_revoked_on_a_new_page_and_a_new_range_replaces_the_old_one(
    pages: tuple[Page, Page],
) -> None:
    """There is one word: who revokes again says all that is still to be refused."""
    root, proc = pages
    assert not any(proc.is_revoked(place) for place in range(100))
    root.revoke(5, 10)
    root.revoke(12, 14)
    assert [place for place in range(100) if proc.is_revoked(place)] == [12, 13]


def test_revoking_and_cancelling_do_not_touch_each_other_or_the_procs_marks(
    pages: tuple[Page, Page],
) -> None:
    """One field, one place."""
    root, proc = pages
    proc.begin(7, 1.5, 0.5)
    root.cancel(9)
    root.revoke(3, 6)
    assert proc.is_cancelled(9)
    assert proc.is_revoked(5)
    assert root.begun() == (7, 1.5, 0.5)


def test_a_page_is_closed_once_and_may_be_closed_again() -> None:
    """The descriptor belongs to somebody else and stays."""
    fd = create_page("test")
    page = Page(fd)
    page.close()
    page.close()
    os.close(fd)


def test_an_order_whose_number_was_not_marked_any_more_has_not_begun(
    pages: tuple[Page, Page],
) -> None:
    """A kill between the two marks of a beginning: nothing of it has run."""
    root, proc = pages
    proc.begin(7, 1.5, 0.5, 3)
    assert root.has_begun(6, 2)
    assert root.has_begun(7, 3)
    assert not root.has_begun(8, 4)
    proc._words[_BEGUN_PLACE] = 4
    assert root.has_begun(7, 3)
    assert not root.has_begun(8, 4)
    proc.begin(8, 2.5, 0.5, 4)
    assert root.has_begun(8, 4)
