"""Where an action finds room for its files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from fsmv2.workerproc.context import Context, Surroundings


def context(scratch_root: Path) -> Context:
    """Of one attempt; nothing is sent."""
    nothing: Any = None
    surroundings = Surroundings(nothing, nothing, scratch_root, 0)
    return Context(surroundings, 1, nothing, 0.0, 1.0)


def test_an_action_has_one_folder_also_where_the_run_folder_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes to ``ctx.scratch / "a"`` it must find there again, and so may the next
    attempt of its proc."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "scratch"
    first, second = context(root), context(root)
    folder = first.scratch
    assert folder.is_dir()
    assert folder.parent == tmp_path
    assert {first.scratch, first.scratch, second.scratch} == {folder}
    assert context(tmp_path / "file" / "other").scratch != folder

    folder.rmdir()
    assert first.scratch.is_dir(), "somebody has tidied up"


def test_the_run_folder_is_used_where_it_can_be(tmp_path: Path) -> None:
    """Whoever made it removes it."""
    made = context(tmp_path / "run" / "scratch").scratch
    assert made == tmp_path / "run" / "scratch"
    assert made.is_dir()
