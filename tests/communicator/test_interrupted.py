"""Orders that a kill interrupts: never run twice unless their class says so, and ended once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ordered_actions import KINDS, Add, Again
from playedline import Line

from fsmv2.communicator import spool
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.spool.journal import Journal
from fsmv2.communicator.switchboard import ledger, router
from fsmv2.communicator.transport.codec import encode_content
from fsmv2.supervisor import Action

INTERRUPTED = "ERR_INTERRUPTED"


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[list[Line]]:
    lives = [Line(tmp_path)]
    yield lives
    for line in lives:
        line.outbound.close()


def kill(lives: list[Line]) -> Line:
    """What is in memory is gone; the next life, with the same folders."""
    line = lives[-1]
    line.router.abandon()
    for _, future in line.pool.taken:
        if not future.done():
            line.pool.end(line.pool.taken.index((_, future)), value="the last words of its proc")
    lives.append(Line(line.folder))
    return lives[-1]


def ends(line: Line) -> list[tuple[str, str]]:
    return [(p["actionUUID"], s) for s, p in line.replies() if s in ("success", "failure")]


def test_an_order_that_was_begun_is_not_run_again_but_ended(lives: list[Line]) -> None:
    """One failure, with a code of its own and the reason; one that had ended, and one that had
    not begun, are as ever, though all came in the same pull."""
    line = lives[0]
    for uuid in ("ended", "begun"):
        line.order(uuid)
    line.run()
    line.pool.end(0, value=2)
    line.run()
    line.order("late")
    after = kill(lives)
    after.run()
    assert [action for action, _ in after.pool.taken] == [Add(left=1)]
    assert ends(after) == [("ended", "success"), ("begun", "failure")]
    last = next(p for s, p in after.replies() if s == "failure")["actionReplyPayloadV2"]
    assert last == {
        "message": "add was interrupted by a restart: it is not known whether it ran, and it is "
        "not run again",
        "errorCode": INTERRUPTED,
    }
    assert (after.counts["interrupted"], after.left()) == (1, 1)
    after.pool.end(value=3)
    after.order("begun")
    after.run()
    assert (after.counts["duplicates"], after.left()) == (1, 0)


def test_a_class_that_may_be_run_again_is(lives: list[Line]) -> None:
    """``when_interrupted = "run_again"``: for those that are idempotent. Ended once, too."""
    lives[0].order("u1", "again")
    lives[0].run()
    after = kill(lives)
    after.run()
    assert [action for action, _ in after.pool.taken] == [Again(left=1)]
    after.pool.end(value=3)
    after.run()
    assert (ends(after), after.left()) == ([("u1", "success")], 0)


def test_a_last_reply_on_disk_is_an_answer_though_nothing_was_noted(
    lives: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes between the two: the outbox has it, so nothing more is said."""
    line = lives[0]
    line.order()
    line.run()
    with monkeypatch.context() as patch:
        patch.setattr(line.router._replies, "_on_answered", lambda one: None)
        line.pool.end(value=2)
        assert line.outbound.flush(20)
    spool.post(line.folder / "out", email="x", message_type="status", payload=["u1"])
    (line.folder / "out" / "1.json").write_text("no message")
    (line.folder / "out" / "2.json").mkdir()
    after = kill(lives)
    after.router.read_ledger()
    (line.folder / "out" / "2.json").rmdir()
    after.run()
    assert (after.pool.taken, after.counts["duplicates"], after.left()) == ([], 1, 0)
    assert [*ledger.answered_in(line.folder / "out")] == ["u1"]


def test_a_reply_that_was_pushed_before_its_note_was_synced_is_an_answer(
    lives: list[Line],
) -> None:
    """It is jotted down as soon as it is on disk, which no kill undoes."""
    line = lives[0]
    line.order()
    line.run()
    line.pool.end(value=2)
    assert line.outbound.flush(20)
    spool.acknowledge(spool.outgoing(line.folder / "out", 99, 1 << 20)[0])
    after = kill(lives)
    after.run()
    assert (after.pool.taken, after.replies(), after.left()) == ([], [], 0)


