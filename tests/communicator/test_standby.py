"""A second switchboard on the same folders: it waits for its turn, and then knows what was done
before, by whomever and until the last moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ordered_actions import KINDS
from playedline import WAIT_S, PlayedPool, replies_in, send_order

from fsmv2.communicator import spool
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.switchboard import Closed, Outbound, Switchboard
from fsmv2.communicator.switchboard import router as router_module


def until(true: Callable[[], Any], what: str) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends_at, what
        time.sleep(0.002)


def board_of(folder: Path) -> tuple[Switchboard, PlayedPool]:
    pool = PlayedPool()
    return Switchboard(folder / "out", folder / "in", pool, KINDS), pool


def test_a_standby_runs_no_order_that_the_first_has_answered(tmp_path: Path) -> None:
    """Built before the first has begun, started after it: what was done is read when the inbox is
    its own, not before."""
    first, pool = board_of(tmp_path)
    standby, idle = board_of(tmp_path)
    with first:
        with pytest.raises(spool.Claimed):
            standby.start()
        send_order(tmp_path / "in", "u1")
        until(lambda: pool.taken, "it has begun")
        pool.end(value=2)
        until(lambda: first.router.in_flight == 0, "it is answered")
        with pytest.raises(spool.Claimed):
            standby.start()
    with standby:
        send_order(tmp_path / "in", "u1")
        send_order(tmp_path / "in", "u2")
        until(lambda: idle.taken, "the next has begun")
        idle.end(value=2)
        until(lambda: standby.router.in_flight == 0, "it is answered")
    assert standby.counts["duplicates"] == 1
    assert len(idle.taken) == 1
    ends = [(uuid, state) for uuid, state in replies_in(tmp_path / "out") if state == "success"]
    assert ends == [("u1", "success"), ("u2", "success")]


def test_the_inbox_is_not_given_up_while_the_router_is_still_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop whose time is over while the disk hangs: the next one is refused until the thread of
    the first has ended; two would run orders twice."""
    hangs = threading.Event()
    reached = threading.Event()
    first, pool = board_of(tmp_path)
    standby, _ = board_of(tmp_path)
    first.start()
    send_order(tmp_path / "in", "u1")
    until(lambda: pool.taken, "it has begun")
    real = router_module.Router.settle

    def settle(self: Any, **options: Any) -> None:
        if self is first.router:
            reached.set()
            hangs.wait(WAIT_S)
        real(self, **options)

    monkeypatch.setattr(router_module.Router, "settle", settle)
    assert reached.wait(WAIT_S)
    left = first.close(0.05)
    assert left.orders == 1
    with pytest.raises(spool.Claimed):
        standby.start()
    hangs.set()

    def starts() -> bool:
        try:
            standby.start()
        except spool.Claimed:
            return False
        return True

    until(starts, "the first has let go")
    standby.close()


def test_a_last_reply_that_a_stop_has_just_written_is_noted(tmp_path: Path) -> None:
    """The writer ends after the router: what it wrote at the last moment counts as answered."""
    first, pool = board_of(tmp_path)
    first.start()
    send_order(tmp_path / "in", "u1")
    until(lambda: pool.taken, "it has begun")
    slow = first.outbound.close

    def close(timeout_s: float) -> int:
        pool.end(value=2)  # it ends when the router's thread has gone
        return slow(timeout_s)

    first.outbound.close = close  # type: ignore[method-assign]
    assert first.close(0.2).orders == 0
    standby, idle = board_of(tmp_path)
    with standby:
        send_order(tmp_path / "in", "u1")
        until(lambda: standby.inbound.stats()[1] == 0, "it is known")
    assert idle.taken == []


def test_a_switchboard_that_was_closed_is_not_started_again(tmp_path: Path) -> None:
    """Nor one that runs. It would run nothing, and keep the inbox from whoever would."""
    board = Switchboard(tmp_path / "out", tmp_path / "in", PlayedPool(), KINDS)
    with board, pytest.raises(RuntimeError, match="this one runs, want a new one"):
        board.start()
    for again in (board, Switchboard(tmp_path / "out", tmp_path / "in", PlayedPool(), KINDS)):
        again.close(0.1)
        with pytest.raises(RuntimeError, match="was closed, want a new one"):
            again.start()
        with pytest.raises(Closed, match="want a new one"):
            again.outbound.start()
    with Switchboard(tmp_path / "out", tmp_path / "in", PlayedPool(), KINDS):
        pass


@pytest.mark.parametrize("fails", ["read", "start"])
def test_a_start_that_fails_leaves_the_inbox_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """And no thread."""
    board, _ = board_of(tmp_path)
    before = threading.active_count()

    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(*((type(DISK), "read") if fails == "read" else (Outbound, "start")), broken)
        with pytest.raises(OSError, match="Input/output"):
            board.start()
    assert threading.active_count() == before
    with board:
        pass
    assert threading.active_count() == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_start_for_which_there_is_no_thread_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever of them it is; the inbox is free again."""
    board = Switchboard(tmp_path / "out", tmp_path / "in", PlayedPool(), KINDS, lambda full: full)
    before = threading.active_count()
    real = Switchboard._begin
    begun: list[str] = []

    def begin(self: Switchboard, name: str, work: Callable[[], None]) -> None:
        begun.append(name)
        if len(begun) == number:
            raise RuntimeError("can't start new thread")
        real(self, name, work)

    monkeypatch.setattr(Switchboard, "_begin", begin)
    with pytest.raises(RuntimeError, match="new thread"):
        board.start()
    assert threading.active_count() == before
    spool.claim(tmp_path / "in").close()
