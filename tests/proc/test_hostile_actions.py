"""Actions, callers and machines that turn on the pool: each gets its one result, and it goes on."""

from __future__ import annotations

from collections.abc import Iterator

import hostile_actions as hostile
import pool_actions as acts
import pytest

from fsmv2.supervisor import ActionPool

pytestmark = pytest.mark.proc

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def pool() -> Iterator[ActionPool]:
    with ActionPool(procs=2) as started:
        yield started


def goes_on(pool: ActionPool) -> None:
    """The pool still works."""
    handles = [pool.submit(acts.Echo(number)) for number in range(10)]
    assert [handle.result(PATIENCE_S).value for handle in handles] == list(range(10))


# --- what an action raises ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("lone surrogate", "ValueError", "no file \\udcff"),
        ("long name", "X" * 200, "long"),
        ("text that exits", "Lawless", "<the exception's text could not be made>"),
        ("name that exits", "Nameless", ""),
        ("text of a class", "OddlySaid", "odd"),
    ],
)
def test_whatever_is_raised_is_an_answer_and_no_death(
    pool: ActionPool, what: str, kind: str, message: str
) -> None:
    result = pool.run(hostile.RaiseWhat(what))
    assert result.status == "failed", result
    assert result.error is not None
    assert (result.error.type, result.error.message) == (kind, message)


def test_an_output_that_exits_when_flushed_loses_no_answer(pool: ActionPool) -> None:
    assert pool.run(hostile.ReplaceOutput()).value == "done"
    goes_on(pool)
