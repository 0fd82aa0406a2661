"""What commands do when nobody takes their output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proc

DEADLINE_S = 60.0
FULL = "fsmv2: cannot write to standard output: No space left on device\n"
Ended = tuple[int, str]
RUN = ("run", "site.yaml", "--seconds", "0.2", "--http", "off")


def fsmv2(stdout: int, folder: Path, *arguments: str, stderr: int = subprocess.PIPE) -> Ended:
    """Run a command with ``stdout``; its code, and what it said on standard error."""
    (folder / "site.yaml").write_text("name: site\npool: {procs: 1}\n")
    command = (sys.executable, "-P", "-m", "fsmv2.supervisor", *arguments)
    ended = subprocess.run(
        command,
        check=False,
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        timeout=DEADLINE_S,
        text=True,
    )
    return ended.returncode, ended.stderr or ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--help",), 3), (("check", "site.yaml"), 3), (RUN, 0)],
)
def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """With a code of its own; a run ends with that of its stop."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended, said = fsmv2(full, tmp_path, *arguments)
        assert ended == code
        assert said.endswith(FULL)
        assert "Traceback" not in said
        if code:
            assert said == FULL
    finally:
        os.close(full)


def test_standard_error_may_be_full_too(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert fsmv2(full, tmp_path, "runbook", stderr=full)[0] == 3
    finally:
        os.close(full)


@pytest.mark.parametrize("arguments", [("runbook",), RUN])
def test_a_reader_that_went_away_is_no_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended, said = fsmv2(write, tmp_path, *arguments)
    finally:
        os.close(write)
    assert ended == 0
    assert "Traceback" not in said
    assert "cannot write" not in said


def test_a_command_that_fails_keeps_its_code(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert fsmv2(full, tmp_path, "check", "nothing.yaml")[0] == 2
    finally:
        os.close(full)


def test_all_of_a_long_output_arrives_also_where_the_reader_is_slow(tmp_path: Path) -> None:
    """A pipe that does not block takes what it has room for, and is waited for."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    script = (
        "from fsmv2.supervisor.commandline.output import run_with_output\n"
        "run_with_output(lambda: print('x' * 1_000_000))"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=write)
    os.close(write)
    with open(read, "rb") as stream:
        assert stream.read() == b"x" * 1_000_000 + b"\n"
    assert process.wait(DEADLINE_S) == 0
