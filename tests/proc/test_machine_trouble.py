"""A real supervisor on a machine in real trouble: what it reads, holds back and tells."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from running import Running, fsmv2, until

CONFIG = """
name: site
plugins: [tree_plugin]
pool: {{procs: 2}}
workers:
  - {{name: a, type: beater, config: {{path: {folder}/a.beats}}}}
breaker: {breaker}
"""


def site(folder: Path, breaker: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(CONFIG.format(folder=folder, breaker=breaker))
    return path


def beats(folder: Path) -> int:
    path = folder / "a.beats"
    return path.stat().st_size if path.exists() else 0


def test_a_root_short_of_open_files_starts_nothing_until_it_has_some_again(
    tmp_path: Path,
) -> None:
    """Told in the log, on the metrics page, by fsmv2 status and fsmv2 explain; a stop goes on."""
    config = site(tmp_path, "{interval_s: 0.1, probe_s: 1, limits: {open_files: "
                            "{open: 0.95, close: 0.9, for_s: 0.3}}}")  # fmt: skip
    with Running(config) as root:
        root.wait_ready()
        until(lambda: beats(tmp_path) > 3, "it beats")
        soft, hard = resource.prlimit(root.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{root.pid}/fd"))
        resource.prlimit(root.pid, resource.RLIMIT_NOFILE, (used, hard))
        (opened,) = until(lambda: root.records("infrastructure_opened"), "it opens")
        assert opened["cause"].startswith("open_files at ")
        assert (opened["error_scope"], opened["impact"]) == ("infrastructure", "all_workers")
        until(lambda: root.records("infrastructure_still_open"), "a heartbeat")
        before = beats(tmp_path)
        resource.prlimit(root.pid, resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: root.records("infrastructure_recovered"), "it closes")
        until(lambda: beats(tmp_path) > before + 3, "it beats again")
        (recovered,) = root.records("infrastructure_recovered")
        assert recovered["total_downtime_s"] > 1.0
        closed = 'fsmv2_infrastructure_state{state="closed"} 1.0'
        until(lambda: closed in (root.get("/metrics") or ""), "the gauge says so")
        assert 'fsmv2_infrastructure_limit{name="open_files"} 0.95' in root.get("/metrics")
        told = fsmv2("status", "--http", root.address)
        assert "machine" in told.stdout
        assert "breaker closed" in told.stdout
        assert root.end() == 0


def test_in_report_mode_a_real_reading_over_its_limit_is_told_and_nothing_held_back(
    tmp_path: Path,
) -> None:
    """What a reading is and where from is in the API, with its unit."""
    config = site(tmp_path, "{mode: report, interval_s: 0.1, limits: {memory: "
                            "{open: 0.0001, close: 0.0001, for_s: 0}}}")  # fmt: skip
    with Running(config) as root:
        root.wait_ready()
        (opened,) = until(lambda: root.records("infrastructure_opened"), "it is told")
        assert (opened["mode"], opened["cause"][:10]) == ("report", "memory at ")
        before = beats(tmp_path)
        until(lambda: beats(tmp_path) > before + 3, "it beats on")
        document = until(lambda: root.get("/api/v1/readings"), "readings are published")
        (memory,) = [one for one in document["readings"] if one["name"] == "memory"]
        assert memory["unit"] == "share"
        assert 0 < memory["value"] <= 1
        assert memory["limit"] > memory["used"] > 0
        assert root.end() == 0
