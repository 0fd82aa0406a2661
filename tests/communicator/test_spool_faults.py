"""Death between any two steps, and power cuts: nothing that was acknowledged is lost, nothing but
the batch in flight comes twice, the order holds.

Seeded histories run on a disk in memory up to a random step; what is found there afterwards is
compared with what was promised until then."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest
from memorydisk import Died, MemoryDisk

from fsmv2.communicator import spool
from fsmv2.communicator.transport.codec import Message

FOLDER = Path("/spool")
HISTORIES = 400


def emails(messages: list[Message]) -> list[int]:
    return [int(message.email) for message in messages]


class Outbox:
    """A writer and a reader, and what each of them was promised."""

    def __init__(self, rng: random.Random, disk: MemoryDisk) -> None:
        self.rng, self.disk = rng, disk
        self.sent: list[int] = []
        self.coming: list[int] = []
        self.acknowledged = 0
        self.in_flight = 0
        self.set_aside: list[int] = []

    def run(self, acts: int) -> None:
        for _ in range(acts):
            if self.rng.random() < 0.5:
                self.append()
            else:
                self.deliver()

    def append(self) -> None:
        self.coming = list(range(len(self.sent), len(self.sent) + self.rng.randint(1, 5)))
        lines = [spool.encode(Message(email=str(each))) for each in self.coming]
        spool.append(FOLDER, lines, disk=self.disk)
        self.sent += self.coming
        self.coming = []

    def deliver(self) -> None:
        taken, *_ = spool.outgoing(FOLDER, self.rng.randint(1, 8), 1 << 20, self.disk)
        if taken and self.rng.random() < 0.2:
            taken = taken[:1]
            self.in_flight = 1
            self.set_aside.append(int(taken[0].message.email))
            spool.set_aside(taken[0])
        else:
            if taken:
                spool.check_forgettable(taken)
            self.in_flight = len(taken)
            spool.acknowledge(taken)
        self.acknowledged += self.in_flight
        self.in_flight = 0

    def left(self) -> list[int]:
        return emails([one.message for one in spool.outgoing(FOLDER, 999, 1 << 20, self.disk)[0]])

    def check(self) -> None:
        left = self.left()
        for arrived in ([], self.coming):  # the group on its way is there whole or not at all
            sent = self.sent + arrived
            for seen in range(self.in_flight + 1):
                if left == sent[self.acknowledged + seen :]:
                    return
        raise AssertionError(
            f"{left} of {self.sent}+{self.coming}, acknowledged to "
            f"{self.acknowledged}+{self.in_flight}"
        )

    def check_kept(self) -> None:
        """What was set aside is there for people, once; the last one may be both there and here."""
        kept = [name for name in self.disk.names(FOLDER) if name.endswith(".refused")]
        found = [int(json.loads(self.disk.read(FOLDER / name))["email"]) for name in kept]
        done = self.set_aside[: -1 if self.in_flight else None]
        assert sorted(found) in (done, self.set_aside)


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
def test_outbox_survives_death_at_any_step(power_cut: bool) -> None:
    """Scenarios 37, 38, 39 and 41, this side: a spool goes on where it was, three deaths long."""
    deaths = 0
    for seed in range(HISTORIES):
        rng = random.Random(seed)
        disk = MemoryDisk()
        for _ in range(3):
            outbox = Outbox(rng, disk)
            disk.steps_left = None
            outbox.sent = outbox.left()
            disk.steps_left = rng.randint(0, 60)
            try:
                with contextlib.suppress(Died):
                    outbox.run(12)
                    disk.steps_left = 0
                deaths += disk.steps_left == 0
                disk.steps_left = None
                if power_cut:
                    disk.power_cut(rng)
                outbox.check()
                if not power_cut:
                    outbox.check_kept()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            for name in disk.names(FOLDER):  # the next life numbers anew
                if name.endswith(".refused"):
                    disk.unlink(FOLDER / name)
            renumber(outbox, disk)
    assert deaths > HISTORIES


def renumber(outbox: Outbox, disk: MemoryDisk) -> None:
    """Deliver what is left, so that the next life begins with nothing but the note and drafts."""
    while taken := spool.outgoing(FOLDER, 5, 1 << 20, disk)[0]:
        spool.acknowledge(taken)
    assert outbox.left() == []


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
def test_saved_reply_survives_death_at_any_step(power_cut: bool) -> None:
    """Once its save has returned, each message of a reply is there to be consumed; at most that
    one batch twice."""
    reply = b'{"UMHMessages":[{"email":"0"},{"email":"1"},{"email":"2"}]}'
    for seed in range(HISTORIES):
        rng = random.Random(seed)
        disk = MemoryDisk()
        disk.steps_left = rng.randint(0, 20)
        saved = finished = False
        consumed: list[int] = []
        with contextlib.suppress(Died):
            path = spool.place_for(FOLDER, disk).save(reply, lambda: False)
            saved = True
            spool.unpack(path, disk)
            files = spool.inbox_files(FOLDER, disk)
            consumed += emails(spool.read_messages(files[0], disk))
            spool.finish(files, disk)
            finished = True
        disk.steps_left = None
        if power_cut:
            disk.power_cut(rng)
        for path in spool.saved_replies(FOLDER, disk):
            spool.unpack(path, disk)
        left = [m for p in spool.inbox_files(FOLDER, disk) for m in spool.read_messages(p, disk)]
        assert emails(left) in ([0, 1, 2], []), seed
        assert emails(left) or consumed or not saved, f"seed {seed}: a saved reply is lost"
        assert not (finished and left), f"seed {seed}: what is dealt with comes again"


def test_a_step_without_space_leaves_nothing_half_done() -> None:
    """ENOSPC, or EIO, at any single step: a group is taken or it is not there, what was there is
    still there, and the next try works."""
    told: list[str] = []
    for fails_at in range(1, 80):
        rng = random.Random(fails_at)
        disk = MemoryDisk()
        disk.fails_at = fails_at
        outbox = Outbox(rng, disk)
        for _ in range(12):
            try:
                outbox.append()
            except OSError as error:
                told.append(str(error))
                outbox.coming = []
            assert outbox.left() == outbox.sent[outbox.acknowledged :], fails_at
            try:
                outbox.deliver()
            except OSError:
                told.append("")
                gone = len(outbox.sent) - len(outbox.left())
                assert outbox.acknowledged <= gone <= outbox.acknowledged + outbox.in_flight
                outbox.acknowledged = gone
                outbox.in_flight = 0
    assert all("none of them was kept" in text for text in told if text)
    assert len(told) > 60
    assert "" in told
