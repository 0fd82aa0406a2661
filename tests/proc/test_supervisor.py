"""A real supervisor: what dies, what goes on, how it ends, what it refuses."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from running import Running, fsmv2, proc_of, until, whole_records

from fsmv2.ipc.linux import descendants_of, is_alive

# A second will do on a machine that is not busy; who is not told at all stays for ever.
GONE_S = 20.0


def write(tmp_path: Path, workers: str, more: str = "") -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"name: site\nplugins: [tree_plugin]\npool: {{procs: 2}}\n{more}workers:\n{workers}"
    )
    return path


def beater(tmp_path: Path, name: str = "beat") -> str:
    return f"  - {{name: {name}, type: beater, config: {{path: {tmp_path}/{name}}}}}\n"


HANGER = "  - {name: hang, type: hanger, shutdown_timeout_s: 2}\n"


def goes_on(path: Path) -> None:
    """More beats are written than there are now."""
    before = path.stat().st_size if path.exists() else 0
    until(lambda: path.exists() and path.stat().st_size > before + 20, f"{path.name} goes on")


def test_tree_comes_up_and_stops_cleanly_on_sigterm(tmp_path: Path) -> None:
    """Children start after what they depend on and stop before it; exit code 0."""
    config = write(
        tmp_path, f"  - {{name: line, type: parent, config: {{path: {tmp_path}/beat}}}}\n"
    )
    with Running(config) as root:
        root.wait_ready()
        until(lambda: list(root.phases().values()) == ["running"] * 5, "all five run")
        tree = root.get("/api/v1/tree")
        assert tree["children"][0]["children"][0].keys() >= {
            *("path", "name", "worker_type", "state", "phase", "reason", "desired_state"),
            *("since_s", "circuit", "action", "restarts", "children"),
        }
        assert root.end() == 0
        changes = [(r["path"], r["to_state"]) for r in root.records("state_changed")]
        starts = [path for path, state in changes if state == "beating"]
        assert starts == ["site/line/a", "site/line/b", "site/line/c"]
        stops = [path for path, state in changes if state in ("stopped", "parent_state")]
        assert stops == ["site/line/c", "site/line/b", "site/line/a", "site/line", "site"]
        assert root.records("supervisor_stopped")[0]["clean"] is True


def test_ctrl_c_stops_within_bounds_though_an_action_hangs(tmp_path: Path) -> None:
    with Running(write(tmp_path, beater(tmp_path) + HANGER)) as root:
        root.wait_ready()
        until(lambda: root.phases().get("site/hang") == "running", "the hanger hangs")
        began = time.monotonic()
        below = descendants_of(root.pid)
        assert root.end(signal.SIGINT) == 0
        assert root.records("supervisor_stopped")[0]["clean"] is True
        assert [r["status"] for r in root.records("action_ended")] == ["cancelled"]
        assert time.monotonic() - began < 20
        until(lambda: not any(is_alive(pid) for pid in below), "all processes are gone", GONE_S)


def test_worker_that_never_stops_is_dropped_by_force_in_its_time(tmp_path: Path) -> None:
    config = write(tmp_path, "  - {name: s, type: stubborn, shutdown_timeout_s: 0.5}\n")
    with Running(config) as root:
        root.wait_ready()
        until(lambda: root.phases().get("site/s") == "running", "it runs")
        assert root.end() == 0
        removed = {r["path"]: r for r in root.records("worker_removed")}
        assert removed["site/s"]["forced"] is True
        assert root.records("supervisor_stopped")[0]["clean"] is False


def test_second_signal_forces_with_exit_code_4(tmp_path: Path) -> None:
    config = write(tmp_path, "  - {name: s, type: stubborn, shutdown_timeout_s: 300}\n")
    with Running(config) as root:
        root.wait_ready()
        until(lambda: root.phases().get("site/s") == "running", "it runs")
        root.process.send_signal(signal.SIGTERM)
        until(lambda: root.records("supervisor_stopping"), "it stops")
        time.sleep(0.5)  # somebody loses patience: two signals at once count as one
        below = descendants_of(root.pid)
        assert root.end(signal.SIGTERM) == 4
        until(lambda: not any(is_alive(pid) for pid in below), "all processes are gone", GONE_S)


def test_summary_of_a_forced_stop_tells_what_it_killed(tmp_path: Path) -> None:
    """It said that no action had run, and none been killed."""
    hanger = "  - {name: hang, type: hanger, shutdown_timeout_s: 300}\n"
    with Running(write(tmp_path, hanger)) as root:
        root.wait_ready()
        proc_of(root, "Hang")
        root.process.send_signal(signal.SIGTERM)
        until(lambda: root.records("supervisor_stopping"), "it stops")
        time.sleep(0.5)
        assert root.end(signal.SIGTERM) == 4
        [ended] = root.records("action_ended")
        assert root.process.stdout is not None
        said = root.process.stdout.read()
    assert (ended["path"], ended["status"]) == ("site/hang", "cancelled")
    assert "forced stop" in said
    assert "actions run: 1 (0 succeeded, 0 failed, 0 timed out, 0 crashed, 1 cancelled" in said
    assert "\nkilled: 1, crashed: 0, worker restarts: 0\n" in said
    assert "\n  site/hang Hang  cancelled  x 1\n" in said


@pytest.mark.parametrize("victim", ["idle or busy proc", "template", "ops"])
def test_killed_process_of_ours_costs_the_tree_nothing(tmp_path: Path, victim: str) -> None:
    """kill -9 of a proc, the template, the ops process: the tree goes on."""
    with Running(write(tmp_path, beater(tmp_path) + HANGER)) as root:
        root.wait_ready()
        goes_on(tmp_path / "beat")
        status = root.get("/api/v1/status")
        if victim == "template":
            pid = status["pool"]["template_pid"]
        elif victim == "ops":
            pid = root.records("ops_started")[-1]["pid"]
        else:
            # One that is only ordered has no process yet.
            procs = status["pool"]["procs"]
            pid = next(p["pid"] for p in procs if p["pid"] and p["action"] != "Hang")
        os.kill(pid, signal.SIGKILL)
        goes_on(tmp_path / "beat")
        if victim == "template":
            until(
                lambda: (
                    (root.get("/api/v1/status") or status)["pool"]["template_pid"] not in (0, pid)
                ),
                "a new template",
            )
        elif victim == "ops":
            until(lambda: len(root.records("ops_started")) == 2, "a new ops process")
            until(lambda: root.get("/livez"), "the same address answers again")
            assert root.records("ops_ended")[0]["verdict"] == "killed_from_outside"
        goes_on(tmp_path / "beat")
        # The bystander's attempt, begun before, is still the same one.
        hang = root.get("/api/v1/workers/site/hang")
        assert hang["action"]["type"] == "Hang"
        assert not [r for r in root.records("action_ended") if r["action_type"] == "Hang"]
        assert root.end() == 0


def test_killed_busy_proc_loses_exactly_its_attempt_and_reports_it(tmp_path: Path) -> None:
    with Running(write(tmp_path, beater(tmp_path) + HANGER)) as root:
        root.wait_ready()
        busy = until(
            lambda: next((p for p in root.procs() if p["action"] == "Hang"), None), "a busy proc"
        )
        os.kill(busy["pid"], signal.SIGKILL)
        ended = until(
            lambda: [r for r in root.records("action_ended") if r["action_type"] == "Hang"],
            "the attempt's end is told",
        )
        assert len(ended) == 1
        assert ended[0]["attempt_id"] == busy["attempt_id"]
        assert (ended[0]["status"], ended[0]["verdict"]) == ("crashed", "killed_from_outside")
        goes_on(tmp_path / "beat")
        assert root.end() == 0


def test_killed_root_leaves_no_process_behind(tmp_path: Path) -> None:
    """kill -9 of the root: nothing of ours is left a moment later, hung procs included."""
    with Running(write(tmp_path, beater(tmp_path) + HANGER)) as root:
        root.wait_ready()
        until(lambda: any(p["action"] == "Hang" for p in root.procs()), "a hung proc")
        goes_on(tmp_path / "beat")
        below = descendants_of(root.pid)
        assert len(below) >= 5
        os.kill(root.pid, signal.SIGKILL)
        root.process.wait(10)
        give_up = time.monotonic() + GONE_S
        while time.monotonic() < give_up and any(is_alive(pid) for pid in below):
            time.sleep(0.01)
        assert [pid for pid in below if is_alive(pid)] == []


def test_run_folder_of_a_killed_root_is_removed_by_the_next_one(tmp_path: Path) -> None:
    config, env = write(tmp_path, beater(tmp_path)), {"TMPDIR": str(tmp_path)}
    with Running(config, env=env) as root:
        root.wait_ready()
        below = descendants_of(root.pid)
        os.kill(root.pid, signal.SIGKILL)
        root.process.wait(10)
    [left] = run_folders(tmp_path)
    until(lambda: not any(is_alive(pid) for pid in below), "its processes end")
    with Running(config, env=env) as root:
        root.wait_ready()
        until(lambda: left not in run_folders(tmp_path), "its folder is removed")
        assert len(run_folders(tmp_path)) == 1
        assert root.end() == 0
    assert run_folders(tmp_path) == []


def test_secret_never_shows(tmp_path: Path) -> None:
    """Not in the log at any level, not in the API, the metrics, or the run folder's names."""
    token = "s3cr3t-t0ken-value"
    config = write(
        tmp_path,
        f"  - {{name: k, type: keeper, config: {{token: {token}}}}}\n",
        "log: {level: debug}\n",
    )
    with Running(config) as root:
        root.wait_ready()
        until(lambda: len(root.records("action_ended")) >= 2, "two attempts")
        pages = [root.get("/api/v1/tree"), root.get("/api/v1/status"), root.get("/metrics")]
        assert root.end() == 0
        assert root.process.stdout is not None
        said = [root.log_text(), root.process.stdout.read(), *(str(page) for page in pages)]
    assert "Secret(…)" in said[0]
    assert not any(token in text for text in said)


