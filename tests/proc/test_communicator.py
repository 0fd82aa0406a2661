"""The communicator in a real tree, against the relay over real sockets."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from running import PATIENCE_S, Running, proc_of, until

from fsmv2.communicator.spool import append, encode, inbox_files, post, usage
from fsmv2.communicator.testing.faults import Fault, nginx_502
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.ipc.linux import descendants_of

TOKEN = "a-t0ken-that-must-not-show"
OPERATOR = "operators-t0ken-0123456789"


def config(tmp_path: Path, poll_interval_s: float = 0.1, timeout_s: float = 10.0) -> Path:
    for name in ("outbox", "inbox"):
        (tmp_path / name).mkdir()
    path = tmp_path / "site.yaml"
    path.write_text(
        "name: site\n"
        "plugins: [fsmv2.communicator]\n"
        "log: {level: debug}\n"
        "workers:\n"
        "  - name: uplink\n"
        "    type: communicator\n"
        "    config:\n"
        f"      auth_token: {TOKEN}\n"
        f"      outbox: {tmp_path}/outbox\n"
        f"      inbox: {tmp_path}/inbox\n"
        f"      poll_interval_s: {poll_interval_s}\n"
        f"      timeout_s: {timeout_s}\n"
    )
    return path


def post_all(outbox: Path, payloads: Sequence[object]) -> None:
    """Ten a disk sync, which may take long."""
    lines = [
        encode(Message(email="a@b.c", content=encode_content("status", each))) for each in payloads
    ]
    for at in range(0, len(lines), 10):
        append(outbox, lines[at : at + 10])


def state(root: Running) -> str:
    node = root.get("/api/v1/workers/site/uplink")
    return str(node["state"]) if node else ""


def test_communicator_logs_in_moves_messages_degrades_and_recovers(tmp_path: Path) -> None:
    """The relay's place from API_URL; login, push in order, pull, an outage of three errors,
    recovery; nothing lost, the token in no line of the log."""
    with Relay(token=TOKEN) as relay:
        path = config(tmp_path)
        for number in range(5):
            post(tmp_path / "outbox", email="a@b.c", message_type="status", payload=number)
        with Running(path, env={"API_URL": relay.url}) as root:
            until(lambda: state(root) == "syncing", "it is logged in and syncs")
            until(lambda: len(relay.pushed()) == 5, "five messages were pushed")
            relay.send("a@b.c", "subscribe", {})
            until(lambda: inbox_files(tmp_path / "inbox"), "a message was pulled")
            relay.fault("pull", nginx_502(), times=None)
            relay.fault("push", nginx_502(), times=None)
            post(tmp_path / "outbox", email="a@b.c", message_type="status", payload=5)
            until(lambda: state(root) == "degraded", "it degrades")
            relay.heal()
            until(lambda: state(root) == "syncing", "it recovers")
            until(lambda: len(relay.pushed()) == 6, "what waited was pushed")
            assert [message.payload for message in relay.pushed()] == list(range(6))
            assert root.end() == 0
            assert TOKEN not in root.log_text()


def kill(root: Running, attempt_id: int) -> int:
    """Have the operator's command end an attempt; the status it is answered with."""
    asking = urllib.request.Request(
        f"{root.address}/api/v1/actions/{attempt_id}/kill",
        data=b"",
        headers={"Authorization": f"Bearer {OPERATOR}"},
    )
    with urllib.request.urlopen(asking, timeout=20) as answer:
        return int(answer.status)


def test_a_login_that_is_cancelled_under_way_is_recorded_nowhere(tmp_path: Path) -> None:
    """Scenario 13: an operator ends it while the relay is silent; it is no failure of a login in
    the log or in the metrics, and the next one is the only one."""
    with Relay(token=TOKEN) as relay:
        relay.fault("login", Fault(delay_s=3600))
        path = config(tmp_path, timeout_s=15.0)
        with Running(path, env={"API_URL": relay.url, "FSMV2_TOKEN": OPERATOR}) as root:
            assert relay.wait_for(lambda r: r.observed.at_a_time("login") == 1, PATIENCE_S)
            (login,) = until(
                lambda: (root.get("/api/v1/actions") or {}).get("in_flight"), "it is shown"
            )
            assert login["type"] == "AuthenticateAction"
            assert kill(root, login["attempt_id"]) == 202
            (ended,) = until(lambda: root.records("action_ended"), "its end is told")
            assert (ended["attempt_id"], ended["status"]) == (login["attempt_id"], "cancelled")
            relay.heal()
            until(lambda: state(root) == "syncing", "it is logged in and syncs")
            assert len(relay.requests("login")) == 2
            # The push and the pull have series by now, so what is not there was not counted.
            counted = until(
                lambda: (
                    "fsmv2_communicator_tries_total" in (page := root.get("/metrics") or "")
                    and page
                ),
                "the procs' metrics are shown",
            )
            failed = [line for line in counted.splitlines() if 'direction="login"' in line]
            assert [line for line in failed if float(line.rpartition(" ")[2]) > 0] == []
            assert root.end() == 0
            assert "login failed" not in root.log_text()


