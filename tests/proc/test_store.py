"""A real supervisor with a store in a file: what dies, what is there afterwards, what heals."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from running import Running, fsmv2, until

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor.store.protocol import Everything, Recalled
from fsmv2.supervisor.store.sqlite import SqliteStore
from fsmv2.supervisor.store.writer import take_file

pytestmark = pytest.mark.proc
KILLS = int(os.environ.get("FSMV2_STORE_KILLS", "12"))
SEED = int(os.environ.get("FSMV2_STORE_SEED", "2026"))
TOKEN = "tok-5f0e4c"


def write(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"name: site\nplugins: [tree_plugin]\npool: {{procs: 2}}\n"
        f"store: {{kind: sqlite, path: {tmp_path}/store.db, keep_changes: 500}}\nworkers:\n"
        f"  - {{name: beat, type: beater, config: {{path: {tmp_path}/beat}}}}\n"
        f"  - {{name: line, type: parent, config: {{path: {tmp_path}/line}}}}\n{more}"
    )
    return path


def read(tmp_path: Path) -> Everything:
    store = SqliteStore(str(tmp_path / "store.db"), read_only=True)
    try:
        return store.snapshot()
    finally:
        store.close()


def recalled(tmp_path: Path) -> dict[str, Recalled]:
    store = SqliteStore(str(tmp_path / "store.db"), read_only=True)
    try:
        return store.resume()
    finally:
        store.close()


def observed(tmp_path: Path, path: str) -> dict[str, Any]:
    """The observed document of ``path``, empty while there is none."""
    try:
        record = read(tmp_path).workers.get(path)
    except (sqlite3.Error, OSError, RuntimeError):
        return {}
    return (record.observed or {}) if record is not None else {}


def writer_pid(root: Running) -> int:
    return int(root.records("store_opened")[-1]["pid"])


def opened(root: Running, times: int) -> None:
    until(lambda: len(root.records("store_opened")) == times, "a writer opens the file")


def is_gone(pid: int) -> None:
    until(lambda: not is_alive(pid), "the writer is gone")


def runs(root: Running) -> None:
    until(lambda: root.phases().get("site/line/c") == "running", "all run")


def test_killed_root_goes_on_with_incarnations_and_last_results(tmp_path: Path) -> None:
    """kill -9 of the root; the next one counts on and knows the last result."""
    config = write(tmp_path)
    for generation in (1, 2, 3):
        with Running(config) as root:
            root.wait_ready()
            runs(root)
            assert root.records("store_opened")[0]["recalled"] == (0 if generation == 1 else 6)
            tree = root.get("/api/v1/tree")
            beat = tree["children"][0]
            assert (beat["generation"], beat["restarts"]) == (generation, generation - 1)
            until(
                lambda: recalled(tmp_path)["site/beat"].resume.get("results"),
                "its last result is kept",
            )
            assert recalled(tmp_path)["site/beat"].generation == generation
            writer = writer_pid(root)
            root.process.kill()
            root.process.wait()
            is_gone(writer)


def test_clean_stop_keeps_what_the_next_start_goes_on_with(tmp_path: Path) -> None:
    """Workers that stop because all stop are not removed ones; the last word is saved."""
    config = write(tmp_path)
    with Running(config) as root:
        root.wait_ready()
        runs(root)
        assert root.end() == 0
    assert not (tmp_path / "store.db-wal").exists()
    workers = read(tmp_path).workers
    assert sorted(workers) == [
        "site",
        *("site/beat", "site/line", "site/line/a", "site/line/b", "site/line/c"),
    ]
    assert {(one.observed or {})["phase"] for one in workers.values()} == {"stopped"}


def test_worker_that_is_no_longer_declared_is_removed_from_the_store(tmp_path: Path) -> None:
    extra = f"  - {{name: extra, type: parent, config: {{path: {tmp_path}/extra}}}}\n"
    with Running(write(tmp_path, extra)) as root:
        root.wait_ready()
        until(lambda: observed(tmp_path, "site/extra/c").get("phase") == "running", "saved")
        root.process.kill()
        root.process.wait()
    with Running(write(tmp_path)) as root:
        root.wait_ready()
        until(lambda: "site/extra/c" not in read(tmp_path).workers, "it is removed")
        assert not [path for path in read(tmp_path).workers if path.startswith("site/extra")]
        assert recalled(tmp_path)["site/extra/a"] == Recalled(1)


def test_killed_writer_costs_the_tree_nothing_and_what_it_missed_is_saved(tmp_path: Path) -> None:
    with Running(write(tmp_path)) as root:
        root.wait_ready()
        runs(root)
        for times in (1, 2, 3):
            os.kill(writer_pid(root), signal.SIGKILL)
            before = (tmp_path / "beat").stat().st_size
            opened(root, times + 1)
            assert (tmp_path / "beat").stat().st_size > before
        since = time.time()
        until(
            lambda: (
                recalled(tmp_path)["site/beat"].resume["results"]["tree_plugin:Beat"]["ended_at"]
                > since
            ),
            "new results are saved",
        )
        assert len(root.records("store_ended")) == 3
        news = root.get("/api/v1/changes")
        assert "site/line/c" in news["snapshot"]["workers"]
        until(
            lambda: root.get(f"/api/v1/changes?since={news['sync']}")["entries"], "a reader follows"
        )
        assert root.end() == 0


def test_full_disk_is_told_once_and_heals(tmp_path: Path) -> None:
    """The writer may not write a byte more; the tree goes on; then it may again."""
    with Running(write(tmp_path)) as root:
        root.wait_ready()
        runs(root)
        writer = writer_pid(root)
        limits = resource.prlimit(writer, resource.RLIMIT_FSIZE)
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (0, limits[1]))
        until(lambda: root.records("store_degraded"), "the trouble is told")
        before = (tmp_path / "beat").stat().st_size
        until(lambda: (tmp_path / "beat").stat().st_size > before + 100, "the tree goes on")
        until(lambda: "the store saves nothing: " in root.get("/readyz")["reason"], "it is shown")
        assert root.get("/readyz")["ready"]
        shown = fsmv2("status", "--http", root.address).stdout
        assert "store       saves nothing: " in shown
        time.sleep(2.0)
        assert len(root.records("store_degraded")) == 1
        assert not root.records("store_recovered")
        resource.prlimit(writer, resource.RLIMIT_FSIZE, limits)
        until(lambda: root.records("store_recovered"), "the store takes documents again")
        until(lambda: "the store" not in root.get("/readyz")["reason"], "and is no trouble")
        assert not root.records("store_ended")
        assert root.end() == 0


def test_damaged_file_is_moved_aside_and_the_start_goes_on(tmp_path: Path) -> None:
    lock, store, _ = take_file(str(tmp_path / "store.db"), 0.0)
    store.close()
    os.close(lock)
    (tmp_path / "store.db").write_bytes(b"this was a store once" * 1000)
    with Running(write(tmp_path)) as root:
        root.wait_ready()
        runs(root)
        (damaged,) = root.records("store_damaged")
        assert Path(damaged["moved_to"]).read_bytes().startswith(b"this was a store once")
        assert root.end() == 0
    assert "site/line/c" in read(tmp_path).workers


def test_config_as_its_own_store_is_refused_with_exit_code_3(tmp_path: Path) -> None:
    config = write(tmp_path)
    config.write_text(config.read_text().replace("/store.db", "/site.yaml"))
    before = config.read_bytes()
    refused = fsmv2("run", str(config), "--http", "off")
    assert refused.returncode == 3
    assert f"cannot open store {config}: it is no store of fsmv2, got " in refused.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["site.yaml"]
    assert config.read_bytes() == before


def test_removed_file_is_told_and_written_anew(tmp_path: Path) -> None:
    """The writer went on with a file that nobody could open any more, and nobody was told."""
    with Running(write(tmp_path)) as root:
        root.wait_ready()
        runs(root)
        for file in tmp_path.glob("store.db*"):
            file.unlink()
        until(lambda: root.records("store_recovered"), "it is written anew")
        (degraded,) = root.records("store_degraded")
        assert "was removed or replaced while it was open" in degraded["error"]
        until(lambda: "site/line/c" in read(tmp_path).workers, "all workers are in it")
        assert root.end() == 0


def test_store_in_a_folder_that_is_not_there_is_refused_with_exit_code_3(tmp_path: Path) -> None:
    config = write(tmp_path)
    config.write_text(config.read_text().replace("/store.db", "/nowhere/store.db"))
    refused = fsmv2("run", str(config), "--http", "off")
    assert refused.returncode == 3
    told = f"cannot open store {tmp_path}/nowhere/store.db: No such file or directory: "
    assert told in refused.stderr
    assert "want store.path in a folder that exists" in refused.stderr


def test_second_supervisor_of_one_file_is_refused_with_exit_code_3(tmp_path: Path) -> None:
    config = write(tmp_path)
    with Running(config) as root:
        root.wait_ready()
        second = fsmv2("run", str(config), "--http", "off")
        assert second.returncode == 3
        assert "another process writes it; want one supervisor a file" in second.stderr
        assert root.end() == 0


def test_secret_reaches_no_byte_of_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, f"  - {{name: s, type: keeper, config: {{token: {TOKEN}}}}}\n")
    with Running(config) as root:
        root.wait_ready()
        until(
            lambda: recalled(tmp_path).get("site/s", Recalled(0)).resume.get("failures"),
            "the failed login is saved",
        )
        assert root.end() == 0
    for file in tmp_path.glob("store.db*"):
        assert TOKEN.encode() not in file.read_bytes()
    assert recalled(tmp_path)["site/s"].desired["config"] == {"token": "Secret(…)"}


def test_random_kills_leave_a_whole_file_and_revisions_that_only_rise(tmp_path: Path) -> None:
    """kill -9 of root, writer or both at random moments, again and again."""
    rng = random.Random(SEED)
    config = write(tmp_path)
    revisions: dict[tuple[str, str], int] = {}
    generation = kills = 0
    while kills < KILLS:
        with Running(config) as root:
            until(lambda: root.records("store_opened"), "the store is open")
            generation_before = generation
            while root.process.poll() is None:
                time.sleep(rng.uniform(0.0, 0.8))
                victim = rng.choice(["root", "writer", "writer", "both"])
                kills += 1
                if victim != "root" and is_alive(writer_pid(root)):
                    os.kill(writer_pid(root), signal.SIGKILL)
                if victim != "writer" or kills >= KILLS:
                    root.process.kill()
                    root.process.wait()
            assert not root.records("store_damaged")
            assert not root.records("store_refused")
        with sqlite3.connect(tmp_path / "store.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
        for path, record in read(tmp_path).workers.items():
            assert record.identity["path"] == path
            for role, revision in record.revisions.items():
                assert revision >= revisions.get((path, role), 0)
                revisions[path, role] = revision
        kept = recalled(tmp_path).get("site")
        generation = kept.generation if kept is not None else 0
        assert generation >= generation_before
    assert generation > 0
