"""What a pool as a library refuses before it starts anything."""

from __future__ import annotations

from typing import Any

import pytest

from fsmv2.supervisor import Action, ActionContext, ActionPool
from fsmv2.supervisor.core.errors import FsmError, SpecError


class Nothing(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"procs": 0}, "procs is 0, want a whole number from 1 up"),
        ({"procs": 2.5}, "procs is 2.5"),
        ({"lanes": {"conversions": -1}}, r"lanes\['conversions'\] is -1"),
        ({"spares": -1}, "spares is -1"),
        ({"queue": "many"}, "Expected `int`, got `str` - at `.*queue`"),
        ({"pipeline": 0}, "pipeline is 0, want a whole number from 1 up"),
        ({"starts_per_s": 0.0}, "starts_per_s is 0.0, want more than 0"),
        ({"start_method": "forkserver"}, "forkserver"),
        ({"recycling": 5}, "recycling"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    """A pool without procs would keep everybody waiting; one of no known start method would
    take another."""
    with pytest.raises(SpecError, match=says):
        ActionPool(**options)


def test_a_pool_that_was_not_started_says_so() -> None:
    """Not an error about attributes it has not got yet."""
    pool = ActionPool(procs=1)
    try:
        for use in (lambda: pool.submit(Nothing()), lambda: pool.run(Nothing()), pool.statistics):
            with pytest.raises(FsmError, match="it was not started"):
                use()
    finally:
        pool.close()
    assert pool.run(Nothing()).status == "refused"
