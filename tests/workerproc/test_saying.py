"""What a running action and its libraries say: how it leaves the proc, when it does not, and that
saying something never fails the action."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.messages import FromProc, Logged, Progress
from fsmv2.ipc.page import Page, create_page
from fsmv2.workerproc.context import LATER_MAX, TEXT_CHARS_MAX, Context, Surroundings
from fsmv2.workerproc.records import RECORDS_MAX, RecordShipper, install, shipper


class Proc:
    """What a proc has of it: ``said`` are the frames that left."""

    def __init__(self, scratch: Path) -> None:
        self.said: list[Any] = []
        self.page = Page(create_page("p1"))
        self.surroundings = Surroundings(self.page, self.said.append, scratch, os.getpid())
        self.context = Context(self.surroundings, 7, SimpleNamespace(timeout_s_max=None), 0.0, 1.0)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """One that runs attempt 7."""
    return Proc(tmp_path / "scratch")


@pytest.fixture
def shipping(proc: Proc) -> Iterator[logging.Logger]:
    """A logger whose records the proc ships."""
    handler = RecordShipper()
    handler.context = proc.context
    logger = logging.Logger("lib.part")
    logger.addHandler(handler)
    yield logger
    handler.context = None


# --- the action itself ----------------------------------------------------------------------


def test_what_is_said_is_cut_and_carries_the_attempt(proc: Proc) -> None:
    proc.context.progress("half" * TEXT_CHARS_MAX)
    proc.context.log("big", number=1 << 63, small=5, real=1.5, none=None, thing=["x"])
    progress, logged = proc.said
    assert (progress.attempt_id, len(progress.text)) == (7, TEXT_CHARS_MAX)
    told = {"number": str(1 << 63), "small": 5, "real": 1.5, "none": None, "thing": "['x']"}
    assert logged == Logged(7, "info", "big", told)


def test_a_name_that_is_no_utf_8_is_said_all_the_same(proc: Proc) -> None:
    """Of a file, say (PEP 383): as a text, as a field's value, as its name; each fits a frame."""
    name = os.fsdecode(b"a\xff.json")
    proc.context.progress(name)
    proc.context.log(name, "info", **{name: name})
    progress, logged = [decode(encode(each), FromProc) for each in proc.said]
    assert progress.text == logged.event == r"a\udcff.json"
    assert logged.fields == {r"a\udcff.json": r"a\udcff.json"}


def test_a_level_that_is_none_is_refused(proc: Proc) -> None:
    with pytest.raises(ValueError, match="level is 'loud', want one of debug, info, warning, err"):
        proc.context.log("x", "loud")
    assert proc.said == []


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), True, "3"])
def test_more_time_than_a_number_of_seconds_is_refused(seconds: Any, proc: Proc) -> None:
    with pytest.raises(ValueError, match="cannot extend: got"):
        proc.context.extend(seconds)


def test_what_is_said_while_saying_something_comes_after_it(proc: Proc) -> None:
    """A signal handler, or a finalizer, in the middle of it: neither waits for itself, and of very
    many the last are kept."""

    def send(message: Any) -> None:
        if not proc.said:
            for number in range(LATER_MAX + 5):
                proc.context.progress(f"inner {number}")
        proc.said.append(message)

    proc.surroundings.send = send
    proc.context.log("outer")
    outer, *inner = proc.said
    assert outer.event == "outer"
    assert [one.text for one in inner] == [f"inner {i}" for i in range(5, LATER_MAX + 5)]
    proc.context.progress("after")
    assert proc.said[-1] == Progress(7, "after")


def test_a_child_that_the_action_forked_prints_instead(
    proc: Proc, capsys: pytest.CaptureFixture[str]
) -> None:
    proc.surroundings.pid = 1
    proc.context.progress("half")
    proc.context.log("an event")
    assert proc.said == []
    assert capsys.readouterr().err == "half\nan event\n"


def test_a_scratch_folder_that_cannot_be_made_is_one_elsewhere(proc: Proc, tmp_path: Path) -> None:
    """The same for all attempts of the proc; a new one when somebody has removed it."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    proc.surroundings.scratch_root = in_the_way / "scratch"
    first = proc.context.scratch
    assert first.is_dir()
    assert proc.context.scratch == first
    first.rmdir()
    second = proc.context.scratch
    assert second.is_dir()
    second.rmdir()
    proc.surroundings.scratch_root = tmp_path / "a/b"
    assert proc.context.scratch == tmp_path / "a/b"
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700


# --- its libraries --------------------------------------------------------------------------


def test_a_record_is_shipped_with_logger_line_level_and_trace(
    proc: Proc, shipping: logging.Logger
) -> None:
    shipping.info("below what is shipped")
    shipping.warning("watch %s", "out")
    try:
        raise KeyError("gone")
    except KeyError:
        shipping.exception("failed")
    watch, failed = proc.said
    assert (watch.level, watch.event, watch.fields["logger"]) == (
        "warning",
        "watch out",
        "lib.part",
    )
    assert watch.fields["line"].startswith("test_saying.py:")
    assert failed.level == "error"
    assert failed.fields["exception"].rstrip().endswith("KeyError: 'gone'")


def test_an_attempt_ships_so_many_records_and_says_once_that_there_were_more(
    proc: Proc, shipping: logging.Logger
) -> None:
    for number in range(RECORDS_MAX + 10):
        shipping.warning("record %d", number)
    assert len(proc.said) == RECORDS_MAX + 1
    assert proc.said[-1].event == "too many log records"
    assert proc.said[-1].fields == {"shipped": RECORDS_MAX}


def test_a_record_that_logs_while_it_is_told_does_not_go_round(
    proc: Proc, shipping: logging.Logger
) -> None:
    class Chatty:
        def __str__(self) -> str:
            shipping.warning("from inside")
            return "chatty"

    shipping.warning("%s", Chatty())
    assert [one.event for one in proc.said] == ["chatty"]


def test_a_record_that_cannot_be_made_costs_the_action_nothing(
    proc: Proc, shipping: logging.Logger
) -> None:
    shipping.warning("%d", "no number")
    shipping.warning("and on")
    assert [one.event for one in proc.said] == ["and on"]


def test_between_actions_a_record_takes_the_usual_way(
    proc: Proc, shipping: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does one of a child that the action forked: the channel is not its own."""
    kept: list[str] = []
    last = SimpleNamespace(handle=lambda record: kept.append(record.getMessage()))
    monkeypatch.setattr(logging, "lastResort", last)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    [handler] = shipping.handlers
    assert isinstance(handler, RecordShipper)
    handler.context = None
    shipping.error("nobody runs")
    handler.context, handler.pid = proc.context, 1
    shipping.error("of a child")
    assert (kept, proc.said) == (["nobody runs", "of a child"], [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    shipping.error("a user's handler has told it")
    assert len(kept) == 2


def test_the_shipper_sits_above_the_root_logger_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "parent", None)
    monkeypatch.setattr(shipper, "pid", 0)
    names = set(logging.Logger.manager.loggerDict)
    install()
    above = root.parent
    install()
    assert root.parent is above
    assert above is not None
    assert (above.handlers, shipper.pid) == ([shipper], os.getpid())
    assert set(logging.Logger.manager.loggerDict) == names