def test_a_stop_sends_what_was_posted_since_the_last_sync(tmp_path: Path) -> None:
    """Scenario 40, in a proc of its own and with an hour to the next sync."""
    with Relay(token=TOKEN) as relay:
        path = config(tmp_path, poll_interval_s=3600)
        with Running(path, env={"API_URL": relay.url}) as root:
            until(lambda: len(relay.requests("pull")) == 1, "it has synced")
            until(
                lambda: "next sync within" in str(root.get("/api/v1/workers/site/uplink")),
                "at rest",
            )
            post_all(tmp_path / "outbox", range(50))
            assert root.end() == 0
            assert [message.payload for message in relay.pushed()] == list(range(50))
            assert len(relay.requests("pull")) == 1
            assert "flushed: 50 messages sent, 0 left in the outbox" in root.log_text()


def test_a_kill_between_a_push_and_its_answer_repeats_that_batch_and_loses_nothing(
    tmp_path: Path,
) -> None:
    """Scenario 38: the relay has taken the first hundred of 250, and nobody learns of it."""
    with Relay(token=TOKEN) as relay:
        path = config(tmp_path)
        relay.fault("push", Fault(delay_s=3600))
        post_all(tmp_path / "outbox", range(250))
        with Running(path, env={"API_URL": relay.url}) as root:
            assert relay.wait_for(
                lambda r: len(r.pushed()) == 100 and r.observed.at_a_time("push") == 1, PATIENCE_S
            )
            os.kill(proc_of(root, "SyncAction"), signal.SIGKILL)
            until(lambda: "killed_from_outside" in root.log_text(), "its death is told")
            relay.heal()
            assert relay.wait_for(lambda r: len(r.pushed()) == 350, PATIENCE_S)
            until(lambda: not usage(tmp_path / "outbox").messages, "the outbox is empty")
            assert root.end() == 0
        came = Counter(message.payload for message in relay.pushed())
        assert list(came) == list(range(250)), "first arrivals are in order"
        assert {number for number, times in came.items() if times == 2} == set(range(100))
        assert came.total() == 350


def test_no_pull_begins_once_a_stop_is_asked_for(tmp_path: Path) -> None:
    """Scenario 40: a push that is under way is waited for; meanwhile the relay deletes nothing."""
    with Relay(token=TOKEN) as relay:
        path = config(tmp_path, poll_interval_s=0.3)
        relay.fault("push", Fault(delay_s=2.5))
        with Running(path, env={"API_URL": relay.url}) as root:
            until(lambda: state(root) == "syncing", "it syncs")
            post(tmp_path / "outbox", email="a@b.c", message_type="status", payload="slow")
            assert relay.wait_for(lambda r: r.observed.at_a_time("push") == 1, 40.0)
            pulls = len(relay.requests("pull"))
            assert relay.wait_for(lambda r: len(r.requests("pull")) >= pulls + 2)
            root.process.terminate()
            until(lambda: root.records("supervisor_stopping"), "it is asked to stop")
            pulls = len(relay.requests("pull"))
            assert relay.wait_for(lambda r: len(r.pushed()) == 1)
            relay.send("a@b.c", "action", "late")
            assert root.process.wait(PATIENCE_S) == 0
        assert len(relay.requests("pull")) <= pulls + 1
        assert relay.instance.queue
        assert [message.payload for message in relay.pushed()] == ["slow"]


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_no_message_costs_a_thread(tmp_path: Path) -> None:
    """Scenario 76: 500 messages each way; the root has as many threads as before, at any moment,
    and a proc at most the one more in which it pulls; nobody is started for them."""
    with Relay(token=TOKEN) as relay:
        path = config(tmp_path)
        with Running(path, env={"API_URL": relay.url}) as root:
            until(lambda: len(relay.requests("pull")) >= 2, "it syncs")
            root.wait_ready()
            until(lambda: {each["state"] for each in root.procs()} == {"idle"}, "all procs rest")
            procs = descendants_of(root.pid)
            seen: list[dict[int, int]] = []

            def look() -> bool:
                seen.append({pid: threads_of(pid) for pid in (root.pid, *procs)})
                return True

            def sync_on() -> None:
                syncs = len(relay.requests("pull"))
                until(lambda: look() and len(relay.requests("pull")) > syncs + 2, "it syncs on")

            sync_on()
            resting = {pid: min(each[pid] for each in seen) for pid in seen[0]}
            for group in range(50):
                numbers = range(10 * group, 10 * group + 10)
                contents = [encode_content("status", number) for number in numbers]
                append(tmp_path / "outbox", [encode(Message(content=each)) for each in contents])
                for number in numbers:
                    relay.send("a@b.c", "action", number)
                look()
            until(
                lambda: (
                    look()
                    and len(relay.pushed()) == 500
                    and usage(tmp_path / "inbox").messages == 500
                ),
                "500 messages have moved each way",
            )
            sync_on()
            assert {each[root.pid] for each in seen} == {resting[root.pid]}
            assert {each[pid] - resting[pid] for each in seen for pid in procs} <= {0, 1}
            assert descendants_of(root.pid) == procs
            assert root.end() == 0
