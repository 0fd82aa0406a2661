"""The benchmarks run, and the soak's short form holds: every action once, nothing grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proc

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end."""
    return subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / script), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def test_soak_of_200_kills_accounts_for_every_action_and_nothing_grows() -> None:
    done = run("soak.py", "--kills", "200", "--seed", "20")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 kills" in done.stdout
    assert "every action accounted for exactly once, nothing grew" in done.stdout


def test_benchmark_of_pools_measures_ours_and_compares_with_the_targets(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = run("pools.py", "--quick", "--only", "fsmv2,ProcessPoolExecutor", "--json", str(file))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "no-op round trip p50" in done.stdout
    figures = json.loads(file.read_text())
    assert figures


def test_benchmark_of_kills_prints_its_three_figures() -> None:
    done = run("kill.py", "--kills", "3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:]] == [
        "slot back",
        "next begins",
        "next is told",
    ]


def test_benchmark_of_ticks_runs_actions_and_prints_its_three_rows(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = run("tick.py", "--seconds", "2", "--json", str(file))

    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert figures["nodes"] == 101
    assert figures["succeeded"] > 0
    assert all(figures[row]["count"] > 0 for row in ("bring_up_ms", "tick_ms", "enqueue_ms"))
