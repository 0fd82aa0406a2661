"""Folders that actions have filled go away, whatever is in them, a portion at a time."""

from __future__ import annotations

import os
from pathlib import Path

from fsmv2.supervisor.system.removal import Removal


def run_to_the_end(removal: Removal) -> int:
    """How many calls it took."""
    calls = 1
    while removal.go_on(50):
        calls += 1
        assert calls < 1_000, "it does not end"
    return calls


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    """Deeper than Python's recursion limit, too."""
    top, here = tmp_path / "scratch", os.getcwd()
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(3_000):
            os.mkdir("folder")
            os.chdir("folder")
        Path("file").touch()
    finally:
        os.chdir(here)
    removal = Removal(str(tmp_path))
    removal.add(str(top))
    assert not top.exists()
    run_to_the_end(removal)
    assert os.listdir(tmp_path / "removed") == []


def test_no_call_removes_more_than_it_was_told(tmp_path: Path) -> None:
    """What is left is removed by the next ones."""
    top = tmp_path / "scratch"
    top.mkdir()
    for number in range(120):
        (top / str(number)).touch()
    removal = Removal(str(tmp_path))
    removal.add(str(top))
    assert removal.go_on(50)
    assert len(os.listdir(tmp_path / "removed" / "0")) == 70
    run_to_the_end(removal)
    assert os.listdir(tmp_path / "removed") == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """Nor is a folder a reason to stop that its action has closed to itself."""
    top, other = tmp_path / "scratch", tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    (top / "closed").mkdir(parents=True)
    (top / "closed" / "file").touch()
    (top / "closed").chmod(0)
    (top / "link").symlink_to(other)
    removal = Removal(str(tmp_path))
    removal.add(str(top))
    run_to_the_end(removal)
    assert (other / "kept").exists()
    assert os.listdir(tmp_path / "removed") == []


def test_a_folder_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    """Most procs never make one."""
    removal = Removal(str(tmp_path))
    removal.add(str(tmp_path / "scratch"))
    assert not removal.go_on()
