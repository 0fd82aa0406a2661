"""A running supervisor reads its config anew: by signal, by itself, over HTTP, by the command."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from running import Running, fsmv2, until

from fsmv2.ipc.linux import descendants_of, is_alive

SLOW_S = 2.5  # an import; a tick that waited for it would be as slow
TOKEN = "operators-t0ken-0123456789"


class Site:
    """A config with beaters, each of which writes to a file of its own."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.more = more
        self.path = folder / "site.yaml"

    def write(self, *names: str, bad: str = "", more: str | None = None) -> Path:
        beaters = "".join(
            f"  - {{name: {name}, type: beater, config: {{path: '{self.folder / name}.beats'}}}}\n"
            for name in names
        )
        text = (
            "name: site\nplugins: [tree_plugin]\npool: {procs: 2}\n"
            f"{self.more if more is None else more}{bad}workers:\n{beaters}"
        )
        fresh = self.folder / "fresh.yaml"
        fresh.write_text(text)
        os.replace(fresh, self.path)
        return self.path

    def beats(self, name: str) -> int:
        path = self.folder / f"{name}.beats"
        return path.stat().st_size if path.exists() else 0


def generations(root: Running) -> dict[str, int]:
    """Each worker that was added, and how often."""
    found: dict[str, int] = {}
    for record in root.records("worker_added"):
        found[record["path"]] = found.get(record["path"], 0) + 1
    return found


