"""What lives long is set aside by the collector, and taken back now and then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from fsmv2.supervisor.system.garbage import THAW_S, Garbage


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class _Ring:
    def __init__(self) -> None:
        self.me: _Ring | None = self


@pytest.fixture
def clock() -> Iterator[_Clock]:
    clock = _Clock()
    garbage = Garbage(clock)
    garbage.start()
    yield clock
    garbage.close()
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("clock")
def test_what_survives_a_full_collection_is_not_walked_again() -> None:
    assert gc.get_freeze_count() == 0
    gc.collect(0)
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gc.get_freeze_count() > 1_000


@pytest.mark.usefixtures("clock")
def test_a_frozen_object_still_goes_with_its_last_reference() -> None:
    kept = _Ring()
    kept.me = None
    gc.collect()
    gone = weakref.ref(kept)
    del kept
    assert gone() is None


def test_cycles_that_were_set_aside_are_found_after_a_while(clock: _Clock) -> None:
    ring = _Ring()
    gc.collect()
    gone = weakref.ref(ring)
    del ring
    gc.collect()
    assert gone() is not None

    clock.now = THAW_S
    gc.collect()
    gc.collect()
    assert gone() is None
    assert gc.get_freeze_count() > 1_000


def test_a_host_that_freezes_by_itself_is_left_alone() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        garbage = Garbage()
        garbage.start()
        kept = [[number] for number in range(1_000)]  # would be frozen too
        gc.collect()
        # What is frozen may still die, by its count of references.
        assert count - len(kept) < gc.get_freeze_count() <= count
        garbage.close()
        assert count - len(kept) < gc.get_freeze_count() <= count
    finally:
        gc.unfreeze()
