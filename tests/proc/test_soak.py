"""The short form of `benchmarks/soak.py`: the command itself, with 200 kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proc

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
KILLS = 200


@pytest.mark.timeout(600)
def test_200_random_kills_lose_one_attempt_each_at_most_and_leave_nothing_behind() -> None:
    """Four clients, SIGKILL, SIGSEGV and SIGSTOP, also in the middle of a write."""
    soak = subprocess.run(
        [sys.executable, "-P", str(SOAK), "--kills", str(KILLS), "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )

    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert f"seed 1: {KILLS} kills" in soak.stdout
    assert "every action accounted for exactly once, nothing grew" in soak.stdout
    assert "FAULT" not in soak.stdout
