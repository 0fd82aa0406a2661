"""The shared page's marks, and the redaction of secrets from texts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.page import DUMP_BYTES_MAX, DUMP_OFFSET, Page, clear_dump, create_page, read_dump
from fsmv2.ipc.redact import HIDDEN, redact, secrets_in, text_of, texts_in
from fsmv2.supervisor.core.secret import Secret


@pytest.fixture
def page_fd() -> Iterator[int]:
    fd = create_page("test")
    yield fd
    os.close(fd)


def test_a_new_page_says_that_nothing_has_begun(page_fd: int) -> None:
    """Attempt ids begin at 1, so 0 is nobody."""
    page = Page(page_fd)
    assert page.begun() == (0, 0.0, 0.0)
    assert not page.is_cancelled(1)
    page.close()


def test_what_one_side_marks_the_other_sees(page_fd: int) -> None:
    """Two views of one page share the marks, and the two marks do not touch each other."""
    root, proc = Page(page_fd), Page(page_fd)
    proc.begin(2**40, 12.5, 0.25)
    root.cancel(2**40)
    root.tell_of_stop(2**40 + 1)
    assert root.begun() == (2**40, 12.5, 0.25)
    assert proc.is_cancelled(2**40)
    assert not proc.is_cancelled(2**40 + 1)
    assert proc.is_told_of_stop(2**40 + 1)
    assert not proc.is_told_of_stop(2**40)
    root.close()
    proc.close()


def test_a_dump_is_read_and_leaves_the_marks_alone(page_fd: int) -> None:
    """Stack dumps begin behind the marks."""
    page = Page(page_fd)
    page.begin(3, 1.0, 0.0)
    clear_dump(page_fd)
    os.write(page_fd, "Thread 1:\n  File …\n".encode())
    assert read_dump(page_fd) == "Thread 1:\n  File …"
    assert page.begun() == (3, 1.0, 0.0)
    page.close()


def test_no_dump_is_an_empty_text(page_fd: int) -> None:
    """Nobody has to ask whether there is one."""
    assert read_dump(page_fd) == ""


def test_clearing_a_dump_makes_the_next_start_at_its_place(page_fd: int) -> None:
    """A shorter dump has no tail of the one before."""
    clear_dump(page_fd)
    os.write(page_fd, b"a long first dump")
    clear_dump(page_fd)
    os.write(page_fd, b"short")
    assert read_dump(page_fd) == "short"


def test_a_dump_is_read_up_to_its_limit_and_any_bytes_are_text(page_fd: int) -> None:
    """A proc may write what it likes into its page."""
    os.pwrite(page_fd, b"\xff" * (DUMP_BYTES_MAX + 1000), DUMP_OFFSET)
    assert len(read_dump(page_fd)) == DUMP_BYTES_MAX


class Inner(msgspec.Struct):
    token: Secret


class Outer(msgspec.Struct):
    name: str
    inner: Inner
    more: list[Secret]
    by_name: dict[str, tuple[Secret, ...]]


def test_secrets_are_found_wherever_they_are() -> None:
    """In structs, lists, tuples and dicts inside each other."""
    value = Outer(
        "n", Inner(Secret("in a struct")), [Secret("in a list")], {"k": (Secret("in a dict"),)}
    )
    assert set(secrets_in(value)) == {"in a struct", "in a list", "in a dict"}


def test_plain_values_hold_no_secret() -> None:
    """Ordinary text is not searched for."""
    assert secrets_in({"a": ["plain", 1, None, b"x"]}) == ()


def test_a_very_short_secret_is_not_searched_for() -> None:
    """Replacing every 'a' would destroy the text and protect nothing."""
    assert secrets_in(Secret("abc")) == ()


def test_a_value_that_holds_itself_ends() -> None:
    """The search has a depth."""
    circle: list[object] = [Secret("deep enough")]
    circle.append(circle)
    assert "deep enough" in secrets_in(circle)


class Broken:
    """A value whose own code raises."""

    def __wire_encode__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_cannot_be_read_hides_no_other() -> None:
    """What is beside it is found all the same, and nothing is raised."""
    assert secrets_in([Broken(), Secret("beside it")]) == ("beside it",)


def test_texts_are_found_behind_what_hides_itself() -> None:
    assert "a secret" in texts_in(decode(encode(["plain", Secret("a secret")]), Any))


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


def test_the_text_of_an_error_is_told_without_secrets() -> None:
    assert text_of(ValueError("bad hunter22"), ("hunter22",)) == f"bad {HIDDEN}"
    for silent in (Mute(), Exits()):
        assert text_of(silent, ()) == "<the exception's text could not be made>"


WORDS = st.text("ab \n", max_size=30)


@given(WORDS, st.text("0123456789xyz", min_size=4, max_size=10), WORDS)
def test_a_secret_is_not_in_a_redacted_text(before: str, secret: str, after: str) -> None:
    """Every occurrence goes, a marker stands in its place, the rest stays."""
    shown = redact(f"{before}{secret}{after}{secret}", (secret,))
    assert secret not in shown
    assert shown == f"{before}{HIDDEN}{after}{HIDDEN}"


def test_a_text_without_secrets_is_left_as_it_is() -> None:
    """Redaction changes nothing else."""
    assert redact("all is well", ("hunter22",)) == "all is well"
