"""An attempt of the communicator is killed in the middle of a request: nothing that anybody can
read of it has a token, a session or a message in it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from running import Running, proc_of, until

from fsmv2.communicator.spool import post
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.token import double_hash

TOKEN = "auth-t0ken-that-must-not-show"
SAID = "valve-c0de-4711-that-must-not-show"
PAGES = ("/metrics", "/api/v1/tree", "/api/v1/status", "/api/v1/actions", "/api/v1/explain/site/up",
         "/api/v1/workers/site/up", "/api/v1/changes?since=0")  # fmt: skip


def config(tmp_path: Path, url: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"""
name: site
plugins: [fsmv2.communicator]
log: {{level: debug}}
store: {{kind: sqlite, path: {tmp_path}/store.db}}
actions:
  AuthenticateAction: {{timeout_s: 1.5}}
  SyncAction: {{timeout_s: 4.6, grace_s: 0.1}}
workers:
  - name: up
    type: communicator
    config:
      relay_url: {url}
      auth_token: {TOKEN}
      timeout_s: 1.0
      outbox: {tmp_path}/outbox
      inbox: {tmp_path}/inbox
"""
    )
    return path


def ended(root: Running, action: str) -> dict[str, Any]:
    """The record of the first of these that was killed at its deadline."""

    def look() -> dict[str, Any] | None:
        killed = [one for one in root.records("action_ended") if "timed_out" in str(one)]
        return next((one for one in killed if action in str(one)), None)

    return dict(until(look, f"{action} is killed at its deadline"))


def both_ask(relay: Relay) -> bool:
    return relay.observed.at_a_time("push") == relay.observed.at_a_time("pull") == 1


def freeze(root: Running, relay: Relay) -> None:
    """Stop the proc of an attempt that pushes and pulls."""
    for _ in range(5):
        assert relay.wait_for(both_ask, 40.0)
        pid = proc_of(root, "SyncAction")
        os.kill(pid, signal.SIGSTOP)
        if both_ask(relay):
            return
        os.kill(pid, signal.SIGCONT)  # a busy machine came to it when that attempt was over
    raise AssertionError("never: both under way")


def test_a_kill_in_the_middle_of_a_request_shows_no_secret(tmp_path: Path) -> None:
    """A login that hangs, then a push and a pull of one attempt whose proc is frozen under them:
    certificates with their stacks, the log at its lowest level, every page, the metrics and the
    store's file are read."""
    with Relay(token=TOKEN) as relay:
        for _ in range(3):
            relay.send(f"{SAID}@b.c", "action", SAID)
        post(tmp_path / "outbox", email=f"{SAID}@b.c", message_type="status", payload=SAID)
        relay.fault("login", Fault(drip_s=0.1, drip_head=True))
        relay.fault("push", Fault(drip_s=0.1, drip_head=True), times=None)
        relay.fault("pull", Fault(drip_s=0.1), times=None)
        with Running(config(tmp_path, relay.url)) as root:
            ended(root, "AuthenticateAction")
            freeze(root, relay)
            ended(root, "SyncAction")
            pages = {page: str(root.get(page)) for page in PAGES}
            relay.heal()
            assert root.end() == 0
            pages["log"] = root.log_text()
            for file in tmp_path.glob("store.db*"):
                pages[file.name] = file.read_bytes().decode("latin-1")
        requests = relay.requests()
        cookies = {
            each.headers[key] for each in requests for key in each.headers if key == "cookie"
        }
        assert cookies
        hidden = {TOKEN, double_hash(TOKEN), SAID} | {each.partition("=")[2] for each in cookies}
        bodies = [each.body.decode() for each in relay.requests("push")]
        hidden |= {part for body in bodies for part in body.split('"') if len(part) > 40}
        assert len(hidden) >= 5
        # The innermost frames: how many fit in a record depends on where the checkout is.
        asking = [one for one in root.records("death_stack") if "in readinto" in str(one["frames"])]
        threads = Counter(one["action_type"] for one in asking)
        assert threads["AuthenticateAction"] >= 1, "a request was under way, and is in the stack"
        assert threads["SyncAction"] >= 2, "of a push and of a pull"
        for name, text in pages.items():
            for secret in hidden:
                assert secret not in text, name
            if name.startswith("/"):
                assert len(text) > 4, name
