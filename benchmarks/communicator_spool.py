"""What the communicator's inner half carries: spools, channels, and orders through the pool.

    python benchmarks/communicator_spool.py [--messages 20000] [--bytes 300] [--orders 500]
                                            [--posts 200] [--idle 3] [--folder DIR] [--json FILE]

On one disk and in one process, so without a relay (`communicator.py` has the whole way). Told are,
with units: messages a second out (`Outbound.put` from one thread until all are on disk; how long a
put takes, and how many messages shared a sync), out of the outbox again as a push takes them, in
(a saved reply of 100 unpacked, received, done and removed), and `post`, one sync for each; orders a
second through the router and an `ActionPool`, and from inbox to last reply on disk one at a time;
CPU time of an idle switchboard; and memory before and after. Give a large ``--messages`` to see
that it stays flat.

Exit status: 0; 1 when a message was lost or came in another order; 2 for wrong options.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
from documents import plain_table
from relaying.asked import Echo

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds, SpoolFull, segments
from fsmv2.communicator.switchboard import Inbound, Outbound, Switchboard
from fsmv2.communicator.switchboard.inbound import LIVELY_S
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content
from fsmv2.supervisor import ActionPool

PATIENCE_S = 60.0
SINGLES = 30


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000, help="each way")
    parser.add_argument("--bytes", type=int, default=300, help="of a message's content")
    parser.add_argument("--orders", type=int, default=500, help="through the pool")
    parser.add_argument("--posts", type=int, default=200, help="with a sync each")
    parser.add_argument("--idle", type=float, default=3.0, metavar="SECONDS", help="at rest")
    parser.add_argument("--folder", help="on the disk to measure (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    options = parser.parse_args()
    for name in ("messages", "bytes", "orders", "posts"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, want at least 1")
    if not 0 < options.idle <= 3600:
        parser.error(f"--idle: got {options.idle}, want more than 0 and at most 3600")
    return options


def resident_bytes() -> int:
    """Of this process."""
    return int(psutil.Process().memory_info().rss)


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    ends_at = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.001)


def both_ways(folder: Path, count: int, content: str) -> dict[str, float]:
    """Messages out, taken as a push does beside it, and in."""
    figures: dict[str, float] = {}
    channel = Outbound(folder / "out", Bounds(messages_max=5_000))
    channel.start()
    puts: list[float] = []
    taken_s = 0.0
    taken = put = 0
    before = resident_bytes()
    began = time.perf_counter()
    while taken < count:
        while put < count:
            at = time.perf_counter()
            try:
                channel.put(Message(email=str(put), content=content))
            except SpoolFull:
                break
            if len(puts) < 100_000:
                puts.append(time.perf_counter() - at)
            put += 1
        at = time.perf_counter()
        batch, *_ = spool.outgoing(folder / "out", 100, 4 << 20)
        for each in batch:
            if each.message.email != str(taken):
                raise AssertionError(f"got message {each.message.email}, want {taken}")
            taken += 1
        spool.acknowledge(batch)
        if batch:
            taken_s += time.perf_counter() - at
    figures["out: messages/s, written and taken"] = count / (time.perf_counter() - began)
    figures["out: messages/s, taken alone"] = count / taken_s
    figures["out: messages a sync"] = channel.counts["spooled"] / channel.counts["spool_groups"]
    figures["out: put p50, µs"] = statistics.median(puts) * 1e6
    figures["out: put p99, µs"] = statistics.quantiles(puts, n=100)[98] * 1e6 if puts[1:] else 0.0
    channel.close()
    figures["in: messages/s"] = inwards(folder / "in", count, content)
    figures["memory grown, MiB"] = (resident_bytes() - before) / 2**20
    return figures


def inwards(folder: Path, count: int, content: str) -> float:
    """Replies of 100 saved, unpacked, received and removed: messages a second."""
    channel = Inbound(folder)
    began = time.perf_counter()
    for first in range(0, count, 100):
        listed = [{"email": str(n), "content": content} for n in range(first, first + 100)]
        reply = json.dumps({"UMHMessages": listed}).encode()
        spool.unpack(spool.place_for(folder).save(reply, lambda: False))
        for number in range(first, first + 100):
            found = channel.receive()
            if found is None or found.message.email != str(number):
                raise AssertionError(f"got {found!r}, want message {number}")
            found.done()
        channel.sweep()
    return count / (time.perf_counter() - began)


def posts(folder: Path, count: int) -> dict[str, float]:
    """One message, one sync."""
    times = []
    for number in range(count):
        at = time.perf_counter()
        spool.post(folder, email="a", message_type="t", payload=number)
        times.append(time.perf_counter() - at)
    return {"post p50, ms": statistics.median(times) * 1e3}


def orders(folder: Path, count: int, idle_s: float) -> dict[str, float]:
    """Through inbox, router, pool and outbox."""
    out, box = folder / "out", folder / "in"
    figures: dict[str, float] = {}
    with (
        ActionPool(procs=2, preload=("relaying.asked",)) as pool,
        Switchboard(out, box, pool, {"echo": Echo}, bounds=Bounds(messages_max=100_000)) as board,
    ):
        pool.run(Echo())
        waits = []
        for number in range(SINGLES):
            done = board.counts["succeeded"]
            at = time.perf_counter()
            send(box, f"single-{number}")
            until(lambda done=done: board.counts["succeeded"] > done, "an order has ended")
            board.outbound.flush(PATIENCE_S)
            waits.append(time.perf_counter() - at)
        figures["order to last reply on disk p50, ms"] = statistics.median(waits) * 1e3
        figures["order to last reply on disk, longest, ms"] = max(waits) * 1e3
        done = board.counts["succeeded"]
        at = time.perf_counter()
        for first in range(0, count, 100):
            send(box, *(f"many-{n}" for n in range(first, min(count, first + 100))))
        until(lambda: board.counts["succeeded"] - done == count, "all orders have ended")
        board.outbound.flush(PATIENCE_S)
        figures["orders/s"] = count / (time.perf_counter() - at)
        until(lambda: spool.usage(box).messages == 0, "the inbox is empty")
        time.sleep(min(LIVELY_S + 0.2, idle_s))  # from then on it looks rarely
        began_cpu, at = time.process_time(), time.perf_counter()
        time.sleep(idle_s)
        share = (time.process_time() - began_cpu) / (time.perf_counter() - at)
        figures["idle switchboard, % of a CPU"] = share * 100
    ends = 0
    while batch := spool.outgoing(out, 100, 4 << 20)[0]:
        for each in batch:
            state = decode_content(each.message.content)[1]["actionReplyState"]
            ends += state == "action-success"
        spool.acknowledge(batch)
    if ends != count + SINGLES:
        raise AssertionError(f"got {ends} orders with success, want {count + SINGLES}")
    return figures


def send(inbox: Path, *uuids: str) -> None:
    """One pull's worth of orders."""
    bodies = [{"actionType": "echo", "actionUUID": uuid, "actionPayload": {}} for uuid in uuids]
    lines = [
        spool.encode(Message(email="a", content=encode_content("action", body))) for body in bodies
    ]
    segments.publish(inbox, segments.new_stem(()), lines)


def main() -> int:
    """Measure all of it; the exit status."""
    options = arguments()
    content = "x" * options.bytes
    count = -(-options.messages // 100) * 100
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        try:
            figures: dict[str, Any] = both_ways(folder / "both", count, content)
            figures |= posts(folder / "posts", options.posts)
            figures |= orders(folder / "orders", options.orders, options.idle)
        except AssertionError as error:
            print(error)
            return 1
    print(f"{count} messages of {options.bytes} bytes each way, {os.cpu_count()} CPUs")
    rows = [["figure", "value"], *([name, f"{value:,.1f}"] for name, value in figures.items())]
    print("\n".join(plain_table(rows)))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
