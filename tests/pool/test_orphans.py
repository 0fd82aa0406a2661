"""Whose children a sweep touches."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from fsmv2.ipc.linux import place_of, set_subreaper
from fsmv2.supervisor.pool.orphans import Orphans


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host's own, the leader of its session."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def test_a_host_s_child_that_got_the_number_of_a_dead_proc_lives_on(
    child: subprocess.Popen[bytes],
) -> None:
    """Numbers come round; a session's number is not given out while the session has members."""
    orphans = Orphans("fsmv2.test.")
    orphans.bury(child.pid, ())
    assert orphans.sweep(known=set(), living=set()) == 0
    assert child.poll() is None


def test_what_was_below_a_dead_proc_is_killed(child: subprocess.Popen[bytes]) -> None:
    """The other way round: this one was seen as the proc's own."""
    orphans = Orphans("fsmv2.test.")
    orphans.bury(0, (child.pid,))
    assert orphans.sweep(known=set(), living=set()) == 1


PATIENCE_S = 20.0


def test_one_that_is_dead_before_its_doomed_parent_is_reaped_once_that_is_dead_too() -> None:
    """Killed together, they die in any order; the kernel gives the child to us with the parent's
    end. Nobody else would reap it."""
    set_subreaper(True)
    told, tell = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.write(tell, b"%d" % child)
        time.sleep(1000)
        os._exit(0)
    child = int(os.read(told, 20))
    orphans = Orphans("fsmv2.test.")
    try:
        give_up = time.monotonic() + PATIENCE_S
        while (place := place_of(child)) is None or place.state != "Z":
            assert time.monotonic() < give_up, place
            time.sleep(0.002)
        orphans.bury(0, (parent, child))
        orphans.sweep(known={parent}, living=set())  # its parent's death is not seen yet
        assert orphans.sweep_at is not None
        os.kill(parent, signal.SIGKILL)
        while orphans.sweep_at is not None:
            assert time.monotonic() < give_up
            orphans.sweep(known=set(), living=set())
            time.sleep(0.002)
        assert place_of(child) is None
        assert place_of(parent) is None
    finally:
        set_subreaper(False)
        for fd in (told, tell):
            os.close(fd)
