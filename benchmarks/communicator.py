"""What a communicator costs and how long a message takes, on loopback.

    python benchmarks/communicator.py [--seconds 60] [--rate 1000] [--idle 30] [--json FILE]
                                      [--markdown FILE]

A supervisor with one communicator, the relay's stand-in in a process of its own, and this process
as the user of outbox and inbox. First nothing happens for a while: requests and CPU time. Then
``--rate`` messages a second go each way: how long each takes from the caller's hand to the relay
and from the relay to the consumer, how much memory the processes take in the beginning and in the
end, and whether all of them arrived. What the disk does meanwhile is measured beside it, as each
message waits for it several times: a write of 4 KiB and its sync, ten times a second, each counted
from when it was due. `communicator_soak.py` says what becomes of messages when procs die.

Exit status: 0 when every message arrived, 1 when not, 2 for wrong options.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
from documents import markdown_table, plain_table, put, surroundings
from relaying.far import FarRelay, now

from fsmv2.communicator import spool
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import Message

TOKEN = "bench-token-bench-token"
TICK_S = 0.01  # between two groups of messages
PROBE_S = 0.1  # between two looks at the disk
PATIENCE_S = 30.0


def config(folder: Path, url: str) -> Path:
    """A supervisor's config, with everything as a user has it who says nothing."""
    for name in ("outbox", "inbox"):
        (folder / name).mkdir()
    path = folder / "bench.yaml"
    path.write_text(
        "name: bench\nplugins: [fsmv2.communicator]\nlog: {level: warning}\n"
        "workers:\n  - name: uplink\n    type: communicator\n    config:\n"
        f"      relay_url: {url}\n      auth_token: {TOKEN}\n"
        f"      outbox: {folder}/outbox\n      inbox: {folder}/inbox\n"
    )
    return path


class Processes:
    """The supervisor and all below it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds of those that are there, and of those that were."""
        total = 0.0
        for one in self._all():
            try:
                times = one.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        times = self._root.cpu_times()
        return total + times.children_user + times.children_system

    def memory_bytes(self) -> int:
        """What they hold for themselves (USS)."""
        total = 0
        for one in self._all():
            try:
                total += one.memory_full_info().uss
            except psutil.Error:
                continue
        return total


