"""What was done is known after any kill, and the file of it is bounded."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from memorydisk import Died, MemoryDisk

from fsmv2.communicator.spool.journal import Journal

FOLDER = Path("/spool")


def test_a_key_is_known_in_the_next_life(tmp_path: Path) -> None:
    """By its digest: no text of a user is in the file."""
    journal = Journal(tmp_path)
    journal.add(["one", "s3cret \ud800"])
    assert "one" in journal
    again = Journal(tmp_path)
    assert [key in again for key in ("one", "s3cret \ud800", "two")] == [True, True, False]
    (file,) = tmp_path.iterdir()
    assert b"s3cret" not in file.read_bytes()


def test_the_oldest_are_forgotten_and_the_file_stays_short(tmp_path: Path) -> None:
    """At most twice as many lines as keys."""
    journal = Journal(tmp_path, 10)
    for number in range(100):
        journal.add([str(number)])
        assert (tmp_path / ".done").stat().st_size <= 20 * 33
    again = Journal(tmp_path, 10)
    for each in (journal, again):
        assert [number for number in range(100) if str(number) in each] == list(range(90, 100))


@pytest.mark.parametrize("end", [b"", b"0123", b"\xff\xfe\x00", b"x" * 5000 + b"\n"])
def test_a_torn_or_foreign_end_costs_nothing_else(tmp_path: Path, end: bytes) -> None:
    """And the next key does not become a part of it."""
    Journal(tmp_path).add(["one", "two"])
    with (tmp_path / ".done").open("ab") as file:
        file.write(end)
    journal = Journal(tmp_path)
    journal.add(["three"])
    again = Journal(tmp_path)
    assert [key in again for key in ("one", "two", "three")] == [True, True, True]


def test_a_key_whose_first_try_found_no_space_is_known_after_the_second() -> None:
    """At any step; half a line that the first left is not a beginning of the second's."""
    failed = 0
    for fails_at in range(1, 60):
        disk = MemoryDisk()
        disk.fails_at = fails_at
        journal = Journal(FOLDER, 8, disk)
        known: list[str] = []
        for number in range(12):
            try:
                journal.add([str(number)])
            except OSError:
                failed += 1
                journal.add([str(number)])
            known.append(str(number))
            again = Journal(FOLDER, 8, disk)
            assert all(key in again for key in known[-8:]), f"step {fails_at}, key {number}"
    assert failed > 30


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
def test_added_keys_survive_death_at_any_step(power_cut: bool) -> None:
    """Seeded; also while the file is written anew."""
    for seed in range(300):
        rng = random.Random(seed)
        disk = MemoryDisk()
        known: list[str] = []
        for life in range(3):
            disk.steps_left = None
            journal = Journal(FOLDER, 8, disk)
            # Of eight, one a life may be a key whose `add` was cut short.
            assert all(key in journal for key in known[-6:]), f"seed {seed}"
            disk.steps_left = rng.randint(0, 40)
            with contextlib.suppress(Died):
                for number in range(20):
                    key = f"{life}.{number}"
                    journal.add([key])
                    known.append(key)
            disk.steps_left = None
            if power_cut:
                disk.power_cut(rng)


def test_a_jotted_key_survives_a_kill_at_any_step() -> None:
    """Also one whose `add` never came; and after that `add`, a power cut too."""
    for seed in range(300):
        rng = random.Random(seed)
        disk = MemoryDisk()
        Journal(FOLDER, 8, disk).add(["first"])
        jotted: list[str] = []
        added: list[str] = []
        disk.steps_left = rng.randint(0, 40)
        with contextlib.suppress(Died):
            journal = Journal(FOLDER, 8, disk)
            for number in range(20):
                journal.jot(str(number))
                jotted.append(str(number))
                if number % 3 == 2:
                    journal.add(jotted[-3:])
                    added = [*jotted]
        disk.steps_left = None
        # Eight are kept, and one may be a key whose jotting was cut short.
        again = Journal(FOLDER, 8, disk)
        assert all(key in again for key in jotted[-7:]), f"seed {seed}"
        if len(jotted) == len(added):  # what is jotted only may be lost, and the oldest are
            disk.power_cut(rng)
            again = Journal(FOLDER, 8, disk)
            assert all(key in again for key in added[-7:]), f"seed {seed}"


def test_what_is_jotted_is_written_once(tmp_path: Path) -> None:
    """The note that follows only syncs it."""
    journal = Journal(tmp_path)
    journal.add(["first"])
    journal.jot("second")
    journal.add(["second", "third"])
    assert len((tmp_path / ".done").read_bytes().splitlines()) == 3
    assert all(key in Journal(tmp_path) for key in ("first", "second", "third"))


def test_a_key_that_cannot_be_jotted_is_added_later() -> None:
    """At any step of a disk that fails once; half a line costs nothing."""
    for fails_at in range(1, 40):
        disk = MemoryDisk()
        journal = Journal(FOLDER, 8, disk)
        journal.add(["first"])
        disk.fails_at = disk.steps + fails_at
        for number in range(6):
            journal.jot(str(number))
            with contextlib.suppress(OSError):
                journal.add([str(number)])
        disk.fails_at = None
        journal.add(["last"])
        again = Journal(FOLDER, 8, disk)
        assert all(key in again for key in ("0", "1", "2", "3", "4", "5", "last")), fails_at


def test_forgotten_keys_leave_the_file_when_it_is_written_anew(tmp_path: Path) -> None:
    """A key that is not forgotten stays, however many came after it and went."""
    journal = Journal(tmp_path, 10, name=".begun", reads_all=True)
    journal.add(["stays"])
    for number in range(200):
        journal.add([str(number)])
        journal.forget([str(number)])
        assert "stays" in Journal(tmp_path, 10, name=".begun", reads_all=True)
    again = Journal(tmp_path, 10, name=".begun", reads_all=True)
    done = Journal(tmp_path, 1_000)
    done.add(map(str, range(200)))
    again.forget_known(done)
    assert (len(again), "stays" in again) == (1, True)
    again.tidy()
    assert (tmp_path / ".begun").stat().st_size == 33
    again.forget(["stays"])
    again.tidy()
    assert len(Journal(tmp_path, name=".begun")) == 0
