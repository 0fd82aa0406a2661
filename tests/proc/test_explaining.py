"""A running root is asked why: over HTTP and by the command, while an action hangs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import Running, fsmv2, until

pytestmark = pytest.mark.proc

CONFIG = """\
name: site
plugins: [tree_plugin]
pool: {procs: 2}
runbooks: https://wiki.example/
workers:
  - {name: hang, type: hanger, shutdown_timeout_s: 2}
  - {name: db, type: hanger, enabled: false}
  - {name: app, type: hanger, depends_on: [db]}
"""


def test_a_running_root_explains_its_workers(tmp_path: Path) -> None:
    """What runs, for how long of how long; who waits for whom; and that nothing is there."""
    config = tmp_path / "site.yaml"
    config.write_text(CONFIG)
    with Running(config) as root:
        root.wait_ready()

        def running() -> Any:
            found = root.get("/api/v1/explain/site/hang")
            return found if found and "has run for" in found["why"]["text"] else None

        found = until(running, "its action runs")
        assert found["why"]["rule"] == "action_in_flight"
        assert "Hang (#" in found["why"]["text"]
        assert found["why"]["runbook"] == "https://wiki.example/actions-time-out.md"
        numbers = found["why"]["numbers"]
        assert found["why"]["next_in_s"] == numbers["timeout_s"] - numbers["running_s"]

        address = root.address.removeprefix("http://")
        told = fsmv2("explain", "site/app", "--http", address, "--json")
        assert told.returncode == 0
        assert json.loads(told.stdout)["why"]["waits_for"] == ["site/db"]
        shown = fsmv2("explain", "site/db", "--http", address).stdout
        assert "it is disabled (enabled: false)" in shown
        nobody = fsmv2("explain", "site/nobody", "--http", address)
        assert (nobody.returncode, nobody.stdout) == (6, "")
        assert "want one of hang, db, app" in nobody.stderr
        assert root.end() == 0