class Outward(threading.Thread):
    """Posts messages at a rate, in groups, as a user with many of them does."""

    def __init__(self, folder: Path, rate: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._outbox, self._rate, self._seconds = folder / "outbox", rate, seconds
        self.sent = 0

    def run(self) -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self._seconds:
            due = int(passed * self._rate) - self.sent
            for _ in range(0, due, 100):
                lines = [self._line() for _ in range(min(due, 100))]
                spool.append(self._outbox, lines)
                due -= len(lines)
            time.sleep(TICK_S)

    def _line(self) -> bytes:
        payload = {"n": self.sent, "at": now()}
        self.sent += 1
        content = codec.encode_content("action-reply", payload)
        return spool.encode(Message(email="ada@example.com", content=content))


class Inward(threading.Thread):
    """Takes what comes out of the inbox, as its consumer does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._inbox = folder / "inbox"
        self.done = threading.Event()
        self.took_s: list[float] = []

    def run(self) -> None:
        while not self.done.is_set():
            files = spool.inbox_files(self._inbox)
            for file in files:
                for message in spool.read_messages(file):
                    _, payload = codec.decode_content(message.content)
                    self.took_s.append(now() - payload["at"])
            spool.finish(files)
            time.sleep(TICK_S)


class Disk(threading.Thread):
    """Writes and syncs a little on the same disk, for as long as the ``with``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._path = folder / "probe"
        self._done = threading.Event()
        self.took_s: list[float] = []

    def __enter__(self) -> Disk:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        due = time.monotonic()
        with self._path.open("wb", buffering=0) as file:
            while not self._done.wait(max(0.0, due - time.monotonic())):
                file.write(bytes(4096))
                os.fdatasync(file.fileno())
                self.took_s.append(time.monotonic() - due)
                due += PROBE_S


def flow(folder: Path, relay: FarRelay, processes: Processes, rate: int, seconds: float) -> Any:
    """Messages both ways for ``seconds``."""
    outward, inward = Outward(folder, rate, seconds), Inward(folder)
    outward.start()
    inward.start()
    queued, out_s, memory = 0, list[float](), list[int]()
    cpu_s, began = processes.cpu_s(), time.monotonic()
    give_up = began + seconds + PATIENCE_S
    next_look = began
    while True:
        passed = time.monotonic() - began
        if passed < seconds:
            due = int(passed * rate) - queued
            relay.queue([("action", {"n": queued + i, "at": now()}) for i in range(due)])
            queued += due
        out_s += [at - payload["at"] for _, payload, at in relay.arrived()]
        if time.monotonic() >= next_look:
            memory.append(processes.memory_bytes())
            next_look += max(1.0, seconds / 30)
        if passed >= seconds and not outward.is_alive():
            took_s = time.monotonic() - began
            if len(out_s) >= outward.sent and len(inward.took_s) >= queued:
                break
            if time.monotonic() > give_up:
                break
        time.sleep(TICK_S)
    inward.done.set()
    inward.join()
    early, late = (
        memory[1 : 1 + len(memory) // 4] or memory[:1],
        memory[-(len(memory) // 4) or -1 :],
    )
    return {
        "rate": rate,
        "seconds": seconds,
        "sent_out": outward.sent,
        "sent_in": queued,
        "arrived_out": len(out_s),
        "arrived_in": len(inward.took_s),
        "late_s": took_s - seconds,
        "cpu_share": (processes.cpu_s() - cpu_s) / took_s,
        "memory_early_bytes": statistics.median(early),
        "memory_late_bytes": statistics.median(late),
        **{f"out_{name}": value for name, value in spread(out_s).items()},
        **{f"in_{name}": value for name, value in spread(inward.took_s).items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and the longest."""
    ordered = sorted(values) or [float("nan")]
    return {
        "p50_s": ordered[len(ordered) // 2],
        "p99_s": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max_s": ordered[-1],
    }


def idle(relay: FarRelay, processes: Processes, seconds: float) -> Any:
    """What it costs while nothing happens."""
    before, cpu_s = relay.stats()["requests"], processes.cpu_s()
    time.sleep(seconds)
    return {
        "requests_per_minute": (relay.stats()["requests"] - before) * 60 / seconds,
        "cpu_share": (processes.cpu_s() - cpu_s) / seconds,
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    with FarRelay(TOKEN) as relay:
        command = (sys.executable, "-P", "-m", "fsmv2.supervisor", "run")
        root = subprocess.Popen(
            [*command, str(config(folder, relay.url)), "--http", "127.0.0.1:0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            give_up = time.monotonic() + PATIENCE_S
            while not relay.stats()["pulls"]:
                if time.monotonic() > give_up or root.poll() is not None:
                    raise RuntimeError("the communicator does not come up")
                time.sleep(0.05)
            processes = Processes(root.pid)
            time.sleep(1.0)
            with Disk(folder) as quiet:
                found = {"idle": idle(relay, processes, options.idle)}
            with Disk(folder) as busy:
                found["flow"] = flow(folder, relay, processes, options.rate, options.seconds)
            found["disk"] = {
                **{f"idle_{name}": value for name, value in spread(quiet.took_s).items()},
                **{f"flow_{name}": value for name, value in spread(busy.took_s).items()},
            }
            return found
        finally:
            root.terminate()
            try:
                root.wait(20)
            except subprocess.TimeoutExpired:
                root.kill()
                root.wait()


def rows(found: dict[str, Any]) -> list[list[str]]:
    """The table."""
    quiet, moved, disk = found["idle"], found["flow"], found["disk"]

    def ms(value: float) -> str:
        return f"{value * 1000:.{0 if value >= 0.01 else 1}f} ms"

    def three(way: str, where: dict[str, float] = moved) -> str:
        return " / ".join(ms(where[f"{way}_{name}_s"]) for name in ("p50", "p99", "max"))

    mib = 1024 * 1024
    return [
        ["idle: requests", f"{quiet['requests_per_minute']:.0f} /min"],
        ["idle: CPU of all its processes", f"{quiet['cpu_share']:.3f} core"],
        ["messages each way", f"{moved['rate']} /s for {moved['seconds']:g} s"],
        ["arrived at the relay", f"{moved['arrived_out']} of {moved['sent_out']}"],
        ["arrived at the consumer", f"{moved['arrived_in']} of {moved['sent_in']}"],
        ["caller to relay, p50 / p99 / longest", three("out")],
        ["relay to consumer, p50 / p99 / longest", three("in")],
        ["the disk's own sync meanwhile, p50 / p99 / longest", three("flow", disk)],
        ["the disk's own sync while idle, p50 / p99 / longest", three("idle", disk)],
        ["CPU of all its processes", f"{moved['cpu_share']:.2f} core"],
        [
            "memory of all its processes, early and late",
            f"{moved['memory_early_bytes'] / mib:.1f}, {moved['memory_late_bytes'] / mib:.1f} MiB",
        ],
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="a document to put the table into")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fsmv2-bench-") as folder:
        found = measure(options, Path(folder))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    head, table = f"{surroundings(load)}.", [["figure", "measured"], *rows(found)]
    print(head)
    print("\n".join(plain_table(table)))
    if options.markdown is not None:
        put(options.markdown, "communicator", [head, "", *markdown_table(table)])
    moved = found["flow"]
    lost = moved["sent_out"] - moved["arrived_out"] + moved["sent_in"] - moved["arrived_in"]
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
