"""Which action type an operator means who releases one from quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fsmv2.ipc.messages import CommandAnswered, ReleaseType
from fsmv2.supervisor import Action, ActionContext
from fsmv2.supervisor.commands import Commands
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.quarantine import Record
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.pool.poolstatistics import pool_statistics


def action_of(module: str, name: str) -> type[Action]:
    """An action type as if ``module`` had it at its top level."""

    class Made(Action, frozen=True):
        def execute(self, ctx: ActionContext) -> None:
            """Never run."""

    Made.__module__, Made.__name__, Made.__qualname__ = module, name, name
    return Made


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Never started; three types are in quarantine and one is not."""
    made = Pool({"actions": 1}, PoolOptions(), run_folder=str(tmp_path), on_result=lambda *_: None)
    for module, name in (("one", "Flip"), ("two", "Flip"), ("one", "Flop")):
        made.kinds[action_of(module, name)].record = Record(since=0.0, deaths=(0.0,), failures=1)
    _ = made.kinds[action_of("three", "Flip")]
    yield made
    made.nursery.oom.close()
    made.poller.close()


def shown(pool: Pool) -> list[str]:
    return list(pool_statistics(pool)["quarantined"])


def test_types_of_one_name_are_shown_by_module_and_released_one_by_one(pool: Pool) -> None:
    assert shown(pool) == ["one:Flip", "two:Flip", "Flop"]
    assert pool.release("two:Flip")
    assert shown(pool) == ["Flip", "Flop"], "there is no other of that name now"
    assert pool.release("Flip")
    assert not pool.release("Flip")
    assert not pool.release("three:Flip"), "it was never kept apart"
    assert pool.release("one:Flop"), "the long form is always good"
    assert shown(pool) == []


def test_a_name_that_means_several_releases_none_and_lists_them(pool: Pool) -> None:
    with pytest.raises(SpecError, match=r"want one of one:Flip, two:Flip$"):
        pool.release("Flip")
    assert shown(pool) == ["one:Flip", "two:Flip", "Flop"]

    answers: list[CommandAnswered] = []
    reloader: Any = None  # it is not asked
    unused: Any = None
    Commands(pool, reloader, unused, lambda event: None).carry_out(
        ReleaseType(1, "there", "Flip"), answers.append
    )
    [answer] = answers
    assert answer.outcome == "ambiguous"
    assert answer.detail.endswith("want one of one:Flip, two:Flip")


def test_the_page_shows_all_that_is_known_of_a_type_and_how_to_release_it(pool: Pool) -> None:
    """Deaths, their cause, until when; each figure by the name under which it is published."""
    script = (files("fsmv2.supervisor") / "web" / "page.js").read_text()
    record = pool_statistics(pool)["quarantined"]["Flop"]
    assert set(record) == {"verdict", "deaths", "held", "quarantined_s", "retry_in_s"}
    shown_here = script.partition("function showQuarantine(")[2].partition("\n}\n")[0]
    assert [name for name in record if name not in shown_here] == []
    assert "`fsmv2 release ${name} --http ${location.host}`" in shown_here
    assert "showQuarantine(pool.quarantined" in script
