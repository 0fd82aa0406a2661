"""A disk that fails now and then, under the router and its channels: every order is run once, in
its turn, and ended once, as soon as the disk works again."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playedline import WAIT_S, Line

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds
from fsmv2.communicator.spool.disk import Disk
from fsmv2.communicator.spool.journal import Journal
from fsmv2.communicator.switchboard import outbound
from fsmv2.communicator.transport.codec import decode_content

SEEDS = 20
ORDERS = 30
# Not `unlink`: a group that can neither be made durable nor be taken back may come twice.
STEPS = ("names", "size", "read", "create", "append", "sync", "rename", "sync_folder")


class BadDisk:
    """Lets the first step fail, and others at random, while it ``is_bad``, whichever thread does
    them."""

    def __init__(self, rng: random.Random, patch: pytest.MonkeyPatch) -> None:
        self.is_bad = False
        self.failed = 0
        self._rng = rng
        self._share = rng.choice([0.02, 0.1, 0.3])
        self._lock = threading.Lock()
        for name in STEPS:
            patch.setattr(Disk, name, self._maybe(getattr(Disk, name)))

    def _maybe(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def do(*args: Any, **options: Any) -> Any:
            with self._lock:
                fails = self.is_bad and (not self.failed or self._rng.random() < self._share)
                self.failed += fails
            if fails:
                raise OSError(errno.EIO, "Input/output error")
            return step(*args, **options)

        return do


class Story:
    """Orders come, are run and answered, and are pushed from time to time."""

    def __init__(self, rng: random.Random, line: Line, disk: BadDisk) -> None:
        self.rng, self.line, self.disk = rng, line, disk
        self.sent = 0
        self.got: list[tuple[str, str]] = []

    def run(self) -> None:
        ends_at = time.monotonic() + WAIT_S
        while not self.is_over():
            assert time.monotonic() < ends_at, f"{self.line.router}, {self.line.left()} left"
            self.disk.is_bad = False
            self.send()
            self.push()
            self.disk.is_bad = self.sent < ORDERS
            self.route()
            time.sleep(0.0005)  # for the writer, which is a thread of its own

    def is_over(self) -> bool:
        if self.sent < ORDERS or self.line.router.in_flight:
            return False
        return not (self.line.left() or self.line.outbound.present.messages)

    def send(self) -> None:
        for _ in range(min(self.rng.randint(0, 3), ORDERS - self.sent)):
            self.line.order(f"u{self.sent}")
            self.sent += 1
            if self.rng.random() < 0.2:
                self.line.send("!no content")

    def push(self) -> None:
        taken, *_ = spool.outgoing(self.line.folder / "out", self.rng.randint(0, 9), 1 << 30)
        for one in taken:
            payload = decode_content(one.message.content)[1]
            self.got.append((payload["actionUUID"], payload["actionReplyState"][7:]))
        spool.acknowledge(taken)

    def route(self) -> None:
        for _ in range(self.rng.randint(1, 5)):
            try:
                self.line.router.step()
            except OSError:
                continue  # the switchboard's thread waits and steps again
        for index, (_, future) in enumerate(self.line.pool.taken):
            if not future.done() and self.rng.random() < 0.5:
                self.line.pool.end(index, value=index)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_order_is_run_and_ended_once_on_a_bad_disk(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenarios 41 and 56, this side; what was done is known after a restart too."""
    monkeypatch.setattr(outbound, "RETRY_S", 0.001)
    monkeypatch.setattr(outbound, "RECOUNT_S", 0.001)
    rng = random.Random(seed)
    disk = BadDisk(rng, monkeypatch)
    line = Line(tmp_path, Bounds(messages_max=rng.choice([6, 40])))
    story = Story(rng, line, disk)
    try:
        story.run()
    finally:
        disk.is_bad = False
        line.outbound.close()
    uuids = [f"u{number}" for number in range(ORDERS)]
    for each in uuids:
        states = [state for uuid, state in story.got if uuid == each]
        assert states == ["confirmed", "executing", "success"]
    assert [uuid for uuid, state in story.got if state == "confirmed"] == uuids
    assert len(line.pool.taken) == ORDERS
    journal = Journal(tmp_path / "in")
    assert [each for each in uuids if each not in journal] == []
    assert disk.failed > 0
