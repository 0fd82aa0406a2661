"""Observation, policies and actions from outside with real procs and a real root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from running import PATIENCE_S, SUPPORT, Running, until


def write(tmp_path: Path, kind: str, more: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"name: site\nplugins: [policy_actions]\npool: {{procs: 2}}\n{more}"
        f"workers:\n  - {{name: w, type: {kind}, config: {{path: {tmp_path}/mark}}}}\n"
    )
    return path


def test_a_probe_that_hangs_in_its_proc_is_killed_and_the_worker_sees_again(tmp_path: Path) -> None:
    """V6, scenario 86: the first look hangs and is deaf; its proc is killed when it counts as dead,
    and the next look brings the news. The worker is not removed."""
    more = "observation: {stale_s: 0.5, dead_s: 1, intervals: {watched: 0.1}}\n"
    with Running(write(tmp_path, "watched", more)) as root:
        until(lambda: root.records("observation_recovered"), "it is observed again")
        until(lambda: root.phases().get("site/w") == "running", "it runs")
        assert root.records("probe_restarted")[0]["restart"] == 1
        assert root.records("worker_removed") == []
        assert root.end() == 0


def test_timeout_and_grace_of_the_config_hold_in_the_proc(tmp_path: Path) -> None:
    """Scenario 94: the class says an hour and no grace; the config half a second, and time to
    clean up: it hears of its end, and returns."""
    more = "log: {level: debug}\nactions: {Patient: {timeout_s: 0.5, grace_s: 20}}\n"
    with Running(write(tmp_path, "patient", more)) as root:
        ended = until(lambda: root.records("action_ended"), "the action ends")[0]
        assert ended["status"] == "succeeded"
        assert 0.5 <= ended["ran_s"] < 10
        assert root.end() == 0


def test_an_action_from_outside_runs_in_a_proc_and_answers(tmp_path: Path) -> None:
    """A program of its own, whose listener asks for five and for one that nobody can take."""
    env = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    env.pop("PROMETHEUS_MULTIPROC_DIR", None)
    done = subprocess.run(
        [sys.executable, "-P", str(SUPPORT / "policy_actions.py")],
        capture_output=True, text=True, timeout=PATIENCE_S, env=env, cwd=tmp_path, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == [
        ["site/nobody", "refused", None],
        *(["site/w", "succeeded", n * n] for n in range(5)),
    ]
