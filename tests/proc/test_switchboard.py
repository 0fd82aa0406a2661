"""The switchboard with a real pool: users' actions that crash, hang and fail; a real kill; the
way through a relay and back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ordered_actions import KINDS
from running import Running

from fsmv2.communicator import spool
from fsmv2.communicator.spool import segments
from fsmv2.communicator.switchboard import Switchboard
from fsmv2.communicator.switchboard.accepted import BEGUN_MAX
from fsmv2.communicator.testing.console import Console
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content
from fsmv2.supervisor import ActionPool

pytestmark = [pytest.mark.proc, pytest.mark.timeout(120)]

WAIT_S = 60.0
STATES = ("confirmed", "executing")


@pytest.fixture(scope="module")
def pool() -> Iterator[ActionPool]:
    with ActionPool(procs=2, preload=("ordered_actions",)) as pool:
        yield pool


def until(true: Callable[[], Any], what: str) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends_at, what
        time.sleep(0.01)


def send(inbox: Path, *contents: str) -> None:
    lines = [spool.encode(Message(email="ada@x", content=content)) for content in contents]
    segments.publish(inbox, segments.new_stem(()), lines)


def order(uuid: str, kind: str, **payload: Any) -> str:
    body = {"actionType": kind, "actionUUID": uuid, "actionPayload": payload}
    return encode_content("action", body)


def replies(outbox: Path) -> dict[str, list[str]]:
    """Per order its states, in order, with the text of the last one."""
    found: dict[str, list[str]] = {}
    for one in spool.outgoing(outbox, 9_999, 1 << 30)[0]:
        kind, payload = decode_content(one.message.content)
        if kind == "action-reply":
            states = found.setdefault(payload["actionUUID"], [])
            states.append(payload["actionReplyState"].removeprefix("action-"))
            if states[-1] in ("success", "failure"):
                states.append(str(payload["actionReplyPayload"]))
    return found


def test_users_actions_run_in_the_pool_and_harm_nothing(tmp_path: Path, pool: ActionPool) -> None:
    """One crashes, one hangs, one raises, one works: each is answered with why, and the
    heartbeat goes on. Scenario 76: three threads, whatever comes."""
    out, box = tmp_path / "out", tmp_path / "in"
    pool.run(KINDS["add"](1))  # type: ignore[call-arg]
    before = threading.active_count()
    with Switchboard(out, box, pool, KINDS, lambda full: {"full": full}) as board:
        send(box, encode_content("subscribe", {}))
        until(lambda: board.counts["statuses"], "a first heartbeat")
        counted = [threading.active_count()]
        send(
            box,
            order("1", "crash"),
            order("2", "hang"),
            order("3", "fail"),
            order("4", "add", left=2, right=40),
            order("5", "fly"),
            order("6", "greet", token="s3cret"),
            *[order(f"n{number}", "add", left=number) for number in range(40)],
        )
        until(lambda: board.counts["succeeded"] + board.counts["failed"] == 46, "all are ended")
        counted.append(threading.active_count())
        beats = board.counts["statuses"]
        until(lambda: board.counts["statuses"] > beats, "the heartbeat goes on")
        until(lambda: board.inbound.stats()[1] == 0, "the inbox is empty")
        names = {thread.name for thread in threading.enumerate()}
    assert {"switchboard-router", "switchboard-status", "switchboard-writer"} <= names
    # Three of ours, and the one of the pool that calls back.
    assert max(counted) <= before + 4
    found = replies(out)
    assert found["1"][:3] == [*STATES, "failure"]
    assert "crashed:SIGSEGV" in found["1"][3]
    assert found["2"][:3] == [*STATES, "failure"]
    assert re.search(r"hang timed out: ended after \d+\.\d s", found["2"][3])
    assert found["3"] == [*STATES, "failure", "fail failed: ValueError: no such pump"]
    assert found["4"] == [*STATES, "success", "42"]
    assert found["5"][0] == "failure"
    assert found["6"] == [*STATES, "success", "6 characters"]
    assert all(found[f"n{n}"] == [*STATES, "success", str(n + 1)] for n in range(40))
    assert board.statistics()["orders_now"] == 0


def test_a_stop_lets_short_orders_end_and_leaves_long_ones_for_the_next_start(
    tmp_path: Path, pool: ActionPool
) -> None:
    """What is left over is told, and answered after the next start, once: as interrupted."""
    out, box = tmp_path / "out", tmp_path / "in"
    board = Switchboard(out, box, pool, KINDS)
    board.start()
    send(box, order("long", "long"), order("short", "add", left=1))
    until(lambda: board.counts["started"] == 2, "both have begun")
    assert board.close(0.05).orders >= 1
    send(box, order("late", "add", left=2))
    with Switchboard(out, box, pool, KINDS) as again:
        until(lambda: "late" in replies(out) and again.inbound.stats()[1] == 0, "all is answered")
    found = replies(out)
    for uuid in ("long", "short", "late"):
        assert sum(state in ("success", "failure") for state in found[uuid]) == 1


def test_an_order_goes_from_the_console_to_a_pool_action_and_back(
    tmp_path: Path, pool: ActionPool
) -> None:
    """The whole way in small: relay, pull, router, pool, push, relay, in a real tree. The
    console sees the instance online, and nothing wrong in the order of the replies."""
    with Relay(token="a-t0ken-that-must-not-show") as relay:
        path = write_config(tmp_path, relay, "a-t0ken-that-must-not-show")
        console = Console(relay)
        with (
            Switchboard(tmp_path / "outbox", tmp_path / "inbox", pool, KINDS, lambda full: full),
            Running(path) as root,
        ):
            console.subscribe()
            ids = [console.order("add", {"left": number}) for number in range(20)]
            ids += [console.order("crash", {}), console.order("s3cret", {})]
            console.order("add", {"left": 0}, ids[0])
            until(lambda: not console.reply_faults(), "every order has its one end")
            until(lambda: len(console.statuses()) > 1, "statuses came")
            page = root.get("/metrics")
            assert root.end() == 0
        assert [console.replies(each)[-1] for each in ids[:20]] == ["action-success"] * 20
        assert [console.replies(each)[-1] for each in ids[20:]] == ["action-failure"] * 2
        assert console.statuses()[:2] == [True, False]
        assert 'fsmv2_communicator_messages_total{direction="pull",path="site/uplink"} ' in page
        for text in (page, root.log_text()):
            assert "s3cret" not in text
            assert "a-t0ken" not in text


def write_config(folder: Path, relay: Relay, token: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(
        "name: site\n"
        "plugins: [fsmv2.communicator]\n"
        "pool: {procs: 2}\n"
        "workers:\n"
        "  - name: uplink\n"
        "    type: communicator\n"
        "    config:\n"
        f"      relay_url: {relay.url}\n"
        f"      auth_token: {token}\n"
        f"      outbox: {folder}/outbox\n"
        f"      inbox: {folder}/inbox\n"
        "      poll_interval_s: 0.1\n"
        "    shutdown_timeout_s: 1.0\n"
    )
    return path


_PROGRAM = """
import sys
from ordered_actions import KINDS
from fsmv2.communicator.switchboard import Switchboard
from fsmv2.supervisor import ActionPool

