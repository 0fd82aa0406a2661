"""What a run says of itself at its end."""

from __future__ import annotations

from typing import Any

from fsmv2.supervisor.telemetry.summary import Summary


def text(**more: Any) -> str:
    told: dict[str, Any] = {
        "clean": False,
        "exit_code": 4,
        "ran_s": 3.0,
        "ticks": 9,
        "statuses": {"succeeded": 2, "cancelled": 1, "crashed": 1},
        "deaths": {
            ("s/a", "Hang", "cancelled", "cancelled"): 1,
            ("s/b", "Fall", "crashed", "crashed:SIGSEGV"): 1,
        },
        "restarts": 1,
        "proc_deaths": 1,
    }
    return Summary(**{**told, **more}).text()


def test_killed_and_crashed_actions_are_told_apart() -> None:
    assert "\nactions run: 4 (2 succeeded, 0 failed, 0 timed out, 1 crashed, 1 canc" in text()
    assert "\nkilled: 1, crashed: 1, worker restarts: 1\n" in text()


def test_killed_observations_are_told_beside_actions() -> None:
    told = text(observation_deaths={"timed_out": 2, "crashed": 1, "cancelled": 1})
    assert "\nkilled: 1 (and 3 observations), crashed: 1 (and 1 observation), worker" in told