def test_seconds_ends_the_run_with_a_summary(tmp_path: Path) -> None:
    config = write(tmp_path, beater(tmp_path))
    for seconds in ("1.5", "15"):  # a busy machine may not even have started all within the first
        ended = fsmv2("run", str(config), "--seconds", seconds, "--http", "off")
        if "succeeded" in ended.stdout:
            break
    assert ended.returncode == 0, ended.stderr
    assert "clean stop" in ended.stdout
    assert "succeeded" in ended.stdout


def test_metrics_cover_the_root_and_the_procs(tmp_path: Path) -> None:
    with Running(write(tmp_path, beater(tmp_path))) as root:
        root.wait_ready()
        goes_on(tmp_path / "beat")
        text = until(
            lambda: (t := root.get("/metrics") or "") and "fsmv2_actions_total{" in t and t,
            "the actions are counted",
        )
        assert 'fsmv2_actions_total{action_type="Beat",status="succeeded"' in text
        assert "fsmv2_ticks_total" in text
        assert root.end() == 0


PLUGGED = "name: s\nplugins: [tree_plugin]\nworkers: "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: s\nplugins: [no_such_module]\n", "no_such_module"),
        ("name: s\nworkers: [{name: a, type: nothing}]\n", "nothing"),
        (PLUGGED + "[{name: a, type: hanger}, {name: a, type: hanger}]\n", "twice"),
        (PLUGGED + "[{name: a, type: hanger, depends_on: [a]}]\n", "a -> a"),
        (PLUGGED + "[{name: a, type: beater, config: {path: 3}}]\n", "workers[0].config.path"),
        ("name: s\npool: {procs: two}\n", "pool.procs"),
        ("name: s\npoool: {procs: 2}\n", "pool"),
        ("name: [\n", "site.yaml"),
    ],
    ids=["plug-in", "type", "name twice", "cycle", "config", "value", "key", "syntax"],
)
def test_unusable_config_is_refused_before_anything_starts(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    for command in (("check", str(path)), ("run", str(path), "--http", "off")):
        ended = fsmv2(*command)
        assert ended.returncode == 2, ended.stderr
        assert says in ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""


def run_folders(tmp_path: Path) -> list[str]:
    return [name for name in os.listdir(tmp_path) if name.startswith("fsmv2-")]


def test_taken_port_is_exit_code_3_and_leaves_nothing(tmp_path: Path) -> None:
    config = write(tmp_path, beater(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = fsmv2(
            "run", str(config), "--http", f"127.0.0.1:{port}", env={"TMPDIR": str(tmp_path)}
        )
    assert ended.returncode == 3
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--http" in ended.stderr
    assert run_folders(tmp_path) == []
    assert not (tmp_path / "beat").exists()


def test_unusable_metrics_folder_is_exit_code_3_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = write(tmp_path, beater(tmp_path), f"metrics: {{folder: {tmp_path}/file/metrics}}\n")
    ended = fsmv2("run", str(config), "--http", "off", env={"TMPDIR": str(tmp_path)})
    assert ended.returncode == 3
    assert "cannot use metrics folder" in ended.stderr
    assert run_folders(tmp_path) == []
    assert not (tmp_path / "beat").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk_at_the_start_is_exit_code_3(tmp_path: Path, small_disk: Path) -> None:
    config = write(tmp_path, beater(tmp_path), f"metrics: {{folder: {small_disk}/m}}\n")
    ended = fsmv2("run", str(config), "--http", "off", env={"TMPDIR": str(tmp_path)})
    assert ended.returncode == 3
    assert "MiB free" in ended.stderr
    assert run_folders(tmp_path) == []


@pytest.fixture
def filling_disk(tmp_path: Path) -> object:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        for _ in range(10_000):
            ballast.write(b"x" * 4096)
        for _ in range(4096):
            ballast.write(b"x")
    assert shutil.disk_usage(disk).free == 0


def test_disk_that_fills_up_later_costs_no_tick_and_no_action(
    tmp_path: Path, filling_disk: Path
) -> None:
    """Metric files that cannot grow lose numbers, never a process (no SIGBUS)."""
    label = f"  - {{name: label, type: labeller, config: {{path: {tmp_path}/label}}}}\n"
    config = write(tmp_path, beater(tmp_path) + label, f"metrics: {{folder: {filling_disk}/m}}\n")
    with Running(config) as root:
        root.wait_ready()
        until(lambda: "test_labels_total{" in (root.get("/metrics") or ""), "procs' metrics show")
        fill(filling_disk)
        before = (tmp_path / "label").stat().st_size
        until(
            lambda: (tmp_path / "label").stat().st_size > before + 100, "labels are made on and on"
        )
        for proc in root.procs():
            if proc["pid"]:  # else it is only ordered
                os.kill(proc["pid"], signal.SIGKILL)
        goes_on(tmp_path / "beat")
        goes_on(tmp_path / "label")
        verdicts = {r["verdict"] for r in root.records("action_ended")}
        assert verdicts <= {"killed_from_outside"}
        assert root.end() == 0


def test_nobody_to_ask_is_exit_code_5() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ended = fsmv2("tree", "--http", f"127.0.0.1:{port}")
    assert ended.returncode == 5
    assert "is it running" in ended.stderr


def test_tree_and_status_show_a_running_supervisor(tmp_path: Path) -> None:
    with Running(write(tmp_path, beater(tmp_path))) as root:
        root.wait_ready()
        until(lambda: root.phases().get("site/beat") == "running", "it runs")
        listen = root.address.removeprefix("http://")
        tree = fsmv2("tree", "--http", listen)
        assert tree.returncode == 0, tree.stderr
        assert "beat" in tree.stdout
        assert "beater" in tree.stdout
        status = fsmv2("status", "--http", listen)
        assert "ready" in status.stdout
        as_json = fsmv2("tree", "--http", listen, "--json")
        assert as_json.stdout.startswith('{"path":"site"')
        assert root.end() == 0


def test_half_a_log_line_is_no_record_yet() -> None:
    """The log is read while it is written, at any byte of it."""
    log = '{"event": "a", "text": "\u2028 é"}\nnoise\n{"event": "b"}\n'.encode()
    for size in range(len(log)):
        records = [record["event"] for record in whole_records(log[:size])]
        assert records == (["a"] if b"\n" in log[:size] else [])
    assert [record["event"] for record in whole_records(log)] == ["a", "b"]
