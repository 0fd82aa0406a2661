"""`ActionContext` as a running action finds it: extensions, heartbeats, its libraries' records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import limited_actions as limited
import pytest
from driving import Driven, driven
from running import until

from fsmv2.supervisor import Secret
from fsmv2.supervisor.core.events import ActionLogged
from fsmv2.workerproc.records import RECORDS_MAX

pytestmark = pytest.mark.proc


@pytest.fixture(scope="module")
def shared() -> Iterator[Driven]:
    with driven({"actions": 1}, spares=0, preload=("limited_actions",)) as made:
        yield made


def test_extension_adds_what_was_asked_for_up_to_the_ceiling(shared: Driven) -> None:
    before, after, later, took = shared.run(limited.ExtendTo(10.0)).value
    assert 10.0 - took <= after - before <= 10.0
    assert later <= after

    before, after, _, took = shared.run(limited.ExtendTo(1000.0)).value
    assert 30.0 - took <= after - before <= 30.0


def test_extension_that_is_no_number_of_seconds_is_refused_and_without_a_ceiling_nothing_is_added(
    shared: Driven,
) -> None:
    *refused, added = shared.run(limited.ExtendBadly()).value
    assert len(refused) == 5
    assert all("want a finite number of seconds" in text for text in refused)
    assert added == "added False"


def test_thread_that_an_action_left_behind_moves_nothing_of_the_next(
    shared: Driven, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    assert shared.run(limited.LogAfterwards(str(go))).succeeded
    attempt = shared.submit(limited.WaitFor(f"{go}.done"))
    shared.until(lambda: shared.pool.in_flight(attempt).proc is not None, "at work")  # type: ignore[union-attr]
    proc = shared.pool.in_flight(attempt).proc  # type: ignore[union-attr]
    shared.until(lambda: proc.page.extension_of(attempt) == 20.0, "extended")
    beaten_at = proc.page.heartbeat_at()

    go.touch()
    until(lambda: Path(f"{go}.done").exists(), "the thread has spoken")

    assert proc.page.heartbeat_at() == beaten_at
    assert proc.page.extension_of(attempt) == 20.0
    assert shared.result(attempt).value <= 80.0


def records_of(made: Driven, attempt: int) -> list[tuple[str, str, dict[str, object]]]:
    return [
        (event.record_level, event.record, event.fields)
        for event in made.heard(ActionLogged)
        if event.attempt_id == attempt
    ]


def test_what_libraries_log_arrives_from_warning_up_with_secrets_replaced(shared: Driven) -> None:
    attempt = shared.submit(limited.LogLibrary(Secret("hunter2-hunter2")))
    assert shared.result(attempt).succeeded

    records = records_of(shared, attempt)
    assert [level for level, _, _ in records] == ["warning", "error"]
    assert "warned 0 about" in records[0][1]
    assert "some.library" in repr(records[0])
    assert "KeyError" in repr(records[1])
    assert "hunter2" not in repr(records)


def test_library_that_logs_without_end_is_cut_off_at_a_thousand_records(shared: Driven) -> None:
    attempt = shared.submit(limited.LogLibrary(Secret("hunter2-hunter2"), RECORDS_MAX + 50))
    assert shared.result(attempt).succeeded

    assert len(records_of(shared, attempt)) in (RECORDS_MAX, RECORDS_MAX + 1)
