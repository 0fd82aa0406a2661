"""A switchboard killed for real, at random moments, while users order and replies are pushed.

    python benchmarks/communicator_orderkills.py [--kills 1000] [--seed 0]

A child process is a switchboard whose orders are noted in a file as they are run, by a thread in
place of a pool. Here orders are put into its inbox and replies taken from its outbox, as pull and
push do, at random moments and as fast as the disk allows. After some milliseconds it gets SIGKILL,
and another takes its place; the last one may end. Half of the orders are of a class that may be run
again. Told are orders, kills, and how the orders ended.

Exit status: 0; 1 when an order was lost, was run twice though its class does not say so, was told
two different ends, or success without having been run; 2 for wrong options.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fsmv2.communicator import spool
from fsmv2.communicator.spool import segments
from fsmv2.communicator.switchboard import Switchboard
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content
from fsmv2.supervisor import Action, ActionContext, ActionResult

LIFE_S_MAX = 0.06
PATIENCE_S = 60.0
ORDERS_MAX = 8
LAST = ("action-success", "action-failure")


class Once(Action, frozen=True):
    """Noted by its number."""

    number: int

    def execute(self, ctx: ActionContext) -> int:
        """Not called here."""
        return self.number


class Again(Once, frozen=True):
    when_interrupted = "run_again"


KINDS: dict[str, type[Action]] = {"once": Once, "again": Again}


class Noting:
    """Runs an order by noting it; a value tells one run from another."""

    def __init__(self, notes: Path, seed: int) -> None:
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._rng = random.Random(seed)
        self._waiting: queue.SimpleQueue[tuple[Action, Future[ActionResult]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, action: Action) -> Future[ActionResult]:
        """As a pool does."""
        future: Future[ActionResult] = Future()
        self._waiting.put((action, future))
        return future

    def _run(self) -> None:
        while True:
            action, future = self._waiting.get()
            assert isinstance(action, Once)
            os.write(self._notes, b"%d\n" % action.number)
            time.sleep(self._rng.random() * 0.001)
            value = f"{action.number} by {os.getpid()}"
            future.set_result(
                ActionResult(status="succeeded", action_type="Once", attempt_id=1, value=value)
            )


class Site:
    """The folders, and what was seen at their ends."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.out, self.box, self.notes = folder / "out", folder / "in", folder / "notes"
        self.rng = random.Random(seed)
        self.sent = 0
        self.ends: dict[str, list[Any]] = defaultdict(list)

    def start(self) -> int:
        """Fork a switchboard; its pid."""
        seed = self.rng.getrandbits(32)
        pid = os.fork()
        if pid:
            return pid
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            Switchboard(self.out, self.box, Noting(self.notes, seed), KINDS).start()
            signal.pause()
        os._exit(3)

    def order(self) -> None:
        """Some orders, in one segment."""
        lines = []
        for _ in range(self.rng.randint(1, ORDERS_MAX)):
            kind = ("once", "again")[self.sent % 2]
            body = {
                "actionType": kind,
                "actionUUID": str(self.sent),
                "actionPayload": {"number": self.sent},
            }
            lines.append(spool.encode(Message(email="a", content=encode_content("action", body))))
            self.sent += 1
        segments.publish(self.box, segments.new_stem(()), lines)

    def push(self) -> None:
        """Take what is there."""
        taken = spool.outgoing(self.out, self.rng.randint(1, 100), 1 << 22)[0]
        for one in taken:
            payload = decode_content(one.message.content)[1]
            if payload["actionReplyState"] in LAST:
                self.ends[payload["actionUUID"]].append(payload)
        spool.acknowledge(taken)

    def live(self) -> None:
        """One life, and its end."""
        pid = self.start()
        ends_at = time.monotonic() + self.rng.random() * LIFE_S_MAX
        while time.monotonic() < ends_at:
            if self.rng.random() < 0.3:
                self.order()
            self.push()
            time.sleep(self.rng.random() * 0.003)
        self.end(pid)

    def finish(self) -> None:
        """The last life: until all is answered and pushed."""
        pid = self.start()
        ends_at = time.monotonic() + PATIENCE_S
        while spool.usage(self.box).messages:
            assert time.monotonic() < ends_at, "orders are left in the inbox"
            self.push()
            time.sleep(0.001)
        self.end(pid)
        while spool.usage(self.out).messages:
            self.push()

    def end(self, pid: int) -> None:
        """SIGKILL."""
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"a switchboard ended by itself: {status}"

    def check(self) -> str:
        """Raise `AssertionError` unless each order has its one end; say how they ended."""
        run = Counter(map(int, self.notes.read_text().split()))
        asked = set(map(str, range(self.sent)))
        assert self.ends.keys() == asked, f"lost: {sorted(asked - self.ends.keys())[:9]}"
        how: Counter[str] = Counter()
        for uuid, payloads in self.ends.items():
            number = int(uuid)
            assert all(each == payloads[0] for each in payloads), f"two ends: {payloads}"
            if payloads[0]["actionReplyState"] == "action-success":
                assert run[number], f"order {uuid} was told success and not run"
                how["success"] += 1
            else:
                code = payloads[0]["actionReplyPayloadV2"]["errorCode"]
                assert code == "ERR_INTERRUPTED", f"order {uuid} ended with {code}"
                assert number % 2 == 0, f"order {uuid} may be run again, and was not"
                how["interrupted"] += 1
            assert number % 2 or run[number] <= 1, f"order {uuid} was run {run[number]} times"
            how["ends that came twice"] += len(payloads) - 1
            how["runs again"] += max(0, run[number] - 1)
        return ", ".join(f"{number:,} {what}" for what, number in sorted(how.items()))


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="how many lives end so")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills: got {options.kills}, want at least 1")
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), options.seed)
        try:
            for _ in range(options.kills):
                site.live()
            site.finish()
            told = site.check()
        except AssertionError as error:
            print(f"seed {options.seed}: {error}")
            return 1
    print(f"{options.kills} kills, {site.sent:,} orders, none lost, each with one end: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
