"""What is wrong with a value is told in the words of who writes a config, not in Python's."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Annotated, Any, Self

import msgspec
import pytest

from fsmv2.communicator import CommunicatorConfig
from fsmv2.supervisor.config.configwalk import describe, misfits


class Address:
    """A type that reads its own form, and says what it is."""

    __wire_words__ = "HOST:PORT"

    @classmethod
    def __wire_decode__(cls, raw: object) -> Self:
        if not isinstance(raw, str):
            raise ValueError(f"Expected `str`, got `{type(raw).__name__}`")
        return cls()


class Silent:
    """One that does not say it."""

    @classmethod
    def __wire_decode__(cls, raw: object) -> Self:
        raise ValueError(f"got {raw!r}")


class Written(msgspec.Struct, forbid_unknown_fields=True):
    """One field of each sort that has no form of its own in YAML."""

    address: Address | None = None
    silent: Silent | None = None
    at: datetime.datetime | None = None
    day: datetime.date | None = None
    time: datetime.time | None = None
    span: datetime.timedelta | None = None
    name: uuid.UUID | None = None
    sum: decimal.Decimal | None = None
    raw: Annotated[bytes, msgspec.Meta(max_length=9)] | None = None
    buffer: bytearray = bytearray()


@pytest.mark.parametrize(
    ("field", "good", "want"),
    [
        ("address", "h:1", "HOST:PORT or null"),
        ("at", "2026-01-31T12:00:00Z", "a date and time like 2026-01-31T12:00:00Z or null"),
        ("day", "2026-01-31", "a date like 2026-01-31 or null"),
        ("time", "12:00:00", "a time of day like 12:00:00 or null"),
        ("span", "PT5M", "a duration like PT5M or null"),
        ("name", str(uuid.UUID(int=7)), "a UUID or null"),
        ("sum", "1.5", "a number or null"),
        ("raw", "aGk=", "a text in base64 or null"),
        ("buffer", "aGk=", "a text in base64"),
    ],
)
def test_a_value_of_another_sort_is_told_with_what_is_written_for_it(
    field: str, good: Any, want: str
) -> None:
    kind = describe(Written)
    assert misfits(kind, {field: good}, "") == []
    assert misfits(kind, {field: [1]}, "c") == [(f"c.{field}", f"got a list of 1, want {want}")]
    assert misfits(kind, {field: True}, "") == [(field, f"got true, want {want}")]


def test_what_only_the_type_itself_can_say_is_told_by_it() -> None:
    """The sort is right, the value is not."""
    told = misfits(describe(Written), {"raw": "aGkgdGhlcmUsIHlvdQ=="}, "")
    assert told == [("raw", "Expected `bytes` of length <= 9")]


@pytest.mark.parametrize(
    ("token", "got"),
    [
        (5, "an integer"),
        (1.5, "a number"),
        (True, "true or false"),
        (["hunter2"], "a list of 1"),
        (datetime.date(2026, 1, 31), "a date"),
    ],
)
def test_a_token_that_is_no_text_is_told_without_python(token: Any, got: str) -> None:
    """And without its value, which may be a credential all the same."""
    told = misfits(describe(CommunicatorConfig), {"auth_token": token}, "config")
    assert told == [("config.auth_token", f"got {got}, want a text or null")]
    told = misfits(describe(CommunicatorConfig), {"auth_token_file": token}, "config")
    assert told == [("config.auth_token_file", f"got {got}, want a string or null")]


def test_a_type_that_says_nothing_is_named() -> None:
    """There is nothing else to be said of it."""
    assert misfits(describe(Written), {"silent": 5}, "") == [
        ("silent", "got 5, want a value for Silent or null")
    ]
