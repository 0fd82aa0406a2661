"""The kernel's text files: understood as they are, and refused when they are something else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core import kerneltexts as texts

STAT = """cpu  30 0 30 900 40 0 0 0 0 0
cpu0 10 1 20 400 30 2 3 4 5 6
cpu3 20 0 10 500 10 0 0 0 0 0
intr 5
"""
PSI = """some avg10=13.24 avg60=8.86 avg300=7.33 total=14709143056
full avg10=1.50 avg60=0.00 avg300=0.00 total=0
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 4096                 files
"""


def test_each_file_is_read_as_the_kernel_writes_it() -> None:
    assert texts.limit("max\n") is None
    assert texts.limit("9223372036854771712\n") is None, "version 1 says so where there is none"
    assert texts.limit("1048576\n") == 1048576
    assert texts.quota("max 100000\n") is None
    assert texts.quota("-1 100000") is None
    assert texts.quota("150000 100000\n") == 1.5
    assert texts.keyed("usage_usec 7\nuser_usec 5\n", "usage_usec") == (7,)
    assert texts.pressure(PSI) == {"some": pytest.approx(0.1324), "full": pytest.approx(0.015)}
    assert texts.busy_ticks(STAT) == (40 + 30, 2)
    assert texts.busy_ticks(STAT, {3, 9}) == (30, 1)
    assert texts.loadavg("1.07 1.18 0.91 3/86 4541\n") == (1.07, 86)
    assert texts.resource_limit(LIMITS, "Max open files") == 1024
    assert texts.resource_limit(LIMITS, "Max cpu time") is None


def test_a_process_name_may_hold_anything() -> None:
    stat = "7 (a) b) 1 2) S 1 1 1 0 -1 4194304 100 0 0 0 31 11 0 0 20 0 1 0 5"

    assert texts.cpu_ticks(stat) == 42


READERS: list[Callable[[str], Any]] = [
    texts.whole,
    texts.limit,
    texts.quota,
    texts.pressure,
    texts.busy_ticks,
    texts.loadavg,
    texts.cpu_ticks,
    lambda text: texts.keyed(text, "nr_periods"),
    lambda text: texts.resource_limit(text, "Max open files"),
]


@pytest.mark.parametrize(
    "garbage", ["", "\n", "\0\0\0", "-7", "12 apples", "nan", "some", "cpu0 x"]
)
@pytest.mark.parametrize("read", READERS)
def test_garbage_is_refused_with_what_was_wanted(read: Callable[[str], Any], garbage: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(garbage)


@given(st.sampled_from(READERS), st.text(max_size=200))
def test_any_text_is_understood_or_refused(read: Callable[[str], Any], text: str) -> None:
    with contextlib.suppress(ValueError, IndexError):
        read(text)