def post(root: Running, path: str, token: str | None = TOKEN) -> tuple[int, Any]:
    host, _, port = root.address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("POST", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_sighup_takes_a_good_config_over_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    """Untouched workers beat on in the same incarnation; the log names the fault's place; after a
    bad file a good one is taken over as if it had not been; an unchanged one changes nothing."""
    site = Site(tmp_path)
    with Running(site.write("a", "b")) as root:
        root.wait_ready()
        until(lambda: site.beats("a") and site.beats("b"), "both beat")

        site.write("a", "c")
        root.process.send_signal(signal.SIGHUP)
        (applied,) = until(lambda: root.records("reload_applied"), "it is taken over")
        counts = {kind: applied[kind] for kind in ("added", "removed", "untouched", "updated")}
        assert counts == {"added": 1, "removed": 1, "untouched": 1, "updated": 0}
        assert applied["cause"] == "SIGHUP"
        assert applied["changes"] == "added site/c, removed site/b"
        until(lambda: set(root.phases()) == {"site", "site/a", "site/c"}, "the tree is the new one")

        site.write("a", bad="pool_: 1\n")
        root.process.send_signal(signal.SIGHUP)
        (refused,) = until(lambda: root.records("reload_refused"), "it is refused")
        assert f"{site.path}:4:1: pool_: unknown key 'pool_', did you mean 'pool'?" in str(refused)
        before = site.beats("a"), site.beats("c")
        until(lambda: site.beats("a") > before[0] and site.beats("c") > before[1], "both go on")
        assert set(root.phases()) == {"site", "site/a", "site/c"}

        site.write("a", "c")
        root.process.send_signal(signal.SIGHUP)
        until(lambda: len(root.records("reload_applied")) == 2, "unchanged, and fine again")
        again = root.records("reload_applied")[1]
        assert (again["untouched"], again.get("changes")) == (2, None)
        assert generations(root) == {"site/a": 1, "site/b": 1, "site/c": 1}
        until(
            lambda: (
                'fsmv2_reloads_total{outcome="applied"} 2.0' in (root.get("/metrics") or "")
                and 'fsmv2_reloads_total{outcome="refused"} 1.0' in (root.get("/metrics") or "")
            ),
            "both are counted",
        )
        assert root.end() == 0


def test_a_watched_file_is_taken_over_by_itself(tmp_path: Path) -> None:
    site = Site(tmp_path, "reload: {watch: true}\n")
    with Running(site.write("a")) as root:
        root.wait_ready()

        site.write("a", "b")

        (applied,) = until(lambda: root.records("reload_applied"), "it is noticed")
        assert applied["cause"] == "a change of the file"
        until(lambda: site.beats("b"), "the new worker beats")
        assert root.end() == 0


def test_an_operator_plans_and_reloads_over_http_and_by_command(tmp_path: Path) -> None:
    """The plan changes nothing and is what the reload does; both need the token; faults and a
    config that is another one have exit code 6, and the answer says why."""
    site = Site(tmp_path)
    with Running(site.write("a"), env={"FSMV2_TOKEN": TOKEN}) as root:
        root.wait_ready()
        at = ("--http", root.address.removeprefix("http://"))
        asking: dict[str, Any] = {"env": {"FSMV2_TOKEN": TOKEN}}
        site.write("a", "b")
        for path in ("/api/v1/plan", "/api/v1/reload"):
            assert post(root, path, None)[0] == 401

        status, planned = post(root, "/api/v1/plan")
        assert status == 200
        assert [(one["change"], one["path"]) for one in planned["plan"]["changes"]] == [
            ("added", "site/b")
        ]
        shown = fsmv2("plan", str(site.path), *at, **asking)
        assert (shown.returncode, shown.stdout) == (
            0,
            "+ site/b (beater) added\n1 added, 0 updated, 0 replaced, 0 removed, 1 untouched\n",
        )
        other = tmp_path / "other.yaml"
        other.write_text(site.path.read_text())
        wrong = fsmv2("plan", str(other), *at, **asking)
        assert wrong.returncode == 6
        assert str(site.path) in wrong.stderr
        assert root.records("reload_applied") == []

        done = fsmv2("reload", *at, **asking)
        assert (done.returncode, done.stdout) == (0, shown.stdout)
        until(lambda: site.beats("b"), "the new worker beats")
        site.write("a", "b", bad="pool: {procs: 3}\n")
        bad = fsmv2("reload", *at, **asking)
        assert (bad.returncode, bad.stdout) == (6, "")
        assert "key 'pool' is given twice" in bad.stderr
        status, refused = post(root, "/api/v1/reload")
        assert (status, refused["outcome"]) == (409, "refused")
        assert len(refused["faults"]) == 1

        site.write("a")
        status, answer = post(root, "/api/v1/reload")
        assert status == 200
        assert answer["plan"]["counts"]["removed"] == 1
        # What was answered is told after the turn it belongs to.
        until(lambda: len(root.records("operator_commanded")) >= 7, "each command is told")
        commands = [(r["command"], r["outcome"]) for r in root.records("operator_commanded")]
        assert commands == [
            ("plan", "done"),
            ("plan", "done"),
            ("plan", "done"),
            ("reload", "done"),
            ("reload", "refused"),
            ("reload", "refused"),
            ("reload", "done"),
        ]
        assert TOKEN not in root.log_text()
        assert root.end() == 0


def test_a_plan_of_two_files_needs_no_supervisor(tmp_path: Path) -> None:
    """As text and as JSON; a faulty file, a key that needs a restart and two things to compare
    with are refused with exit code 2; nobody to ask is 5."""
    old, new = Site(tmp_path).write("a", "b"), tmp_path / "new.yaml"
    new.write_text(old.read_text().replace("b.beats", "c.beats"))
    shown = fsmv2("plan", str(new), "--against", str(old))
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[:2] == ["  site/a (beater)", "~ site/b (beater) updated"]
    assert re.fullmatch(r"    config.path: '.*b\.beats' -> '.*c\.beats'", lines[2])
    assert lines[3:] == ["0 added, 1 updated, 0 replaced, 0 removed, 1 untouched"]
    as_json = json.loads(fsmv2("plan", str(new), "--against", str(old), "--json").stdout)
    assert [one["change"] for one in as_json["changes"]] == ["untouched", "updated"]
    first = fsmv2("plan", str(new)).stdout
    assert first.endswith("2 added, 0 updated, 0 replaced, 0 removed, 0 untouched\n")

    new.write_text(old.read_text().replace("procs: 2", "procs: 3"))
    for arguments, code, says in (
        ((str(new), "--against", str(old)), 2, "pool.procs: cannot be reloaded (2 -> 3)"),
        ((str(new), "--against", str(tmp_path / "none.yaml")), 2, "none.yaml"),
        ((str(tmp_path / "none.yaml"),), 2, "none.yaml"),
        ((str(new), "--against", str(old), "--http", "127.0.0.1:1"), 2, "not both"),
        ((str(new), "--http", "127.0.0.1:1"), 5, "is it running"),
    ):
        ended = fsmv2("plan", *arguments, env={"FSMV2_TOKEN": TOKEN})
        assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
        assert says in ended.stderr
        assert "Traceback" not in ended.stderr
    assert fsmv2("reload", "--http", "127.0.0.1:1", env={"FSMV2_TOKEN": TOKEN}).returncode == 5


PLUGIN = """
{first}
from fsmv2.supervisor import Act, Action, ActionContext, Go, Phase, State, Stay, Worker

class Mark(Action, frozen=True):
    path: str
    def execute(self, ctx: ActionContext) -> None:
        open(self.path, "w").close()

class Off(State):
    phase = Phase.STOPPED
    def next(self, snap):
        return Go(On, reason="asked to run")

class On(State):
    phase = Phase.RUNNING
    def next(self, snap):
        if snap.result(Mark) is None:
            return Act(Mark(snap.config["path"]), reason="not marked yet")
        return Stay(reason="marked")

class Marker(Worker):
    type_name = "marker"
    initial = stopping = Off

WORKERS = [Marker]
"""


def test_a_plugin_that_is_new_in_the_config_is_loaded_and_runs(tmp_path: Path) -> None:
    """In the root and in procs, none of which knew of it at their start."""
    site = Site(tmp_path)
    with Running(site.write("a")) as root:
        root.wait_ready()
        (tmp_path / "marker_plugin.py").write_text(PLUGIN.format(first=""))
        text = site.path.read_text().replace("[tree_plugin]", "[tree_plugin, marker_plugin]")
        marked = tmp_path / "marked"
        site.path.write_text(f"{text}  - {{name: m, type: marker, config: {{path: '{marked}'}}}}\n")

        root.process.send_signal(signal.SIGHUP)

        until(marked.exists, "its action ran")
        assert root.records("reload_refused") == []
        assert root.end() == 0


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("import os; os.abort()", "crashed:SIGABRT"),
        ("import os; os._exit(0)", "no verdict: did a plug-in end it?"),
        ("raise ValueError('no')", "ValueError: no"),
        (f"import time; time.sleep({SLOW_S})", "needs a restart"),
        ("import os, time; os.system('sleep 1000 &'); time.sleep(1000)", "it took over 10 s"),
    ],
    ids=["crashes", "ends", "raises", "is slow", "hangs"],
)
def test_a_new_plugin_that_misbehaves_never_comes_near_the_root(
    tmp_path: Path, first: str, says: str
) -> None:
    """The check of the config dies of it; the root ticks on, and nothing of it stays."""
    site = Site(tmp_path)
    with Running(site.write("a")) as root:
        root.wait_ready()
        (tmp_path / "marker_plugin.py").write_text(PLUGIN.format(first=first))
        text = site.path.read_text().replace("[tree_plugin]", "[tree_plugin, marker_plugin]")
        site.path.write_text(text)

        root.process.send_signal(signal.SIGHUP)

        (refused,) = until(lambda: root.records("reload_refused"), "it is refused")
        assert says in refused["faults"]
        before = site.beats("a")
        until(lambda: site.beats("a") > before, "the worker goes on")
        assert [r for r in root.records("tick_slow") if r["duration_s"] > SLOW_S] == []
        below = descendants_of(root.pid)
        assert root.end() == 0
        until(lambda: not any(is_alive(pid) for pid in below), "nothing of it is left")


def test_a_supervisor_that_is_told_to_stop_during_a_reload_stops(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with Running(site.write("a")) as root:
        root.wait_ready()
        (tmp_path / "marker_plugin.py").write_text(
            PLUGIN.format(first="import time; time.sleep(99)")
        )
        text = site.path.read_text().replace("[tree_plugin]", "[tree_plugin, marker_plugin]")
        site.path.write_text(text)
        root.process.send_signal(signal.SIGHUP)

        def checks() -> list[int]:
            found = []
            for pid in descendants_of(root.pid):
                with contextlib.suppress(OSError):  # one that has just ended
                    if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(pid)
            return found

        until(checks, "the check is under way")
        assert root.end() == 0
        assert root.records("reload_applied") == []
