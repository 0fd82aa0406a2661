"""Whose children a sweep touches."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from fsmv2.supervisor.orphans import Orphans


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
