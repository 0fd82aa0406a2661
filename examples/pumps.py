"""A program that embeds the switchboard: users at a console order pumps about.

    python -m fsmv2.examples.pumps

All there is to a site, on one machine: the relay (its stand-in, on loopback), a supervisor with a
communicator in a process of its own, and this program, whose `Switchboard` takes what the
communicator leaves in the inbox, has it done in a pool, and leaves the replies in the outbox.

Knows: which actions users may order, what a status says.
Does not know: how a message gets here and back.
Invariants: everything it makes is below one temporary folder and loopback, and ends with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fsmv2.communicator.switchboard import Switchboard
from fsmv2.communicator.testing.console import LAST_STATES, Console
from fsmv2.communicator.testing.relay import Relay
from fsmv2.supervisor import Action, ActionContext, ActionPool

PATIENCE_S = 60.0
CONFIG = """\
name: site
plugins: [fsmv2.communicator]
pool: {{procs: 2}}
http: {{listen: "off"}}
log: {{level: warning}}
workers:
  - name: uplink
    type: communicator
    config: {{outbox: "{folder}/outbox", inbox: "{folder}/inbox", poll_interval_s: 0.2}}
    shutdown_timeout_s: 2.0
"""


class SetSpeed(Action, frozen=True):
    """Its fields are the order's payload; what it returns is the reply's."""

    timeout_s = 5.0
    when_interrupted = "run_again"  # the same speed once more does no harm
    pump: str
    rpm: int

    def execute(self, ctx: ActionContext) -> str:
        """May block, crash or hang: it has a process, this program is not touched."""
        return f"{self.pump} runs at {self.rpm} rpm"


class FlushPipe(Action, frozen=True):
    """Never comes back: it is ended at its deadline, and its user is told."""

    timeout_s = 0.5
    pump: str

    def execute(self, ctx: ActionContext) -> None:
        """Wait for a valve that does not answer."""
        time.sleep(3600)


ACTIONS: dict[str, type[Action]] = {"set-pump-speed": SetSpeed, "flush-pipe": FlushPipe}


def read_status(full: bool) -> dict[str, Any]:
    """What subscribers see each second: all of it first, then what has changed."""
    return {"core": {"agent": {"location": "line 4"}} if full else {}, "plugins": {}}


@contextlib.contextmanager
def supervisor(folder: Path, relay: Relay, token: str) -> Iterator[None]:
    """``fsmv2 run`` beside this program; they share two folders and nothing else."""
    config = folder / "site.yaml"
    config.write_text(CONFIG.format(folder=folder))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fsmv2.supervisor", "run", str(config)],
        env={**os.environ, "API_URL": relay.url, "AUTH_TOKEN": token},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def until(true: Callable[[], Any], what: str) -> None:
    """Wait until something holds."""
    ends_at = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"never within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.05)


def at_the_console(relay: Relay) -> None:
    """What a user does and sees, at the far end."""
    console = Console(relay)
    console.subscribe()
    orders: list[tuple[str, dict[str, Any]]] = [
        ("set-pump-speed", {"pump": "P-1", "rpm": 900}),
        ("set-pump-speed", {"pump": "P-1"}),
        ("flush-pipe", {"pump": "P-1"}),
        ("fly", {}),
    ]
    for action_type, payload in orders:
        order_id = console.order(action_type, payload)
        until(partial(ends, relay, order_id), f"an answer to {action_type}")
        (last,) = ends(relay, order_id)
        second = last["actionReplyPayloadV2"]
        told = second.get("errorCode") or second["payload"]
        print(f"{action_type} {payload}: {last['actionReplyState']}, {told}")
    until(console.statuses, "a status")
    print(f"the console shows the instance {'offline' if console.shows_offline else 'online'}")


def ends(relay: Relay, order_id: str) -> list[dict[str, Any]]:
    """The last replies to an order that have come to the relay."""
    replies = [one.payload for one in relay.pushed() if one.message_type == "action-reply"]
    return [
        each
        for each in replies
        if each["actionUUID"] == order_id and each["actionReplyState"] in LAST_STATES
    ]


def main() -> None:
    """Start everything, innermost last, let a user have a go, and end it."""
    token = "a-token-of-the-example"
    with contextlib.ExitStack() as end:
        folder = Path(end.enter_context(tempfile.TemporaryDirectory(prefix="fsmv2-pumps-")))
        relay = end.enter_context(Relay(token=token))
        pool = end.enter_context(ActionPool(procs=2))
        board = Switchboard(folder / "outbox", folder / "inbox", pool, ACTIONS, read_status)
        end.enter_context(board)
        end.enter_context(supervisor(folder, relay, token))
        at_the_console(relay)


if __name__ == "__main__":
    main()
