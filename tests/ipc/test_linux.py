"""The kernel's calls without a Python function: what they promise, and that none of them raises."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fsmv2.ipc import linux
from fsmv2.ipc.page import Page, create_page

BARRIERS = pytest.mark.skipif(
    not linux.register_for_barriers(), reason="this kernel has no expedited membarrier"
)


def test_registering_for_barriers_may_be_repeated() -> None:
    """It is kept, and says the same each time."""
    assert linux.register_for_barriers() is linux.register_for_barriers()


@BARRIERS
def test_a_barrier_needs_no_registration_of_the_one_who_asks() -> None:
    """Only those it shall reach register: the root never does."""
    code = "from fsmv2.ipc.linux import memory_barrier; raise SystemExit(not memory_barrier())"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("call", [linux.register_for_barriers, linux.memory_barrier])
def test_a_machine_without_the_call_says_no(monkeypatch: pytest.MonkeyPatch, call: object) -> None:
    """Neither an unknown architecture nor an old kernel is an error."""
    assert callable(call)
    monkeypatch.setattr(linux, "_MEMBARRIER", None)
    assert call() is False
    monkeypatch.setattr(linux, "_MEMBARRIER", 100_000)  # no such system call
    assert call() is False


@BARRIERS
def test_of_two_sides_that_mark_and_then_look_at_least_one_sees_the_other() -> None:
    """With the barrier on one side only. That an order taken back is not run rests on it."""
    code = (
        "import mmap, sys\n"
        "from fsmv2.ipc.linux import register_for_barriers\n"
        "from fsmv2.ipc.page import Page\n"
        "page = Page(int(sys.argv[1]))\n"
        "register_for_barriers()\n"
        "print('ready', flush=True)\n"
        "for place in map(int, sys.stdin):\n"
        "    page.begin(place, 0.0, 0.0)\n"
        "    print(int(page.is_revoked(place)), flush=True)\n"
    )
    fd = create_page("test")
    page = Page(fd)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        pass_fds=(fd,),
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        assert peer.stdout.readline() == "ready\n"
        for place in range(1, 2_000):
            peer.stdin.write(f"{place}\n")
            page.revoke(place, place + 1)
            assert linux.memory_barrier()
            seen_begun = page.begun()[0] == place
            peer_saw_revoked = peer.stdout.readline() == "1\n"
            assert seen_begun or peer_saw_revoked, f"both missed it at {place}"
        peer.stdin.close()
    page.close()
    os.close(fd)


# --- who is below whom ----------------------------------------------------------------------


@pytest.mark.proc
def test_a_scan_of_all_processes_finds_what_the_kernels_lists_say() -> None:
    """Parents before children, at most so many, and nobody below one that is passed over."""
    code = (
        "import os, sys\n"
        "for _ in range(2):\n"
        "    if os.fork():\n"
        "        break\n"
        "else:\n"
        "    print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as top:
        assert top.stdin is not None
        assert top.stdout is not None
        assert top.stdout.readline() == b"ready\n"
        child, grandchild = below = linux.descendants_by_scan(top.pid)
        place = linux.place_of(grandchild)
        assert place is not None
        assert place.parent_pid == child
        assert linux.descendants_by_scan(top.pid, 1) == [child]
        assert linux.descendants_by_scan(top.pid, skip={child}) == []
        if linux.has_children_lists():
            assert linux.descendants_of(top.pid) == below
        top.stdin.close()
    assert linux.place_of(top.pid) is None
    assert linux.descendants_by_scan(top.pid) == []
