"""The short forms of the soaks of `benchmarks/`: the commands themselves, with fewer kills."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proc

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
KILLS = 200
RELAY_KILLS, RELAY_SEEDS = 12, 3


def run(name: str, kills: int, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [sys.executable, "-P", str(BENCHMARKS / name), "--kills", str(kills), "--seed", "1", *more],
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )


@pytest.mark.timeout(600)
def test_200_random_kills_lose_one_attempt_each_at_most_and_leave_nothing_behind() -> None:
    """Four clients, SIGKILL, SIGSEGV and SIGSTOP, also in the middle of a write."""
    soak = run("soak.py", KILLS)

    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert f"seed 1: {KILLS} kills" in soak.stdout
    assert "every action accounted for exactly once, nothing grew" in soak.stdout
    assert "FAULT" not in soak.stdout


@pytest.mark.timeout(600)
def test_random_kills_of_a_communicator_lose_no_message() -> None:
    """Scenario 41 of the communicator: its procs, its template, its supervisor, in any moment."""
    soak = run("communicator_soak.py", RELAY_KILLS, "--seeds", str(RELAY_SEEDS))

    assert soak.returncode == 0, soak.stdout + soak.stderr
    told = re.findall(
        rf"{RELAY_KILLS} kills \((\d+) of the supervisor; (\d+) found a request", soak.stdout
    )
    assert len(told) == RELAY_SEEDS
    of_the_supervisor, under_way = (sum(map(int, each)) for each in zip(*told, strict=True))
    assert of_the_supervisor >= 1
    assert under_way >= 2
    assert "FAULT" not in soak.stdout
