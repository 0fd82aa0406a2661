"""A proc that says very much: others get their turn, and nothing that it said is lost."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.ipc.channel import READ_BYTES
from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import pack_frame
from fsmv2.ipc.messages import Progress
from fsmv2.supervisor.core.events import ActionProgressed
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool.answers import READS_AT_ONCE
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.pool.procs import ProcHandle

MESSAGES = 800
TEXT = "x" * 1_000
# The largest that an ordinary user may ask for: pipe(7).
PIPE_BYTES = 1 << 20


class Listening:
    """A pool that only listens, and what it has heard of each attempt."""

    def __init__(self, folder: str) -> None:
        self.heard: dict[int, list[int]] = {1: [], 2: []}
        self.happened: list[ProcEvent] = []
        self.pool = Pool(
            {"actions": 2},
            PoolOptions(),
            run_folder=folder,
            on_result=lambda *_: None,
            on_event=self._hear,
        )
        self.pool.happen = lambda _proc, event: self.happened.append(event)  # type: ignore[method-assign]
        self.procs = [self._proc(1), self._proc(2)]

    def _hear(self, event: Any) -> None:
        assert isinstance(event, ActionProgressed)
        self.heard[event.attempt_id].append(int(event.text.partition(" ")[0]))

    def _proc(self, attempt_id: int) -> ProcHandle:
        proc = ProcHandle(f"p{attempt_id}", attempt_id, 0.0)
        kind = SimpleNamespace(is_simple=False)
        attempt: Any = SimpleNamespace(id=attempt_id, key="", name="Flood", progress="", kind=kind)
        proc.attempt, proc.state = attempt, ProcState.BUSY
        fcntl.fcntl(proc.theirs[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.pool.poller.watch(
            proc.channel.read_fd, lambda mask: self.pool.answers.readable(proc, mask)
        )
        return proc

    def say(self, proc: ProcHandle, messages: int) -> int:
        """Have ``proc`` say so much; how many bytes one message is."""
        frames = [
            pack_frame(encode(Progress(proc.serial, f"{number:04} {TEXT}")))
            for number in range(messages)
        ]
        with open(proc.theirs[1], "wb", buffering=0, closefd=False) as pipe:
            assert pipe.write(b"".join(frames)) == sum(map(len, frames))
        return len(frames[0])

    def close(self) -> None:
        for proc in self.procs:
            proc.close()
        self.pool.nursery.oom.close()
        self.pool.poller.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    with tempfile.TemporaryDirectory(prefix="fsmv2-test-") as folder:
        made = Listening(folder)
        yield made
        made.close()


def test_a_flood_is_read_a_portion_a_step_and_others_are_heard_meanwhile(
    listening: Listening,
) -> None:
    flooding, quiet = listening.procs
    size = listening.say(flooding, MESSAGES)
    listening.say(quiet, 1)
    listening.pool.poller.poll()
    assert listening.heard[2] == [0]
    assert 0 < len(listening.heard[1]) <= READS_AT_ONCE * READ_BYTES // size
    for _ in range(MESSAGES):
        listening.pool.poller.poll()
    assert listening.heard[1] == list(range(MESSAGES))
    assert listening.happened == []


def test_all_that_a_dead_one_had_said_still_counts(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no next step for it."""
    flooding, _quiet = listening.procs
    listening.say(flooding, MESSAGES)
    flooding.close_theirs()
    monkeypatch.setattr(ProcHandle, "reap", lambda _proc: (0, 0.0))
    listening.pool.nursery._exited(flooding, 1)
    assert listening.heard[1] == list(range(MESSAGES))
    assert listening.happened[-1] is ProcEvent.EXITED
