"""How long a user waits for the answer to an order, and where the time goes.

    python benchmarks/communicator_orders.py [--orders 60] [--pause 0.05] [--rest 5] [--json FILE]
                                             [--markdown FILE]

The relay's stand-in in a process of its own, a supervisor with one communicator, and here a
switchboard with a pool. Orders are given one after the other, ``--pause`` seconds after the last
answer; a few more each come after ``--rest`` seconds in which nothing moved, when everybody looks
rarely. Told are, in milliseconds: the whole way from the relay's queue to the last reply in the
relay's ledger, and its parts: to the router (pull, disk), to the action's first line (pool), and
back (disk, push).

Exit status: 0; 1 when an order was not answered; 2 for wrong options.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from documents import markdown_table, plain_table, put, surroundings
from relaying.asked import WhatTime
from relaying.far import FarRelay, now

from fsmv2.communicator.switchboard import Inbound, Incoming, Switchboard
from fsmv2.supervisor import ActionPool

TOKEN = "bench-token-bench-token"
PATIENCE_S = 30.0
RESTED = 5
PARTS = ("whole way", "to the router", "to the action", "back to the relay")


class Timed(Inbound):
    """Tells when the router had a message."""

    received_at = 0.0

    def receive(self, timeout_s: float = 0.0) -> Incoming | None:
        found = super().receive(timeout_s)
        if found is not None:
            self.received_at = now()
        return found


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=60, help="one after the other")
    parser.add_argument("--pause", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--rest", type=float, default=5.0, metavar="SECONDS", help="0: none")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    parser.add_argument("--markdown", metavar="FILE", help="a document to put the table into")
    options = parser.parse_args()
    if options.orders < 1 or options.pause < 0 or options.rest < 0:
        parser.error("want --orders of at least 1, --pause and --rest of at least 0")
    return options


def config(folder: Path, url: str) -> Path:
    """A supervisor's config, with everything as a user has it who says nothing."""
    path = folder / "bench.yaml"
    path.write_text(
        "name: bench\nplugins: [fsmv2.communicator]\nlog: {level: warning}\n"
        "workers:\n  - name: uplink\n    type: communicator\n    config:\n"
        f"      relay_url: {url}\n      auth_token: {TOKEN}\n"
        f"      outbox: {folder}/outbox\n      inbox: {folder}/inbox\n"
        "    shutdown_timeout_s: 1.0\n"
    )
    return path


def one_order(relay: FarRelay, inbound: Timed, uuid: str) -> tuple[float, ...]:
    """The seconds of `PARTS`."""
    sent_at = now()
    body = {"actionType": "what-time", "actionUUID": uuid, "actionPayload": {}}
    relay.queue([("action", body)])
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        for _, payload, at in relay.arrived():
            if payload["actionUUID"] == uuid and payload["actionReplyState"] == "action-success":
                begun_at = payload["actionReplyPayload"]
                received_at = inbound.received_at
                return (at - sent_at, received_at - sent_at, begun_at - received_at, at - begun_at)
        time.sleep(0.002)
    raise AssertionError(f"order {uuid} was not answered within {PATIENCE_S:.0f} s")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[tuple[float, ...]]]:
    """All orders."""
    found: dict[str, list[tuple[float, ...]]] = {}
    with FarRelay(TOKEN) as relay, ActionPool(procs=2, preload=("relaying.asked",)) as pool:
        command = (sys.executable, "-P", "-m", "fsmv2.supervisor", "run")
        root = subprocess.Popen(
            [*command, str(config(folder, relay.url)), "--http", "127.0.0.1:0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        board = Switchboard(folder / "outbox", folder / "inbox", pool, {"what-time": WhatTime})
        inbound = Timed(folder / "inbox", board.counts)
        board.inbound = board.router.inbound = inbound
        try:
            with board:
                one_order(relay, inbound, "first")
                found["in a conversation"] = []
                for number in range(options.orders):
                    time.sleep(options.pause)
                    found["in a conversation"].append(one_order(relay, inbound, f"u{number}"))
                if options.rest:
                    found["after a rest"] = []
                    for number in range(RESTED):
                        time.sleep(options.rest)
                        found["after a rest"].append(one_order(relay, inbound, f"r{number}"))
        finally:
            root.terminate()
            try:
                root.wait(20)
            except subprocess.TimeoutExpired:
                root.kill()
                root.wait()
    return found


def rows(found: dict[str, list[tuple[float, ...]]]) -> list[list[str]]:
    """The table: median and longest of each part."""
    table = [["orders", "part", "p50, ms", "longest, ms"]]
    for name, orders in found.items():
        for part, values in zip(PARTS, zip(*orders, strict=True), strict=True):
            ordered = [value * 1000 for value in sorted(values)]
            table.append([name, part, f"{ordered[len(ordered) // 2]:.1f}", f"{ordered[-1]:.1f}"])
    return table


def main() -> int:
    """Measure and print; the exit status."""
    options = arguments()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = measure(options, Path(folder))
        except AssertionError as error:
            print(error)
            return 1
    head = f"{surroundings(load)}."
    print(head)
    print("\n".join(plain_table(rows(found))))
    if options.markdown:
        put(Path(options.markdown), "orders", [head, "", *markdown_table(rows(found))])
    if options.json:
        told: dict[str, Any] = {
            name: [dict(zip(PARTS, each, strict=True)) for each in orders]
            for name, orders in found.items()
        }
        Path(options.json).write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
