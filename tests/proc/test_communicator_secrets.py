"""An attempt of the communicator is killed in the middle of a request: nothing that anybody can
read of it has a token, a session or a message in it."""

from __future__ import annotations

import os
import signal
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
  SyncAction: {{timeout_s: 3.6, grace_s: 0.1}}
workers:
  - name: up
    type: communicator
    config:
      relay_url: {url}
      auth_token: {TOKEN}
      timeout_s: 0.3
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


def test_a_kill_in_the_middle_of_a_request_shows_no_secret(tmp_path: Path) -> None:
    """A login that hangs, then a push and a pull of one attempt whose proc is frozen under them:
    certificates with their stacks, the log at its lowest level, every page, the metrics and the
    store's file are read."""
    with Relay(token=TOKEN) as relay:
        for _ in range(3):
            relay.send(f"{SAID}@b.c", "action", SAID)
        post(tmp_path / "outbox", email=f"{SAID}@b.c", message_type="status", payload=SAID)
        relay.fault("login", Fault(drip_s=0.1, drip_head=True))
        relay.fault("push", Fault(drip_s=0.1, drip_head=True))
        relay.fault("pull", Fault(drip_s=0.1))
        with Running(config(tmp_path, relay.url)) as root:
            ended(root, "AuthenticateAction")
            assert relay.wait_for(
                lambda r: r.observed.at_a_time("push") == r.observed.at_a_time("pull") == 1, 40.0
            )
            os.kill(proc_of(root, "SyncAction"), signal.SIGSTOP)
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
        stacks = str(root.records("death_stack"))
        for asked in ("in authenticate", "in push", "in pull", "in readinto"):
            assert asked in stacks, "a request was under way, and is in the stack"
        for name, text in pages.items():
            for secret in hidden:
                assert secret not in text, name
            if name.startswith("/"):
                assert len(text) > 4, name
