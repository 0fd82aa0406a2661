"""Last replies on their way: a kill at any step leaves an order with the end that it may have been
told, and no other."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from memorydisk import Died, MemoryDisk
from playedline import Line

from fsmv2.communicator import spool
from fsmv2.communicator.spool import answers
from fsmv2.communicator.spool.answers import Answers
from fsmv2.communicator.switchboard import outbound
from fsmv2.communicator.switchboard.ledger import Ledger
from fsmv2.communicator.transport.codec import encode_content

FOLDER = Path("/spool")


def test_an_answer_that_was_kept_is_there_after_death_at_any_step() -> None:
    """Whole; one that was dropped is gone, but for a power cut; a torn one is none."""
    for seed in range(300):
        rng = random.Random(seed)
        disk = MemoryDisk()
        kept: dict[str, bytes] = {}
        disk.steps_left = rng.randint(0, 60)
        with contextlib.suppress(Died):
            mine = Answers(FOLDER, disk)
            for number in range(20):
                key, line = f"k\ud800{number}", b'{"n":%d}' % number
                mine.keep(key, line)
                mine.keep(key, b"another")
                kept[key] = line
                if rng.random() < 0.4:
                    gone = rng.sample(sorted(kept), rng.randint(1, len(kept)))
                    for each in gone:
                        del kept[each]
                    mine.drop(gone)
        disk.steps_left = None
        found = set(Answers(FOLDER, disk).lines())
        assert found >= set(kept.values()), f"seed {seed}"
        disk.power_cut(rng)
        for line in Answers(FOLDER, disk).lines():
            assert line.startswith(b'{"n":'), f"seed {seed}"
            assert line.endswith(b"}"), f"seed {seed}"


def test_a_full_disk_is_told_and_the_answer_kept_by_the_next() -> None:
    """At any step; half a line that it left is not the beginning of the next one."""
    told = 0
    for fails_at in range(1, 20):
        disk = MemoryDisk()
        disk.fails_at = fails_at
        mine = Answers(FOLDER, disk)
        for number in range(6):
            try:
                mine.keep(str(number), b"%d" % number)
            except OSError:
                told += 1
        disk.fails_at = None
        mine.keep("last", b"last")
        assert Answers(FOLDER, disk).lines() == [b"0", b"1", b"2", b"3", b"4", b"5", b"last"]
    assert told > 5


def test_an_answer_that_found_no_space_is_kept_by_its_second_try() -> None:
    """Its group is written again as soon as there is space, and it is told again before that."""
    for fails_at in range(1, 4):
        disk = MemoryDisk()
        Answers(FOLDER, disk).keep("first", b"1")
        mine = Answers(FOLDER, disk)
        disk.fails_at = disk.steps + fails_at
        with contextlib.suppress(OSError):
            mine.keep("second", b"2")
        disk.fails_at = None
        mine.keep("second", b"2")
        assert Answers(FOLDER, disk).lines() == [b"1", b"2"]


def test_the_file_is_bounded_and_nothing_stays_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old answers are nobody's to find; one that stays is written along."""
    monkeypatch.setattr(answers, "FILE_BYTES_MAX", 1_000)
    mine = Answers(tmp_path)
    mine.keep("stays", b"stays")
    for number in range(100):
        mine.keep(str(number), b"x" * 90)
        mine.drop([str(number)])
        assert (tmp_path / ".answers").stat().st_size <= 1_200
    assert Answers(tmp_path).lines() == [b"stays"]
    mine.drop(["stays"])
    assert (tmp_path / ".answers").stat().st_size == 0
    assert "stays" not in repr(mine)


def ends(line: Line) -> list[tuple[str, str]]:
    return [(p["actionUUID"], s) for s, p in line.replies() if s in ("success", "failure")]


@pytest.mark.parametrize("kind", ["add", "again"])
@pytest.mark.parametrize("pushed", [False, True])
def test_a_kill_between_a_last_reply_and_its_note_repeats_that_reply_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, pushed: bool
) -> None:
    """The push may be so quick that the reply is gone again: then the very same is sent once more,
    which a relay can tell; never another end, and nothing is run again."""
    line = Line(tmp_path)
    line.order(kind=kind)
    line.run()
    with monkeypatch.context() as patch:
        patch.setattr(line.router._replies, "_on_answered", lambda one: None)
        line.pool.end(value=2)
        assert line.outbound.flush(20)
    first = [one.message for one in spool.outgoing(tmp_path / "out", 99, 1 << 20)[0]]
    if pushed:
        spool.acknowledge(spool.outgoing(tmp_path / "out", 99, 1 << 20)[0])
    line.router.abandon()
    line.outbound.close()
    after = Line(tmp_path)
    after.run()
    found = [one.message for one in spool.outgoing(tmp_path / "out", 99, 1 << 20)[0]]
    assert found == (first[-1:] if pushed else first)
    assert (ends(after), after.pool.taken, after.left()) == ([("u1", "success")], [], 0)
    assert (tmp_path / "in" / ".answers").read_bytes() == b""
    after.outbound.close()


@pytest.mark.parametrize("kind", ["add", "again", "fly"])
def test_a_kill_before_a_last_reply_is_written_sends_the_one_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Kept and not in the outbox: whether it was pushed nobody knows, so it is the one end."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    line = Line(tmp_path)
    line.order(kind=kind)
    with monkeypatch.context() as patch:
        patch.setattr(outbound, "append", killed)
        patch.setattr(line.outbound, "_run", lambda: None)
        line.outbound.close()
        line.outbound._closing = False
        while line.router.step():
            pass
        if line.pool.taken:
            line.pool.end(value=2)
        with pytest.raises(Killed):
            line.outbound._write(line.outbound._group())
    after = Line(tmp_path)
    after.run()
    want = "failure" if kind == "fly" else "success"
    assert (ends(after), after.pool.taken, after.left()) == ([("u1", want)], [], 0)
    after.outbound.close()


def test_what_is_read_at_a_start_is_bounded_to_what_may_be_open(tmp_path: Path) -> None:
    """More answers than a segment holds are sent again in several, and noted."""
    bodies = [
        {"actionType": "fly", "actionUUID": f"u{number}", "actionPayload": {}}
        for number in range(250)
    ]
    contents = [encode_content("action", body) for body in bodies]
    other = Line(tmp_path / "other")
    other.send(*contents)
    other.run()
    other.outbound.close()
    kept = Answers(tmp_path / "in")
    line = Line(tmp_path)
    line.outbound.close()
    line.send(*contents)
    for one in spool.outgoing(tmp_path / "other" / "out", 999, 1 << 30)[0]:
        kept.keep(f"{one.path.name}-{one.index}", spool.encode(one.message))
    ledger = Ledger(tmp_path / "in", tmp_path / "out")
    assert all(ledger.is_done(f"u{number}") for number in range(250))
    assert len(ends(line)) == 250
