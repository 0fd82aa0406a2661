"""The account that the communicator's soak settles finds what does not hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from communicator_soak import Accounts, repeated


def accounts(batches: list[list[int]], posted: int) -> Accounts:
    """As after a run in which ``batches`` came in to the relay."""
    pushed = [
        SimpleNamespace(payload={"number": number}, batch=batch)
        for batch, numbers in enumerate(batches)
        for number in numbers
    ]
    relay: Any = SimpleNamespace(
        backend=SimpleNamespace(pull=lambda headers: headers), pushed=lambda: pushed
    )
    made = Accounts(relay, Path("nowhere"))
    made.posted = posted
    return made


@pytest.mark.parametrize(
    ("batches", "again"),
    [
        ([[0, 1], [2]], set()),
        ([[0, 1], [0, 1, 2]], {0}),
        ([[0, 1], [0], [1], [2]], {0}),  # one by one, after an error
        ([[0], [0], [0]], {0, 1}),
        ([[0], [1], [0], [1]], {0, 1}),
    ],
)
def test_a_batch_that_comes_again_is_counted_once_each_time(
    batches: list[list[int]], again: set[int]
) -> None:
    arrived = [(number, batch) for batch, numbers in enumerate(batches) for number in numbers]
    assert repeated(arrived) == again


def test_more_batches_again_than_kills_is_a_fault() -> None:
    """As many as kills may be: each has caught one on its way."""
    twice = accounts([[0, 1], [0, 1], [2], [2, 3]], posted=4)
    assert twice.faults(2) == []
    assert twice.faults(1) == ["2 batches came again, want at most one for each kill"]


def test_what_is_lost_or_out_of_order_is_a_fault() -> None:
    assert accounts([[0], [2, 1]], posted=4).faults(9) == [
        "messages to the relay are out of order",
        "lost on the way to the relay: [3]",
    ]


def test_replies_received_again_are_bounded_and_their_order_is_that_of_the_first() -> None:
    """From the relay: a kill may come between the unpacking of a reply and the note of it."""
    made = accounts([], posted=0)
    made.replies = [[0, 1], [2], [3]]
    made.received = [0, 1, 2, 0, 1, 2, 3]
    assert made.faults(2) == []
    assert made.faults(1) == ["2 replies were received again, want at most one a kill"]
    made.received = [0, 2, 1, 3]
    assert made.faults(1) == ["messages from the relay are out of order"]
    made.received = [0, 3]
    assert made.faults(0) == [
        "1 replies of the relay were received in part",
        "1 replies of the relay are lost, want at most one a kill",
    ]
