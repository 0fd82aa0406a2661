"""What `ops/coverage` counts, and when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proc

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal

def runs(number):
    if number:
        return "before the wait"
    return "never"

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

def waits():
    runs(1)
    read, write = os.pipe()
    os.write(write, b"x")
    os.read(read, 1)

if os.fork() == 0:
    waits()
    dies()
os.wait()
waits()
dies()
"""


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that is measured, as `ops/coverage` makes it."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "workerproc").mkdir()
    (tmp_path / "rc").write_text(
        f"[run]\nbranch = True\nparallel = True\ndata_file = {tmp_path}/data\n"
        f"plugins = measuring\nsource = {tmp_path}/workerproc\npatch = subprocess, execv\n"
        "disable_warnings = no-data-collected, module-not-measured, couldnt-parse\n"
    )
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        "PYTHONPATH": str(ROOT / "ops"),
        "COVERAGE_RCFILE": str(tmp_path / "rc"),
        "FSMV2_MEASURING_FOLDER": str(tmp_path / "kept"),
    }


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A Python process and what it said."""
    return subprocess.run(
        [sys.executable, *words],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_a_killed_process_did_counts_and_a_package_without_figures_is_a_failure(
    measured: dict[str, str], tmp_path: Path
) -> None:
    """Also what a fork of it did, that was killed as well."""
    program = tmp_path / "workerproc/killed.py"
    program.write_text(KILLED)
    killed = run(measured, "-m", "coverage", "run", str(program))
    assert (killed.returncode, killed.stderr) == (-9, "")

    kept, data = str(tmp_path / "kept"), str(tmp_path / "data")
    shown = run(measured, str(ROOT / "ops/measuring.py"), kept, data, "--missing", "--judged")

    assert shown.returncode == 1
    assert "2 processes kept figures while they ran" in shown.stderr
    assert "coverage: ipc: got no figures" in shown.stderr
    assert "coverage: workerproc: got " in shown.stderr
    [lines] = [line for line in shown.stdout.splitlines() if "killed.py" in line]
    missing = lines.rpartition("%")[2].replace(",", "").split()
    never = KILLED.splitlines().index('    return "never"') + 1
    dies = KILLED.splitlines().index("    os.kill(os.getpid(), signal.SIGKILL)") + 1
    assert str(never) in missing
    assert str(dies) in missing, "after the last wait"
    assert len(missing) <= 4


def test_a_run_that_kept_nothing_is_a_failure(measured: dict[str, str], tmp_path: Path) -> None:
    shown = run(measured, str(ROOT / "ops/measuring.py"), str(tmp_path / "kept"), "data")
    assert shown.returncode == 1
    assert "got no figures of processes that are killed" in shown.stderr
