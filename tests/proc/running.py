"""A real supervisor in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsmv2.ipc.linux import descendants_of, is_alive

SUPPORT = Path(__file__).parent.parent / "support"
PATIENCE_S = 40.0


def until(claim: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until ``claim`` gives something true, and give it back."""
    give_up = time.monotonic() + patience_s
    while not (got := claim()):
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.01)
    return got


def fsmv2(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "fsmv2.supervisor", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=_environment(options.pop("env", {})),
        check=False,
        **options,
    )


def _environment(extra: dict[str, str]) -> dict[str, str]:
    base = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    return {**base, "PYTHONPATH": str(SUPPORT), "PYTHONUNBUFFERED": "1", **extra}


def whole_records(log: bytes) -> list[dict[str, Any]]:
    """The records of ``log`` up to its last line's end."""
    lines = log[: log.rfind(b"\n") + 1].decode().split("\n")
    return [json.loads(line) for line in lines if line.startswith("{")]


class Running:
    """``with Running(config_path) as root:`` ends it, whatever the test did to it."""

    def __init__(self, config: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._log_path = config.parent / "log.jsonl"
        self._log = self._log_path.open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "fsmv2.supervisor", "run", str(config)),
                *("--http", "127.0.0.1:0", "--log-format", "json", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(env or {}),
            start_new_session=True,
        )
        self.pid = self.process.pid

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            below = descendants_of(self.pid)
            self.process.kill()
            self.process.wait()
            for pid in below:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's records so far; a line that is being written is none yet."""
        found = whole_records(self._log_path.read_bytes())
        return [r for r in found if event is None or r["event"] == event]

    def log_text(self) -> str:
        """The log as it is."""
        return self._log_path.read_text(errors="replace")

    @property
    def address(self) -> str:
        """Where its pages are, once it has said so."""
        started = until(
            lambda: self.records("supervisor_started") or self.process.poll() is not None,
            "the supervisor says that it started",
        )
        assert started is not True, f"it ended with {self.process.returncode}: {self.log_text()}"
        return str(started[0]["http"])

    def get(self, path: str) -> Any:
        """A document of its API, None while it cannot be had."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=PATIENCE_S / 2) as answer:
                body = answer.read()
        except (urllib.error.URLError, OSError):
            return None
        return json.loads(body) if path != "/metrics" else body.decode()

    def wait_ready(self) -> None:
        """Until /readyz says yes."""
        until(lambda: (self.get("/readyz") or {}).get("ready"), "ready")

    def phases(self) -> dict[str, str]:
        """Each node's phase by path."""
        found: dict[str, str] = {}

        def walk(node: dict[str, Any]) -> None:
            found[node["path"]] = node["phase"]
            for child in node["children"]:
                walk(child)

        tree = self.get("/api/v1/tree")
        if tree:
            walk(tree)
        return found

    def procs(self) -> list[dict[str, Any]]:
        """What the status says of the procs."""
        status = self.get("/api/v1/status")
        return list(status["pool"]["procs"]) if status else []

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def proc_of(root: Running, action: str) -> int:
    """The process that runs an action of that type, once one does."""

    def look() -> int | None:
        flying = (root.get("/api/v1/actions") or {"in_flight": []})["in_flight"]
        ids = [one["attempt_id"] for one in flying if one["type"] == action and not one["queued"]]
        return next((p["pid"] for p in root.procs() if p["attempt_id"] in ids), None)

    return int(until(look, f"a proc runs {action}"))
