"""One push of an outbox and one pull into an inbox at a time, whoever and wherever they are."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.spool.disk import DISK
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay

WAIT_S = 20.0
SLOW = Fault(delay_s=3600)
HOLDS = """
import sys, time
from pathlib import Path
from fsmv2.communicator import spool
with spool.pushing(Path(sys.argv[1])), spool.pulling(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def under_way(relay: Relay, endpoint: str, act: Callable[[], Direction]) -> Iterator[None]:
    """``act`` in a thread, with its request open for the block."""
    relay.fault(endpoint, SLOW)
    thread = threading.Thread(target=act)
    thread.start()
    try:
        assert relay.wait_for(lambda r: r.observed.at_a_time(endpoint) == 1)
        yield
    finally:
        relay.heal()
        thread.join(WAIT_S)
    assert not thread.is_alive()


def test_an_outbox_that_is_pushed_is_pushed_by_nobody_else(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """A reload that gives a worker another name has two of them for a moment: each message goes
    once, the second one says why it waits, and has its turn after the first."""
    pusher = Pusher(relay, context, tmp_path)
    pusher.post(*range(20))
    other = PushAction(pusher.access, str(pusher.outbox))
    with under_way(relay, "push", lambda: other.execute(context)):
        stands = pusher.push()
        assert stands.problem is not None
        assert "another communicator pushes from 'out'" in stands.problem.text
        assert stands.problem.retry_after_s
        assert (stands.moved, stands.errors_in_row) == (0, 1)
        assert relay.observed.at_a_time("push") == 1
    pusher.post(20)
    assert pusher.push().problem is None
    assert pusher.arrived() == list(range(21))


def test_an_inbox_that_is_pulled_into_is_pulled_into_by_nobody_else(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Not even what is saved there is unpacked: it may be the first one's, who is at it. The
    consumer's claim is another."""
    access = Pusher(relay, context, tmp_path).access
    inbox = tmp_path / "in"
    pull = PullAction(access, str(inbox))
    with under_way(relay, "pull", lambda: pull.execute(context)):
        (inbox / "1.reply").write_bytes(b'{"UMHMessages":[]}')
        with spool.claim(inbox):
            stands = pull.execute(context)
        assert stands.problem is not None
        assert "another communicator pulls into 'in'" in stands.problem.text
        assert (inbox / "1.reply").exists()
        assert len(relay.requests("pull")) == 1
    with spool.claim(inbox):
        assert pull.execute(context).problem is None
    assert not (inbox / "1.reply").exists()


def test_a_folder_may_be_inbox_and_outbox_of_two(tmp_path: Path) -> None:
    """What one has pulled another passes on: neither claim is in the other's way."""
    with spool.pulling(tmp_path), spool.pushing(tmp_path), spool.claim(tmp_path):
        with pytest.raises(spool.Taken), spool.pulling(tmp_path):
            pass
        with pytest.raises(spool.Taken), spool.pushing(tmp_path):
            pass
    with spool.pulling(tmp_path), spool.pushing(tmp_path) as is_there:
        assert is_there


def test_an_outbox_that_is_not_there_is_nothing_to_send(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """And is not made."""
    pusher = Pusher(relay, context, tmp_path)
    assert pusher.push().problem is None
    assert not pusher.outbox.exists()


@pytest.mark.proc
def test_a_killed_proc_holds_no_turn(tmp_path: Path) -> None:
    """The kernel lets go of it."""
    out, inbox = tmp_path / "out", tmp_path / "in"
    out.mkdir()
    command = [sys.executable, "-P", "-c", HOLDS, str(out), str(inbox)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(spool.Taken), spool.pushing(out):
                pass
            with pytest.raises(spool.Taken), spool.pulling(inbox):
                pass
        finally:
            holder.kill()
    with spool.pushing(out), spool.pulling(inbox):
        pass


def test_where_folders_have_no_locks_a_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS wants a handle that may be written to."""
    real = fcntl.flock

    def flock(handle: Any, how: int) -> None:
        if isinstance(handle, int) and os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    let_go = DISK.lock_folder(tmp_path, ".pusher")
    assert let_go is not None
    assert (tmp_path / ".pusher").exists()
    assert DISK.lock_folder(tmp_path, ".pusher") is None
    let_go()
    with spool.pushing(tmp_path) as is_there:
        assert is_there
