"""`fsmv2 run` in odd surroundings: streams that are closed, a folder that is gone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running import PATIENCE_S, SUPPORT, fsmv2, until

from fsmv2.ipc.linux import descendants_of
from fsmv2.supervisor import opsprocess
from fsmv2.supervisor.core.errors import StartError

pytestmark = pytest.mark.proc


def write(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"name: site\nplugins: [tree_plugin]\npool: {{procs: 1, observers: 1}}\n"
        f"store: {{kind: sqlite, path: {tmp_path}/s.db}}\n"
        f"workers:\n  - {{name: b, type: beater, config: {{path: {tmp_path}/beat}}}}\n"
    )
    return path


def streams_of(pid: int) -> list[str]:
    """What descriptors 0 to 2 of a process are; none of one that has ended."""
    try:
        there = os.listdir(f"/proc/{pid}/fd")
        return [
            os.readlink(f"/proc/{pid}/fd/{number}") if f"{number}" in there else "closed"
            for number in (range(3) if there else ())
        ]
    except OSError:
        return []


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)], ids=["error", "all"])
def test_closed_streams_are_as_the_null_device(closed: tuple[int, ...], tmp_path: Path) -> None:
    """Without standard error it ended with exit code 1 and no word; and the first sockets and
    pipes were the streams of all that was started."""
    shut = " ".join(f"{number}>&-" for number in closed)
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [
                *(
                    "sh",
                    "-c",
                    f'exec "$@" {shut}',
                    "sh",
                    sys.executable,
                    "-P",
                    "-m",
                    "fsmv2.supervisor",
                ),
                *("run", str(write(tmp_path)), "--http", "127.0.0.1:0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        )
    try:
        until(lambda: (tmp_path / "beat").exists() or process.poll() is not None, "an action runs")
        assert process.poll() is None
        root = streams_of(process.pid)
        assert [root[number] for number in closed] == ["/dev/null"] * len(closed)
        for pid in descendants_of(process.pid):
            streams = streams_of(pid)
            assert not [each for each in streams if each.startswith("socket:")], streams
            assert "closed" not in streams
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    if 1 not in closed:
        assert "clean stop" in (tmp_path / "out").read_text()


def test_start_in_a_folder_that_is_gone_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    config = write(tmp_path)
    command = [sys.executable, "-P", "-m", "fsmv2.supervisor", "run", str(config), "--http", "off"]
    shell = f'rmdir "{folder}" && exec "$@"'
    refused = subprocess.run(
        ["sh", "-c", shell, "sh", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert refused.returncode == 3
    told = "fsmv2: cannot run: the current folder is gone; want to be started in a folder that"
    assert refused.stderr.startswith(told)
    assert not (tmp_path / "s.db").exists()


def test_store_that_is_a_folder_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "s.db").mkdir()
    refused = fsmv2("run", str(config), "--http", "off")
    assert refused.returncode == 3
    assert f"cannot open store {tmp_path}/s.db: got a folder, want a file" in refused.stderr
    assert sorted(os.listdir(tmp_path)) == ["s.db", "site.yaml"]


def test_address_that_cannot_be_had_is_told_for_what_it_is() -> None:
    with pytest.raises(StartError) as caught:
        opsprocess.bind("192.0.2.1:8642")  # of nobody, by RFC 5737
    assert os.strerror(errno.EADDRNOTAVAIL) in str(caught.value)
    assert "this machine has no such address, choose another" in str(caught.value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartError, match="is another supervisor running"):
            opsprocess.bind(f"127.0.0.1:{taken.getsockname()[1]}")
