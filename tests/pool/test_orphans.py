"""Whose children a sweep touches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

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


# A process of its own, as it reaps whom nobody knows.
REAPING = """
import json, os, subprocess, sys, time
from fsmv2.ipc.linux import children_of, orphan_of, set_subreaper
from fsmv2.supervisor.pool.orphans import Orphans

set_subreaper(True)
orphans = Orphans("fsmv2.test.")
orphans.owns_process = sys.argv[1] == "owns"
own = subprocess.Popen(["sleep", "1000"])  # the host's, or known
dead = subprocess.Popen(["true"])
told, tell = os.pipe()

def daemon(mark, seconds):
    # Its parent ends at once, so it comes to us; in a session of its own.
    env = {**os.environ, **({"FSMV2_SLOT": f"fsmv2.test.0:{mark}"} if mark else {})}
    code = "import os, subprocess, sys; p = subprocess.Popen(['sleep', sys.argv[1]], "
    code += "stdout=subprocess.DEVNULL, start_new_session=True); "
    code += "print(p.pid, flush=True); os._exit(0)"
    command = [sys.executable, "-c", code, seconds]
    return int(subprocess.run(command, env=env, stdout=subprocess.PIPE).stdout)

def is_zombie(pid):
    return orphan_of(pid).is_zombie

known = {own.pid, dead.pid} if orphans.owns_process else set()
living = {4242424}
lives = daemon(4242424, "1000")
ends = daemon(4242424, "1")
strange = daemon(0, "0.01")
give_up = time.monotonic() + 60
while not (is_zombie(strange) and is_zombie(dead.pid)):
    assert time.monotonic() < give_up
    time.sleep(0.01)
dead_ends = 0
more = True
while ends in children_of(os.getpid()) and time.monotonic() < give_up:
    more = orphans.reap(known, living)
    time.sleep(0.02)
print(json.dumps({
    "more": more, "ends": is_zombie(ends), "strange": is_zombie(strange),
    "dead": is_zombie(dead.pid), "own": own.poll(), "lives": lives in children_of(os.getpid()),
}))
own.kill()
os.kill(lives, 9)
while lives in children_of(os.getpid()) and time.monotonic() < give_up:
    more = orphans.reap(known, living)
    time.sleep(0.02)
print(json.dumps({"more": orphans.reap(known - {own.pid, dead.pid}, living)}))
"""


@pytest.mark.proc
@pytest.mark.parametrize("whose", ["owns", "host"])
def test_orphans_that_end_while_their_proc_lives_are_reaped(whose: str) -> None:
    """Not those that live, nor known ones; in another's process nobody that may be its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", REAPING, whose],
        stdout=subprocess.PIPE,
        timeout=10 * PATIENCE_S,
        check=True,
    )
    first, last = (json.loads(line) for line in done.stdout.splitlines())
    expected: dict[str, Any] = {"more": True, "ends": False, "own": None, "lives": True}
    if whose == "owns":
        # A dead one that is known may stand before others: its owner is about to reap it.
        assert {**first, "strange": None} == {**expected, "dead": True, "strange": None}
    else:
        assert first == {**expected, "dead": True, "strange": True}
    assert last == {"more": False}
