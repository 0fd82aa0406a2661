"""Results left in files: nothing a proc puts in a file's place is waited for or believed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fsmv2.ipc.codec import encode
from fsmv2.supervisor import Action, ActionContext
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.pool import spill
from fsmv2.supervisor.pool.kinds import ActionKind


class Text(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> str:
        return ""


class Parts:
    """As much of a pool, a proc and an attempt as a spilled result concerns."""

    def __init__(self, folder: Path) -> None:
        self.run_folder = str(folder)
        self.options = self
        self.result_bytes_max = 1_000
        self.slot, self.pid = "p1", 7
        self.id = 3
        self.kind = ActionKind(Text)
        self.secrets = lambda: ("hunter22",)
        self.scratch = Path(spill.scratch_of(self.run_folder, cast(Any, self)))
        self.scratch.mkdir()
        self.path = self.scratch / "spill-3"

    def open(self, size: int) -> spill.SpilledValue:
        part = cast(Any, self)
        return spill.open_spilled(part, part, part, size)


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    before = len(open_files())
    yield Parts(tmp_path)
    assert len(open_files()) == before, "a descriptor was left open"


def result(value: object) -> ActionResult:
    return ActionResult(status="succeeded", action_type="Text", attempt_id=3, value=value)


def test_a_spilled_value_is_taken_over_and_its_file_has_no_name_any_more(parts: Parts) -> None:
    """Whoever wants the value reads it, later."""
    data = encode("x" * 500)
    parts.path.write_bytes(data)
    value = parts.open(len(data))
    assert os.listdir(parts.scratch) == []
    assert repr(value) == f"<SpilledValue {len(data)} bytes of Text>"
    loaded = spill.load(result(value))
    assert (loaded.status, loaded.value) == ("succeeded", "x" * 500)


def test_loading_what_was_not_spilled_changes_nothing() -> None:
    """Most results are there already."""
    plain = result("small")
    assert spill.load(plain) is plain


def test_a_value_that_is_dropped_closes_its_file(parts: Parts) -> None:
    """Also twice, and also when nobody drops it by name."""
    parts.path.write_bytes(b"12345")
    value = parts.open(5)
    value.drop()
    value.drop()
    parts.path.write_bytes(b"12345")
    del value
    parts.open(5)


def test_a_value_can_be_loaded_once(parts: Parts) -> None:
    """Its file is closed then: the second asks for something that is gone, and is told so."""
    data = encode("once")
    parts.path.write_bytes(data)
    spilled = result(parts.open(len(data)))
    assert spill.load(spilled).value == "once"
    again = spill.load(spilled)
    assert again.status == "failed"
    assert again.error is not None
    assert again.error.type == "ResultLost"


def test_a_value_of_another_type_is_a_failure_that_says_the_annotation(parts: Parts) -> None:
    """As for a value in a frame."""
    data = encode(5)
    parts.path.write_bytes(data)
    loaded = spill.load(result(parts.open(len(data))))
    assert (loaded.status, loaded.value) == ("failed", None)
    assert loaded.error is not None
    assert loaded.error.type == "ResultTypeError"
    assert "Text.execute returned something else" in loaded.error.message


@pytest.mark.parametrize("size", [0, 4, 6, 1_000])
def test_a_file_of_another_size_than_was_said_is_not_taken(parts: Parts, size: int) -> None:
    """Neither shorter nor longer; and it is gone."""
    parts.path.write_bytes(b"12345")
    with pytest.raises(OSError, match=f"got a file of 5 bytes, want a plain one of {size} bytes"):
        parts.open(size)
    assert os.listdir(parts.scratch) == []


def test_a_value_over_the_cap_is_not_even_opened(parts: Parts) -> None:
    """Whatever the proc says."""
    parts.path.write_bytes(b"x" * 1_001)
    with pytest.raises(OSError, match="got 1001 bytes, want at most 1000 bytes"):
        parts.open(1_001)


def test_a_file_that_is_not_there_is_told(parts: Parts) -> None:
    """The proc may have been wrong."""
    with pytest.raises(FileNotFoundError):
        parts.open(5)


def test_a_link_is_not_followed(parts: Parts, tmp_path: Path) -> None:
    """It could lead to any file of the root's; that one stays."""
    target = tmp_path / "precious"
    target.write_bytes(b"12345")
    parts.path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        parts.open(5)
    assert target.read_bytes() == b"12345"


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_nothing_but_a_file_is_taken_and_nobody_waits_for_it(parts: Parts, kind: str) -> None:
    """Opening a pipe that nobody writes to would wait for ever."""
    if kind == "pipe":
        os.mkfifo(parts.path)
    else:
        parts.path.mkdir()
    failed: list[OSError] = []

    def take() -> None:
        try:
            parts.open(5)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert len(failed) == 1


def test_a_file_that_shrinks_after_it_was_taken_is_a_lost_result(parts: Parts) -> None:
    """The proc may still hold it open."""
    data = encode("x" * 100)
    parts.path.write_bytes(data)
    with parts.path.open("r+b") as theirs:
        value = parts.open(len(data))
        theirs.truncate(10)
    loaded = spill.load(result(value))
    assert loaded.status == "failed"
    assert loaded.error is not None
    assert loaded.error.type == "ResultLost"
    assert f"got 10 bytes, want {len(data)} bytes" in loaded.error.message


def test_a_file_that_grows_after_it_was_taken_is_read_as_far_as_was_said(parts: Parts) -> None:
    """Not one byte more."""
    data = encode("x" * 100)
    parts.path.write_bytes(data)
    with parts.path.open("ab") as theirs:
        value = parts.open(len(data))
        theirs.write(b"y" * 10_000)
    assert spill.load(result(value)).value == "x" * 100


def test_a_read_that_ctrl_c_breaks_off_loses_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks again has the value."""
    data = encode("x" * 500)
    parts.path.write_bytes(data)
    value = parts.open(len(data))

    def broken_off(*_args: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", broken_off)
        with pytest.raises(KeyboardInterrupt):
            value.take()
    assert value.take() == "x" * 500
