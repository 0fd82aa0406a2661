"""How orders end whose actions misbehave in their procs, what is told of it to whom, and what it
costs this process: the same threads, however many orders."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import prometheus_client
import pytest
from ordered_actions import KINDS
from playedline import replies_in, reply_to, send_order
from running import until

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.switchboard import Switchboard
from fsmv2.supervisor import Action, ActionPool, ActionResult

pytestmark = [pytest.mark.proc, pytest.mark.timeout(120)]

SECRET = "s3cret-of-a-message"
RESULT_BYTES_MAX = 1 << 20


class Watched:
    """A pool whose results are kept as they came."""

    def __init__(self, pool: ActionPool) -> None:
        self._pool = pool
        self.results: list[ActionResult] = []

    def submit(self, action: Action) -> Future[ActionResult]:
        future = self._pool.submit(action)
        future.add_done_callback(lambda done: self.results.append(done.result()))
        return future


@pytest.fixture(scope="module")
def pool() -> Iterator[ActionPool]:
    with ActionPool(
        procs=2, preload=("ordered_actions",), result_bytes_max=RESULT_BYTES_MAX
    ) as pool:
        yield pool


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


def test_2000_orders_take_no_thread_and_a_stop_leaves_none(
    tmp_path: Path, pool: ActionPool
) -> None:
    """Scenario 76: the same threads at the first order, in the midst of them, and after the last;
    none of ours after the stop."""
    out, box = tmp_path / "out", tmp_path / "in"
    called_back = threading.Event()
    handle = pool.submit(KINDS["long"]())
    handle.add_done_callback(lambda _: called_back.set())
    handle.kill()
    assert called_back.wait(60.0)  # from a thread of the pool's, which is there from now on
    before = threads()
    with Switchboard(out, box, pool, KINDS, lambda full: full) as board:
        send_order(box, "first")
        until(lambda: board.counts["succeeded"] == 1, "the first has ended")
        at_first = threads()
        seen = set()

        def all_ended() -> bool:
            seen.add(tuple(threads()))
            return board.counts["succeeded"] == 2_001

        send_order(box, *(f"u{number}" for number in range(2_000)))
        until(all_ended, "all have ended")
        until(lambda: board.router.in_flight == 0, "all are settled")
        assert seen == {tuple(at_first)}
        ours = Counter(at_first) - Counter(before)
        assert ours == Counter(["switchboard-router", "switchboard-status", "switchboard-writer"])
    assert threads() == before
    ended = [uuid for uuid, state in replies_in(out) if state == "success"]
    assert sorted(ended) == sorted(["first", *(f"u{number}" for number in range(2_000))])


@pytest.mark.parametrize(
    ("kind", "fields", "code", "told"),
    [
        ("hang", {}, "ERR_RETRY_TIMED_OUT", r"hang timed out: ended after \d+\.\d s \(\w+\)"),
        ("crash", {}, "ERR_RETRY_CRASHED", r"crash ended with its process .*: crashed:SIGSEGV"),
        ("exit", {}, "ERR_RETRY_CRASHED", r"exit ended with its process .*: exited:3"),
        (
            "huge",
            {"size": 2 * RESULT_BYTES_MAX},
            "ERR_ACTION_FAILED",
            rf"huge failed: .*2\D?097\D?\d+ bytes.*{RESULT_BYTES_MAX}",
        ),
    ],
)
def test_how_an_action_was_ended_is_told_with_what_is_known(
    tmp_path: Path, pool: ActionPool, kind: str, fields: dict[str, int], code: str, told: str
) -> None:
    """How long it ran, the signal, the status, the sizes; the stack is for the operator."""
    watched = Watched(pool)
    with Switchboard(tmp_path / "out", tmp_path / "in", watched, KINDS) as board:
        send_order(tmp_path / "in", "u1", kind=kind, **fields)
        until(lambda: board.counts["failed"] == 1, "it is ended")
        assert board.outbound.flush(20)
    last = reply_to(tmp_path / "out", "u1")
    assert last["actionReplyPayloadV2"]["errorCode"] == code
    message = last["actionReplyPayloadV2"]["message"]
    assert re.search(told, message), message
    certificate = watched.results[0].certificate
    if kind == "hang":
        assert certificate is not None
        assert "ordered_actions.py" in str(certificate.stack)
    assert "ordered_actions.py" not in str(last)


def test_what_a_message_says_is_nowhere_but_in_its_reply(
    tmp_path: Path, pool: ActionPool, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in a log, at any level, nor in counts, metrics, reprs, or the certificates of those
    that died with it; what a user's action raised goes to that user alone."""
    caplog.set_level(logging.DEBUG)
    watched = Watched(pool)
    registry = prometheus_client.CollectorRegistry()
    out, box = tmp_path / "out", tmp_path / "in"
    with Switchboard(out, box, watched, KINDS, lambda full: full) as board:
        registry.register(metrics.collector(board))
        for how in ("crash", "hang", "fail", "return"):
            kind = "keep too long" if how == "hang" else "keep"
            send_order(box, how, kind=kind, text=SECRET, how=how)
        send_order(box, "unknown", kind=SECRET)
        send_order(box, "fields", kind="add", left=SECRET, more=SECRET)
        until(lambda: board.router.in_flight or board.counts["orders"], "they were read")
        shown = [repr(one) for one in (board, board.router, board.inbound, board.router._open)]
        until(lambda: board.counts["orders"] == 6 and not board.router.in_flight, "all are ended")
        shown += [str(board.statistics()), prometheus_client.generate_latest(registry).decode()]
        shown += [repr(one) for one in (board, board.counts, board.outbound, board.subscribers)]
    shown += [str(result.certificate) for result in watched.results]
    assert sum(result.certificate is not None for result in watched.results) == 2
    assert SECRET not in "\n".join([*shown, caplog.text, *map(str, caplog.records)])
    for path in box.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path.name
    assert f"no pump {SECRET}" in reply_to(out, "fail")["actionReplyPayload"]
    assert reply_to(out, "return")["actionReplyPayload"] == SECRET
    assert SECRET not in str([reply_to(out, uuid) for uuid in ("crash", "hang")])
    assert spool.usage(box).messages == 0
