"""When procs are started without a template, and when one is tried again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsmv2.supervisor.core.events import Event, StartMethodChanged
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.pool.templatekeeper import FAILURES_MAX, RETURN_S, RETURN_S_MAX

NOW = 1_000.0


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def pool(tmp_path: Path, events: list[Event]) -> Iterator[Pool]:
    """Never started."""
    made = Pool(
        {"actions": 1},
        PoolOptions(),
        run_folder=str(tmp_path),
        on_result=lambda *_: None,
        on_event=events.append,
    )
    yield made
    made.nursery.oom.close()
    made.poller.close()


def test_a_template_that_fails_each_time_it_is_tried_is_tried_ever_more_rarely(
    pool: Pool, events: list[Event]
) -> None:
    """Else the way procs are started would change every few seconds, for ever."""
    keeper = pool.nursery.keeper
    waits = []
    for _ in range(14):
        keeper.template.failures = FAILURES_MAX
        keeper._failed("it dies", NOW)
        assert keeper.template.retry_at is not None
        waits.append(keeper.template.retry_at - NOW)
        keeper._use("template", "it is there again")
    assert RETURN_S / 2 < waits[0] <= RETURN_S
    growing = waits[:8]
    assert all(later > earlier * 1.5 for earlier, later in itertools.pairwise(growing))
    assert RETURN_S_MAX / 2 < waits[-1] <= RETURN_S_MAX
    told = [event.method for event in events if isinstance(event, StartMethodChanged)]
    assert told == ["spawn", "template"] * 14


def test_a_template_in_trouble_is_tried_at_once_until_it_is_done_without(pool: Pool) -> None:
    """A single death costs a moment."""
    keeper = pool.nursery.keeper
    keeper.template.retry_at = NOW + 0.1
    keeper.template.failures = FAILURES_MAX - 1
    keeper._failed("it dies", NOW)
    assert keeper.method == "template"
    assert keeper.template.retry_at == NOW + 0.1