if __name__ == "__main__":
    with ActionPool(procs=1) as pool, Switchboard(sys.argv[1], sys.argv[2], pool, KINDS) as board:
        print("ready", flush=True)
        sys.stdin.read()
"""


def begin(program: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """The program above, once it is ready; it ends when its standard input does."""
    program.write_text(_PROGRAM)
    root = subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")},
    )
    assert root.stdout is not None
    assert root.stdout.readline() == b"ready\n"
    return root


def end(root: subprocess.Popen[bytes], *, kill: bool = False) -> None:
    assert root.stdin is not None
    assert root.stdout is not None
    if kill:
        root.kill()
    root.stdin.close()
    root.wait(WAIT_S)
    root.stdout.close()


def assert_each_ended_once(out: Path, notes: Path, uuids: list[str]) -> int:
    """None was run twice; what was answered with success was run; what was interrupted is told
    as such. Returns how many were."""
    found = replies(out)
    assert set(found) == set(uuids)
    run = notes.read_text().split()
    assert len(run) == len(set(run)), "an order was run twice"
    interrupted = 0
    for uuid, states in found.items():
        last = [state for state in states if state in ("success", "failure")]
        assert len(last) == 1, f"{uuid}: {states}"
        assert last == ["failure"] or uuid in run
        if last == ["failure"]:
            assert "note was interrupted by a restart: it is not known" in states[-1]
            interrupted += 1
    return interrupted


def test_a_killed_switchboard_loses_no_order_runs_none_twice_and_ends_each_once(
    tmp_path: Path,
) -> None:
    """Scenario 41, the inside: SIGKILL in the midst of 300 orders, twice, then a clean stop."""
    out, box, program = tmp_path / "out", tmp_path / "in", tmp_path / "program.py"
    notes = tmp_path / "notes"
    uuids = [f"u{number}" for number in range(300)]
    for at in range(0, 300, 50):
        part = uuids[at : at + 50]
        send(box, *[order(uuid, "note", file=str(notes), text=uuid) for uuid in part])
    for life in range(3):
        root = begin(program, out, box)
        if life < 2:
            want = 80 * (life + 1)
            until(lambda want=want: notes.exists() and lines(notes) >= want, "some were run")
        else:
            until(lambda: spool.usage(box).messages == 0, "all are done")
        end(root, kill=life < 2)
    assert assert_each_ended_once(out, notes, uuids) <= 2 * BEGUN_MAX


@pytest.mark.parametrize("kill", [False, True], ids=["closed", "killed"])
def test_a_standby_takes_over_from_another_process(
    tmp_path: Path, pool: ActionPool, kill: bool
) -> None:
    """Built while the first runs in a process of its own; refused while that lives, and then it
    knows what was done until the last moment."""
    out, box, notes = tmp_path / "out", tmp_path / "in", tmp_path / "notes"
    uuids = [f"u{number}" for number in range(100)]
    contents = [order(uuid, "note", file=str(notes), text=uuid) for uuid in uuids]
    root = begin(tmp_path / "program.py", out, box)
    standby = Switchboard(out, box, pool, KINDS)
    send(box, *contents[:80])
    until(lambda: notes.exists() and lines(notes) >= 40, "some were run")
    with pytest.raises(spool.Claimed):
        standby.start()
    end(root, kill=kill)
    send(box, *contents[60:])
    with standby:
        until(lambda: spool.usage(box).messages == 0, "all are done")
    interrupted = assert_each_ended_once(out, notes, uuids)
    assert interrupted <= BEGUN_MAX * kill
    assert standby.counts["duplicates"] >= 20 - interrupted


_RUN_EXAMPLE = """
import sys, plant
if __name__ == "__main__":
    print("ready", flush=True)
    plant.serve(sys.argv[1], sys.argv[2], sys.stdin.read)
"""


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    """As it stands there: an order is answered, a subscriber gets a full status first."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    section = readme.partition("### Behind the folders")[2]
    (tmp_path / "plant.py").write_text(section.partition("```python\n")[2].partition("```")[0])
    (tmp_path / "program.py").write_text(_RUN_EXAMPLE)
    out, box = tmp_path / "out", tmp_path / "in"
    send(
        box,
        encode_content("subscribe", {}),
        order("u1", "set-pump-speed", pump="P-1", rpm=900),
        order("u2", "set-pump-speed", pump="P-1"),
    )
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(out), str(box)],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    try:
        until(lambda: spool.usage(box).messages == 0, "all is done")
    finally:
        assert program.stdin is not None
        program.stdin.close()
        assert program.wait(WAIT_S) == 0
    assert replies(out)["u1"] == [*STATES, "success", "P-1 runs at 900 rpm"]
    assert "missing required field `rpm`" in replies(out)["u2"][-1]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")
