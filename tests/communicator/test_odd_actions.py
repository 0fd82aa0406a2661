"""Orders whose action class, or whose pool, misbehaves in this process: each has its one end, the
operator reads of it, and the next order is routed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from ordered_actions import KINDS
from playedline import Line

from fsmv2.supervisor import Action
from fsmv2.supervisor.core.errors import FsmError

SECRET = "s3cret"


class Ended(BaseException):
    """Nothing that ``except Exception`` would see."""


def recurse() -> None:
    recurse()


def exhaust() -> None:
    raise MemoryError(SECRET)


def leave() -> None:
    raise SystemExit(SECRET)


def interrupt() -> None:
    raise Ended(SECRET)


MISHAPS = {
    "KeyError": lambda: {}[SECRET],
    "OSError": lambda: Path("/nowhere", SECRET).read_text(),
    "RecursionError": recurse,
    "MemoryError": exhaust,
    "SystemExit": leave,
    "Ended": interrupt,
}


class Odd(Action, frozen=True):
    mishap: str

    def __post_init__(self) -> None:
        MISHAPS[self.mishap]()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path, kinds={**KINDS, "odd": Odd})
    yield line
    line.outbound.close()


@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_class_that_raises_is_one_failure_reply_and_one_line_of_the_log(
    line: Line, caplog: pytest.LogCaptureFixture, mishap: str
) -> None:
    """Whatever it raises: the reply says what to whom it concerns, the operator reads the class
    and the exception's type; neither has the exception's text. What comes next is routed."""
    line.order("u1", "odd", {"mishap": mishap})
    line.order("u2")
    line.run()
    assert line.states() == ["failure", "confirmed", "executing"]
    last = line.replies()[0][1]["actionReplyPayloadV2"]
    wanted = "FileNotFoundError" if mishap == "OSError" else mishap
    assert last == {
        "message": f"cannot make odd: its class raised {wanted}",
        "errorCode": "ERR_ACTION_FAILED",
    }
    (record,) = caplog.records
    assert f"cannot make odd: its class raised {wanted}" in record.getMessage()
    assert SECRET not in caplog.text
    assert SECRET not in str(line.replies())
    assert (line.counts["not_begun"], line.counts["faults"], line.left()) == (1, 0, 1)


def test_a_class_that_refuses_its_fields_is_the_users_business_only(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong fields are no fault of the instance: nothing in its log."""
    line.order("u1", "add", {"left": SECRET})
    line.run()
    assert (line.states(), caplog.records) == (["failure"], [])


@pytest.mark.parametrize("error", [FsmError(SECRET), Ended(SECRET), RecursionError(SECRET)])
def test_a_pool_that_raises_is_told_to_the_operator_too(
    line: Line, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """A closed pool, say: without a line of the log only users would know."""
    line.pool.error = error
    line.order()
    line.order("u2", "note", {"file": SECRET, "text": SECRET})
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"] * 2
    told = [record.getMessage().partition(" (")[0] for record in caplog.records]
    name = type(error).__name__
    assert told == [f"cannot start add: {name}", f"cannot start note: {name}"]
    assert SECRET not in caplog.text
    assert (line.counts["not_begun"], line.router.in_flight, line.left()) == (2, 0, 0)


@pytest.mark.parametrize("error", [CancelledError(), RuntimeError(SECRET), Ended(SECRET)])
def test_a_future_that_raises_is_an_end_too(
    line: Line, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """A runner of somebody's own that breaks its promise: the order is not open for ever."""
    line.order()
    line.run()
    line.pool.taken[0][1].set_exception(error)
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"]
    assert type(error).__name__ in str(line.replies()[-1])
    assert SECRET not in str(line.replies()) + caplog.text
    assert (line.router.in_flight, line.left()) == (0, 0)


def test_an_end_that_cannot_be_told_now_is_told_later(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No memory for the reply, nor for the failure in its place: the router tries again."""

    def exhausted(*_: Any, **__: Any) -> None:
        raise MemoryError(SECRET)

    line.order()
    line.run()
    with monkeypatch.context() as patch:
        patch.setattr(line.router._replies, "send", exhausted)
        line.pool.end(value=5)
        line.router.step()
    assert line.router.in_flight == 1
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"]
    assert "value cannot be sent: MemoryError" in str(line.replies()[-1])
    assert (line.router.in_flight, line.left()) == (0, 0)
    assert SECRET not in caplog.text
