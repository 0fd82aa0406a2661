"""What a process with our handlers tells on the dump signal, without a pool around it."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from fsmv2.ipc.page import Page, create_page, read_dump
from fsmv2.supervisor.pool.certificate import main_thread_cpu_now_s
from fsmv2.workerproc.evidence import DUMP_SIGNAL, HEARD_BYTE

pytestmark = pytest.mark.proc

PATIENCE_S = 60.0
HANGS_IN_PYTHON = "import time\nwhile True: time.sleep(60)"
# Unlike `re`, it does not look for signals now and then.
HANGS_IN_C = "import collections, itertools\ncollections.deque(itertools.repeat(0), maxlen=0)"
# CPU time after which it must have come from the imports to the loop.
SURELY_IN_C_S = 0.3
CLOSED = "import time\nos.close(woken)\nwhile True: time.sleep(60)"


class Victim(NamedTuple):
    """A process with our handlers, and the root's ends of what it was given."""

    process: subprocess.Popen[bytes]
    page: Page
    page_fd: int
    woken_fd: int

    def word(self) -> bytes:
        """The next byte it writes when woken."""
        ready, _, _ = select.select([self.woken_fd], [], [], PATIENCE_S)
        assert ready, "never: a byte in the wake-up pipe"
        return os.read(self.woken_fd, 1)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def victim(code: str) -> Iterator[Victim]:
    """A process that has said that it hangs in ``code`` next."""
    page_fd = create_page("test")
    page = Page(page_fd)
    woken_read, woken_write = os.pipe()
    program = (
        "import os, sys\nfrom fsmv2.workerproc.evidence import install\n"
        f"woken = {woken_write}\ninstall({page_fd}, woken)\n"
        f"print('ready', flush=True)\n{code}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], pass_fds=(page_fd, woken_write), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.close(woken_write)
        yield Victim(process, page, page_fd, woken_read)
    finally:
        process.kill()
        process.communicate()
        page.close()
        os.close(page_fd)
        os.close(woken_read)


def test_python_that_still_runs_says_so_at_once_after_the_dump() -> None:
    """First the C half's byte: the dump is whole. Then the Python half's: it was heard."""
    with victim(HANGS_IN_PYTHON) as hung:
        hung.process.send_signal(DUMP_SIGNAL)
        assert hung.word() == bytes([DUMP_SIGNAL])
        assert "<module>" in read_dump(hung.page_fd)
        assert hung.word() == HEARD_BYTE
        assert hung.page.heard() == 1


def test_code_that_hangs_in_c_gives_its_stack_and_is_not_heard() -> None:
    """The second dump's byte comes right after the first's: nothing was heard in between."""
    with victim(HANGS_IN_C) as hung:
        give_up = time.monotonic() + PATIENCE_S
        began_s = cpu_s(hung.process.pid)
        while cpu_s(hung.process.pid) < began_s + SURELY_IN_C_S and time.monotonic() < give_up:
            time.sleep(0.01)
        for _ in range(2):
            hung.process.send_signal(DUMP_SIGNAL)
            assert hung.word() == bytes([DUMP_SIGNAL])
        assert hung.page.heard() == 0


def test_an_action_that_closes_the_descriptor_lives_on_and_is_heard_on_the_page() -> None:
    """The mark comes before the byte, and no error gets into the action."""
    with victim(CLOSED) as hung:
        for times in (1, 2):
            hung.process.send_signal(DUMP_SIGNAL)
            give_up = time.monotonic() + PATIENCE_S
            while hung.page.heard() < times and time.monotonic() < give_up:
                time.sleep(0.01)
            assert hung.page.heard() == times


COUNTS = """
import mmap, struct, sys
page = mmap.mmap(int(sys.argv[1]), 8)
number = 0
while True:
    number += 1
    page[:] = struct.pack("q", number)
"""


def test_the_cpu_time_of_a_running_thread_is_that_of_this_moment() -> None:
    """Not that of the kernel's last tick: who was seen to work has had some since."""
    page_fd = os.memfd_create("count")
    os.ftruncate(page_fd, 8)

    def counted() -> int:
        return int(struct.unpack("q", os.pread(page_fd, 8, 0))[0])

    with (
        os.fdopen(page_fd),
        subprocess.Popen([sys.executable, "-c", COUNTS, str(page_fd)], pass_fds=[page_fd]) as child,
    ):
        try:
            until = time.monotonic() + PATIENCE_S
            for _ in range(200):
                before, number = main_thread_cpu_now_s(child.pid), counted()
                while counted() < number + 20:
                    assert time.monotonic() < until
                after = main_thread_cpu_now_s(child.pid)
                assert before is not None
                assert after is not None
                assert after > before
            assert os.sched_getscheduler(child.pid) == os.SCHED_OTHER
        finally:
            child.kill()
    assert main_thread_cpu_now_s(child.pid) is None
