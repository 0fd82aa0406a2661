"""The spool's writers and readers killed for real, at random moments, again and again.

    python benchmarks/communicator_kills.py [--seeds 1000] [--first 0]

For each seed a writer process puts groups of messages into an outbox and tells of each group once
it was taken; a reader process tells of each batch before it acknowledges it, as a relay's ledger
would. One of the two, or both, get SIGKILL within some milliseconds, and another takes its place,
three times; then everything is read. Told are messages, kills, and duplicates.

Exit status: 0; 1 when a message was lost, came in another order, or more of them came twice than
were in flight at a kill, with the seed; 2 for wrong options.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fsmv2.communicator import spool
from fsmv2.communicator.transport.codec import Message

KILLS = 3
LIFE_S_MAX = 0.012
IN_MEMORY = "/dev/shm"
BATCH_MAX = 7


class Child:
    """A forked process that writes lines to us until it is killed."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.lines: list[list[int]] = []
        self._read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read)
            with contextlib.suppress(BaseException):
                work(write)
            os._exit(3)
        os.close(write)

    def kill(self) -> list[list[int]]:
        """End it and return the numbers of each line that it has written."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        if os.WIFEXITED(status):
            raise RuntimeError(f"a child ended by itself with {os.WEXITSTATUS(status)}")
        with open(self._read, "rb") as pipe:
            text = pipe.read()
        # A pipe takes a short line whole, so that no line is torn.
        return [[int(number) for number in line.split()] for line in text.splitlines()]


def tell(pipe: int, numbers: list[int]) -> None:
    """One line, one write."""
    os.write(pipe, (" ".join(map(str, numbers)) + "\n").encode())


def writer(folder: Path, first: int, seed: int) -> Callable[[int], None]:
    """Appends groups of messages that are numbered from ``first``."""

    def work(pipe: int) -> None:
        rng = random.Random(seed)
        number = first
        while True:
            group = list(range(number, number + rng.randint(1, 5)))
            number += len(group)
            tell(pipe, [-1, *group])  # on their way
            spool.append(folder, [spool.encode(Message(email=str(each))) for each in group])
            tell(pipe, group)

    return work


def reader(folder: Path, seed: int) -> Callable[[int], None]:
    """Takes batches and acknowledges them."""

    def work(pipe: int) -> None:
        rng = random.Random(seed)
        while True:
            taken, *_ = spool.outgoing(folder, rng.randint(1, BATCH_MAX), 1 << 20)
            if taken:
                tell(pipe, [int(one.message.email) for one in taken])
                spool.acknowledge(taken)
            else:
                time.sleep(0.0005)

    return work


def run(seed: int, folder: Path) -> tuple[int, int, int]:
    """Messages, kills and duplicates of one seed; raises `AssertionError`."""
    rng = random.Random(seed)
    sent: list[int] = []
    unsure: set[int] = set()
    got: list[int] = []
    kills = 0
    begun = 0

    def new_writer() -> Child:
        return Child(writer(folder, begun, rng.getrandbits(32)))

    def new_reader() -> Child:
        return Child(reader(folder, rng.getrandbits(32)))

    write, read = new_writer(), new_reader()
    for life in range(KILLS):
        time.sleep(rng.random() * LIFE_S_MAX)
        last = life == KILLS - 1
        which = "both" if last else rng.choice(("writer", "reader", "both"))
        if which != "reader":
            for line in write.kill():
                if line[0] == -1:
                    begun = line[-1] + 1
                    unsure |= set(line[1:])
                else:
                    sent += line
            kills += 1
            if not last:
                write = new_writer()
        if which != "writer":
            got += [number for line in read.kill() for number in line]
            kills += 1
            if not last:
                read = new_reader()
    while taken := spool.outgoing(folder, 100, 1 << 20)[0]:
        got += [int(one.message.email) for one in taken]
        spool.acknowledge(taken)
    check(sent, unsure, got, kills)
    return len(sent), kills, len(got) - len(set(got))


def check(sent: list[int], unsure: set[int], got: list[int], kills: int) -> None:
    """Raise `AssertionError` unless what came is what was sent."""
    firsts = list(dict.fromkeys(got))
    assert set(sent) <= set(firsts), f"lost: {sorted(set(sent) - set(firsts))}"
    assert set(firsts) <= set(sent) | unsure, "something came that nobody sent"
    assert firsts == sorted(firsts), "the order is broken"
    twice = len(got) - len(firsts)
    assert twice <= kills * BATCH_MAX, f"{twice} came twice over {kills} kills"


def main() -> int:
    """Run all seeds; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds: got {options.seeds}, want at least 1")
    totals = [0, 0, 0]
    for seed in range(options.first, options.first + options.seeds):
        # Half of them in memory, where syncs take no time and kills hit between other steps.
        place = IN_MEMORY if seed % 2 and os.access(IN_MEMORY, os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=place) as folder:
            try:
                found = run(seed, Path(folder) / "outbox")
            except AssertionError as error:
                print(f"seed {seed}: {error}")
                return 1
        totals = [total + each for total, each in zip(totals, found, strict=True)]
    messages, kills, twice = totals
    print(
        f"{options.seeds} seeds, {kills} kills: {messages} messages taken, none lost, all in "
        f"order, {twice} came twice"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
