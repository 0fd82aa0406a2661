"""Kills a communicator's procs and its supervisor at random while messages go both ways.

    python benchmarks/communicator_soak.py [--kills 1000] [--seed N] [--seeds 1] [--keep]

A supervisor with one communicator works against the relay's stand-in, whose answers are late, so
that kills find requests under way. Before each kill messages are posted and others are queued at
the relay; then a random proc, the template, or now and then the supervisor itself gets SIGKILL at a
random moment; every sixth time somebody who has a request under way. In the end every message is
accounted for:

- to the relay: each one arrived, none before one that was posted earlier; what came again came in
  at most one batch for each kill before, the one that it caught;
- from the relay: each one was received and in order, but for those in a reply that was on its way
  when its proc was killed. The wire has no acknowledgement: the relay forgets what it hands out.
  Such replies are counted, and there is at most one for each kill; so are those that are received
  again, because a kill came after one was unpacked and before that was noted.

It tells how many kills found a request under way: those of a process that was connected to the
relay, or of the supervisor, with which such a process ends, while the relay owed an answer.

The seed decides who is struck and when, not how the machine schedules; ``--seeds`` has so many
runs, each with the next seed, that many kills and a supervisor and folders of its own. Exit status:
0 when all of this holds, 1 when not (each fault has a line that begins with "FAULT"), 2 for wrong
options.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from fsmv2.communicator import spool
from fsmv2.communicator.testing.backend import Answer
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import codec
from fsmv2.ipc.linux import descendants_of, is_alive

TOKEN, EMAIL = "soak-token-soak-token", "ada@example.com"
PAUSE_S_MAX = 0.15  # from the posting to the strike
EACH_MAX = 12  # messages a way for each kill
ROOT_EVERY = 6  # of so many strikes one is at the supervisor
AIMS_EVERY = 6  # of so many one waits for a request, no longer than
AIMS_S_MAX = 3.0
LATE_S = 0.05  # between what a request does at the relay and its answer
PATIENCE_S = 60.0


class Root:
    """The supervisor, started again when it was killed."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._config = folder / "soak.yaml"
        self._config.write_text(
            "name: soak\nplugins: [fsmv2.communicator]\npool: {procs: 2}\n"
            "workers:\n  - name: uplink\n    type: communicator\n    config:\n"
            f"      relay_url: {url}\n      auth_token: {TOKEN}\n      poll_interval_s: 0.05\n"
            f"      outbox: {folder}/outbox\n      inbox: {folder}/inbox\n"
        )
        self.starts = 0
        self._log = (folder / "log.jsonl").open("ab")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """A new one; the one before is gone."""
        self.starts += 1
        command = (sys.executable, "-P", "-m", "fsmv2.supervisor", "run", str(self._config))
        options = ("--http", "127.0.0.1:0", "--log-format", "json")
        self.process = subprocess.Popen(
            [*command, *options], stdout=self._log, stderr=self._log, start_new_session=True
        )
        return self.process

    def strike(self, choice: random.Random, aims: bool, relay: Relay) -> tuple[str, bool]:
        """Kill somebody; returns whom, and whether that found a request under way. ``aims``: wait
        for one first."""
        at_root = choice.randrange(ROOT_EVERY) == 0
        if not at_root:
            # One that has just been started has no procs yet, and would never have any.
            until(lambda: bool(self.below()))
            time.sleep(choice.uniform(0.0, PAUSE_S_MAX))
        if aims:
            until(lambda: bool(self.asking(relay)), AIMS_S_MAX)
        asking = self.asking(relay)
        if at_root:
            self.process.kill()
            self.process.wait()
            self.start()
            return "root", bool(asking)
        pid = choice.choice((asking if aims else []) or self.below() or [0])
        try:
            if not pid:
                return "gone", False
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return "gone", False
        return "proc", pid in asking

    def asking(self, relay: Relay) -> list[int]:
        """Those that hold a connection to the relay, if a request waits for its answer."""
        with relay.changed:
            if not relay.observed.at_a_time():
                return []
        port = urllib.parse.urlsplit(relay.url).port
        return [pid for pid in self.below() if is_connected(pid, port)]

    def below(self) -> list[int]:
        """Its procs and whatever else it has started."""
        return [pid for pid in descendants_of(self.process.pid) if is_alive(pid)]

    def end(self) -> None:
        """Stop it in good order, or by force."""
        below = descendants_of(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in below:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._log.close()


class Accounts:
    """What was sent and what came, each way."""

    def __init__(self, relay: Relay, folder: Path) -> None:
        self._relay, self._folder = relay, folder
        self.posted = self.queued = 0
        self.received: list[int] = []
        self.replies: list[list[int]] = []
        self._handed = relay.backend.pull
        relay.backend.pull = self._pull  # type: ignore[method-assign]

    def _pull(self, headers: Any) -> Answer:
        answer = self._handed(headers)
        if answer.status == 200:
            found = codec.decode_batch(answer.body).messages
            if found:
                self.replies.append([codec.decode_content(one.content)[1] for one in found])
        return answer

    def send(self, out: int, back: int) -> None:
        """Some messages more each way."""
        for _ in range(out):
            payload = {"number": self.posted}
            spool.post(self._folder / "outbox", email=EMAIL, message_type="status", payload=payload)
            self.posted += 1
        for _ in range(back):
            self._relay.send(EMAIL, "action", self.queued)
            self.queued += 1

    def receive(self) -> None:
        """Take what is in the inbox, as its consumer does."""
        for file in spool.inbox_files(self._folder / "inbox"):
            for message in spool.read_messages(file):
                self.received.append(codec.decode_content(message.content)[1])
            spool.finish([file])

    @property
    def arrived(self) -> list[int]:
        """The numbers at the relay, in order of arrival."""
        return [one.payload["number"] for one in self._relay.pushed()]

    def is_done(self) -> bool:
        """Whether nothing is on its way any more."""
        self.receive()
        waiting = len(self._relay.instance.queue)
        got, kept = set(self.received), sum(map(len, self.replies))
        lost = {number for reply in self.replies for number in reply} - got
        return (
            len(set(self.arrived)) == self.posted
            and not waiting
            and kept >= self.queued
            and not (lost and spool.inbox_files(self._folder / "inbox"))
        )

    def faults(self, kills: int) -> list[str]:
        """What does not hold, one line each."""
        found = []
        arrived = self.arrived
        first = [*dict.fromkeys(arrived)]
        if first != sorted(first):
            found.append("messages to the relay are out of order")
        if missing := sorted(set(range(self.posted)) - set(first)):
            found.append(f"lost on the way to the relay: {missing[:10]}")
        again = repeated([(one.payload["number"], one.batch) for one in self._relay.pushed()])
        if len(again) > kills:
            found.append(f"{len(again)} batches came again, want at most one for each kill")
        got = set(self.received)
        times = Counter(self.received)
        twice = [reply for reply in self.replies if any(times[number] > 1 for number in reply)]
        if len(twice) > kills:
            found.append(f"{len(twice)} replies were received again, want at most one a kill")
        first = [*dict.fromkeys(self.received)]
        if first != sorted(first):
            found.append("messages from the relay are out of order")
        cut = self.cut_replies()
        torn = [reply for reply in self.replies if 0 < len(got & set(reply)) < len(reply)]
        if torn:
            found.append(f"{len(torn)} replies of the relay were received in part")
        if len(cut) > kills:
            found.append(f"{len(cut)} replies of the relay are lost, want at most one a kill")
        return found

    def cut_replies(self) -> list[list[int]]:
        """Replies that were handed out and never came in."""
        got = set(self.received)
        return [reply for reply in self.replies if not got & set(reply)]


def repeated(arrived: Sequence[tuple[int, int]]) -> set[int]:
    """The batches of which something came again later; ``arrived`` are messages, each with its
    batch, in their order."""
    last: dict[int, int] = {}
    found = set()
    for number, batch in arrived:
        if number in last:
            found.add(last[number])
        last[number] = batch
    return found


def is_connected(pid: int, port: int | None) -> bool:
    """Whether a process has a connection to ``port`` of this machine."""
    with contextlib.suppress(psutil.Error):
        connections = psutil.Process(pid).net_connections("tcp4")
        return any(one.raddr and one.raddr.port == port for one in connections)
    return False


def until(claim: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Whether ``claim`` comes true in time."""
    give_up = time.monotonic() + patience_s
    while not claim():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def soak(kills: int, seed: int, folder: Path) -> list[str]:
    """All kills, then the account; returns the faults."""
    choice = random.Random(seed)
    struck: Counter[str] = Counter()
    found_request = 0
    began = time.monotonic()
    with Relay(token=TOKEN) as relay:
        accounts = Accounts(relay, folder)
        root = Root(folder, relay.url)
        try:
            until(lambda: relay.stats()["logins"] > 0)
            for endpoint in ("push", "pull"):
                relay.fault(endpoint, Fault(delay_s=LATE_S), times=None)
            while struck.total() - struck["gone"] < kills:
                accounts.send(choice.randrange(EACH_MAX), choice.randrange(EACH_MAX))
                time.sleep(choice.uniform(0.0, PAUSE_S_MAX))
                whom, found = root.strike(choice, struck.total() % AIMS_EVERY == 0, relay)
                struck[whom] += 1
                found_request += found
                accounts.receive()
                if struck.total() % 100 == 0:
                    took_s = time.monotonic() - began
                    print(f"{struck.total():6} strikes  {took_s:6.0f} s", flush=True)
            relay.heal()
            done = until(accounts.is_done)
        finally:
            root.end()
        accounts.receive()
        faults = accounts.faults(kills)
        if not done:
            faults.insert(0, f"not all had arrived {PATIENCE_S:g} s after the last kill")
        cut = accounts.cut_replies()
        twice = len(accounts.arrived) - len(set(accounts.arrived))
        print(
            f"{kills} kills ({struck['root']} of the supervisor; {found_request} found a request "
            "under way) in "
            f"{time.monotonic() - began:.0f} s, seed {seed}\n"
            f"to the relay: {accounts.posted} messages posted, "
            f"{len(set(accounts.arrived))} arrived, {twice} came twice\n"
            f"from the relay: {accounts.queued} messages queued, {len(accounts.received)} "
            f"received, {len(accounts.received) - len(set(accounts.received))} of them twice, "
            f"{sum(map(len, cut))} in {len(cut)} replies that a kill caught on their way"
        )
    return faults


def main() -> int:
    """Soak, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seeds", type=int, default=1, help="so many runs, each with the next")
    parser.add_argument("--keep", action="store_true", help="leave the folder, and say where it is")
    options = parser.parse_args()
    for name in ("kills", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, want at least 1")
    faults = []
    for seed in range(options.seed, options.seed + options.seeds):
        folder = Path(tempfile.mkdtemp(prefix="fsmv2-soak-"))
        for name in ("outbox", "inbox"):
            (folder / name).mkdir()
        try:
            faults += [f"seed {seed}: {each}" for each in soak(options.kills, seed, folder)]
        finally:
            if options.keep:
                print(f"kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