def test_what_begins_together_is_noted_with_one_sync(
    lives: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first of them is run; orders that may be run again cost none."""
    line = lives[0]
    line.router._accepted.begun_max = 200
    line.router.read_ledger()
    noted: list[tuple[list[str], int]] = []
    real = Journal.add

    def add(self: Journal, keys: Any) -> None:
        noted.append(([*keys], len(line.pool.taken)))
        real(self, noted[-1][0])

    monkeypatch.setattr(Journal, "add", add)
    bodies = [
        {"actionType": kind, "actionUUID": f"{kind}{n}", "actionPayload": {"left": n}}
        for n in range(100)
        for kind in ("add", "again")
    ]
    line.send(*(encode_content("action", body) for body in bodies))
    while line.router.step():
        pass
    assert [(len(keys), taken) for keys, taken in noted] == [(50, 0), (50, 100)]
    assert not any(key.startswith("again") for keys, _ in noted for key in keys)
    assert [a.left for a, _ in line.pool.taken] == [n for n in range(100) for _ in "12"]  # type: ignore[attr-defined]


def test_an_order_that_cannot_be_noted_is_not_run_until_it_can(
    lives: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: it would be run twice, else, if a kill came now."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    line = lives[0]
    line.router.read_ledger()
    line.order()
    with monkeypatch.context() as patch:
        patch.setattr(type(DISK), "append", full)
        patch.setattr(type(DISK), "create", full)
        assert line.router.step()
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                line.router.step()
    assert line.pool.taken == []
    line.run()
    assert len(line.pool.taken) == 1


def test_a_stop_gives_back_what_has_not_begun(lives: list[Line]) -> None:
    """It runs in the next life as if nothing had been; it is not left over."""
    line = lives[0]
    line.order()
    assert line.router.step()
    line.router.stop()
    line.router.step()
    assert (line.router.in_flight, line.pool.taken) == (0, [])
    after = kill(lives)
    after.run()
    assert len(after.pool.taken) == 1


def test_as_many_as_may_be_open_are_begun_though_none_ends(
    lives: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those accepted count among them, and do not wait for each other."""
    monkeypatch.setattr(router, "IN_FLIGHT_MAX", 3)
    line = lives[0]
    line.order("u0")
    line.run()
    for number in range(1, 5):
        line.order(f"u{number}")
    line.run()
    assert len(line.pool.taken) == 3


def test_no_more_are_with_the_pool_than_may_be_unknown_after_a_kill(lives: list[Line]) -> None:
    """The others wait without a note of having begun, and a kill costs them nothing; what is no
    order is routed meanwhile."""
    line = lives[0]
    line.router._accepted.begun_max = 4
    for number in range(10):
        line.order(f"u{number}")
    line.send(encode_content("subscribe", {}))
    line.run()
    assert (len(line.pool.taken), len(line.subscribers)) == (4, 1)
    line.pool.end(0, value=1)
    line.run()  # its reply is on disk now, which makes room
    line.run()
    assert len(line.pool.taken) == 5
    after = kill(lives)
    for _ in range(19):
        after.run()
        for index, (_, future) in enumerate(after.pool.taken):
            if not future.done():
                after.pool.end(index, value=1)
    after.run()
    assert [state for _, state in ends(after)].count("failure") == 4
    assert len({uuid for uuid, _ in ends(after)}) == len(ends(after)) == 10
    assert (len(after.pool.taken), after.left()) == (5, 0)


def test_orders_that_take_their_time_hold_up_no_room_that_others_leave(
    lives: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four hang: the room of the fourth is used, also when no more may be open."""
    monkeypatch.setattr(router, "IN_FLIGHT_MAX", 6)
    line = lives[0]
    line.router._accepted.begun_max = 4
    for number in range(9):
        line.order(f"u{number}")
    for number in range(6):
        line.run()
        line.run()
        assert len(line.pool.taken) == 4 + number
        if number < 5:
            line.pool.end(3 + number, value=1)
    assert [uuid for uuid, _ in ends(line)] == [f"u{number}" for number in range(3, 8)]


class Misled(Action, frozen=True):
    when_interrupted = "perhaps"


@pytest.mark.parametrize("refused", [0, 30], ids=["run", "many refused"])
def test_an_order_that_ended_long_ago_is_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    """Whatever the two notes of it have forgotten by now, which they do at different times: it is
    a duplicate, or if it is too old for that an order like any; at a start as before it."""
    monkeypatch.setattr(Journal.__init__, "__defaults__", (10, DISK))
    for count in (9, 15, 19, 20, 21, 26, 35):
        folder = tmp_path / str(count)
        (folder / "in").mkdir(parents=True)
        notes = ledger.Ledger(folder / "in", folder / "out")
        run = [f"u{number}" for number in range(count)]
        for uuid in run:
            notes.note_begun([uuid])
            notes.jot_answered(uuid)
            notes.note_done([uuid])
        more = [f"r{number}" for number in range(refused)]
        for uuid in more:
            notes.note_done([uuid])
        notes = ledger.Ledger(folder / "in", folder / "out")
        assert [uuid for uuid in run if notes.is_begun(uuid)] == []
        assert [uuid for uuid in [*run, *more][-10:] if not notes.is_done(uuid)] == []


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Misled, "Misled.when_interrupted is 'perhaps', want 'fail' or 'run_again'"),
        (int, "cannot take orders 'x': got <class 'int'>, want a subclass of Action"),
        (Add(1), "want a subclass of Action"),
    ],
)
def test_a_policy_that_is_none_is_refused_when_the_router_is_made(
    tmp_path: Path, kind: Any, why: str
) -> None:
    """Not when the first order comes."""
    with pytest.raises(ValueError, match="cannot take orders 'x'") as error:
        Line(tmp_path, kinds={**KINDS, "x": kind})
    assert why in str(error.value)
