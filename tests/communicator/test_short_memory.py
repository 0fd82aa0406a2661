"""Orders while memory is short: put off, answered or kept, never lost; a small content that stands
for a large one fills no program, and one that ends the process does so a few times only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ordered_actions import Note
from playedline import Line, replies_in, reply_to

from fsmv2.communicator import spool
from fsmv2.communicator.spool.tries import Tries
from fsmv2.communicator.switchboard import accepted, inbound, orders, router
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import encode_content

TEXT = "y" * 2_000


class Killed(BaseException):
    """As if the kernel had ended the process for its memory, here."""


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr(router, "MEMORY_WAIT_S", 0.0)
    line = Line(tmp_path)
    yield line
    line.outbound.close()


def raises(error: type[BaseException], times: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """``real``, but for its first calls."""
    left = [times]

    def call(*args: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error("s3cret")
        return real(*args)

    return call


def kept(folder: Path) -> list[str]:
    return [path.suffix for path in (folder / "in").iterdir() if path.suffix == ".unreadable"]


def test_an_order_that_finds_no_memory_for_a_moment_is_run(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was lost without a reply: told to be unreadable, and deleted. In its turn, too."""
    monkeypatch.setattr(router, "read_content", raises(MemoryError, 2, router.read_content))
    line.order("u1")
    line.order("u2")
    assert not line.router.step()
    assert line.left() == 2
    for _ in range(5):
        line.run()
    assert replies_in(line.folder / "out") == [
        ("u1", "confirmed"),
        ("u1", "executing"),
        ("u2", "confirmed"),
        ("u2", "executing"),
    ]
    assert (line.counts["postponed"], line.counts["orders"], line.counts["unreadable"]) == (2, 2, 0)
    assert "s3cret" not in caplog.text


def test_a_message_that_is_put_off_holds_up_no_reply(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is accepted is begun meanwhile; a stop is not held up by it."""
    monkeypatch.setattr(router, "MEMORY_WAIT_S", 600.0)
    line.order("u1")
    assert line.router.step()
    monkeypatch.setattr(router, "read_content", raises(MemoryError, 99, router.read_content))
    line.order("u2")
    for _ in range(9):
        line.router.step()
    assert (len(line.pool.taken), line.counts["postponed"]) == (1, 1)
    line.pool.end(value=1)
    line.run()
    assert (line.router.in_flight, line.left()) == (0, 1)


def test_an_order_that_never_finds_memory_is_answered(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries: with a failure that is worth another try. Those behind it are run."""
    tries = inbound.TRIES_MAX
    monkeypatch.setattr(router, "read_content", raises(MemoryError, tries, router.read_content))
    line.order("u1")
    line.order("u2")
    for _ in range(tries + 3):
        line.run()
    last = reply_to(line.folder / "out", "u1")
    assert last["actionReplyPayloadV2"]["errorCode"] == orders.NO_MEMORY
    assert f"begun {tries} times" in last["actionReplyPayload"]
    assert replies_in(line.folder / "out")[-1] == ("u2", "executing")
    assert line.left() == 1


def test_what_cannot_even_be_answered_for_want_of_memory_is_kept(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those behind it are run."""
    monkeypatch.setattr(router, "read_content", raises(MemoryError, 5, router.read_content))
    monkeypatch.setattr(orders, "read_head", raises(MemoryError, 1, orders.read_head))
    line.order("u1")
    line.order("u2")
    for _ in range(9):
        line.run()
    assert (kept(line.folder), line.counts["set_aside"]) == ([".unreadable"], 1)
    assert {each[1]["actionUUID"] for each in line.replies()} == {"u2"}


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_an_envelope_that_cannot_be_read_now_is_the_next_one_again(
    line: Line, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Not the end of its file: the rest of it was lost until the next start."""
    real = codec.decode_message
    monkeypatch.setattr(codec, "decode_message", raises(error, 2, real))
    bodies = [
        {"actionType": "add", "actionUUID": f"u{n}", "actionPayload": {"left": 1}} for n in (1, 2)
    ]
    line.send(*[encode_content("action", body) for body in bodies])
    for _ in range(6):
        with contextlib.suppress(RuntimeError):  # the switchboard waits, and steps again
            line.run()
    assert [len(line.pool.taken), line.counts["received"]] == [2, 2]
    monkeypatch.setattr(codec, "decode_message", raises(error, inbound.TRIES_MAX, real))
    line.order("u3")
    line.order("u4")
    for _ in range(9):
        with contextlib.suppress(RuntimeError):  # the switchboard waits, and steps again
            line.run()
    assert [len(line.pool.taken), line.counts["unreadable"], kept(line.folder)] == [
        3,
        1,
        [".unreadable"],
    ]


def test_another_error_costs_an_order_a_failure_and_anything_else_its_place(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is dropped: one is answered, the other kept for people."""
    monkeypatch.setattr(router, "read_content", raises(RuntimeError, 2, router.read_content))
    line.order("u1")
    line.send(encode_content("subscribe", {}))
    line.run()
    last = reply_to(line.folder / "out", "u1")
    assert last["actionReplyPayloadV2"]["errorCode"] == orders.NOT_ROUTED
    assert (kept(line.folder), line.left()) == ([".unreadable"], 0)
    assert (line.counts["faults"], line.counts["set_aside"]) == (2, 1)


@pytest.mark.parametrize("kind", [7, None, {"a": 1}])
def test_an_order_without_a_readable_type_is_answered(line: Line, kind: Any) -> None:
    """There is somebody to be told."""
    line.send(encode_content("action", {"actionType": kind, "actionUUID": "u1"}))
    line.run()
    assert line.states() == ["failure"]


def test_keys_of_an_order_are_read_in_any_case(line: Line) -> None:
    """All three: one with defaults would have been run without its payload."""
    body = {"ActionType": "add", "ACTIONUUID": "u1", "ActionPayload": {"left": 7}}
    line.send(encode_content("action", body), encode_content("subscribe", {"Resubscribed": True}))
    line.run()
    assert [action.left for action, _ in line.pool.taken] == [7]  # type: ignore[attr-defined]
    assert line.subscribers.get_subscribers()[0].bootstrapped


def test_what_is_open_takes_bounded_memory(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small it is packed, whoever has it: the router or the pool. None is dropped, and one
    goes always."""
    monkeypatch.setattr(accepted, "BYTES_MAX", 3 * len(TEXT))
    for number in range(8):
        line.order(f"u{number}", "note", {"file": "f", "text": TEXT})
    line.order("u8", "note", {"file": "f", "text": 5 * TEXT})
    most = 0
    for _ in range(60):
        line.run()
        waiting = [action for _, action in line.router._accepted._waiting]
        with_pool = [action for action, future in line.pool.taken if not future.done()]
        held = [action for action in [*waiting, *with_pool] if isinstance(action, Note)]
        most = max(most, sum(len(action.text) for action in held))
        assert all(not one.order.payload for one in line.router._open.values())
        assert all(not one.incoming.message.content for one in line.router._open.values())
        for index, (_, future) in enumerate(line.pool.taken):
            if not future.done():
                line.pool.end(index, value=1)
                break
    assert 2 * len(TEXT) < most <= 8 * len(TEXT)
    assert (len(line.pool.taken), line.left(), line.router.in_flight) == (9, 0, 0)
    assert line.router._accepted._bytes == 0


def test_values_count_as_what_they_become() -> None:
    """A few bytes of text may be an object of hundreds."""
    assert codec.read_content(encode_content("t", [{}] * 1000)).size > 100_000
    assert codec.read_content(encode_content("t", "y" * 1000)).size < 3_000


@pytest.mark.parametrize("also_head", [False, True])
def test_a_content_that_ends_the_process_does_so_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also_head: bool
) -> None:
    """A start after each kill reads the same file; then it is answered, or if even its head is too
    much, kept. What is behind it is run."""
    real, real_head = router.read_content, orders.read_head

    def read(content: str) -> Any:
        if len(content) > 4 * len("small") and codec.is_packed(content):
            raise Killed
        return real(content)

    def read_head(content: str) -> Any:
        if also_head:
            raise Killed
        return real_head(content)

    monkeypatch.setattr(router, "read_content", read)
    monkeypatch.setattr(orders, "read_head", read_head)
    line = Line(tmp_path)
    line.order("u1", "note", {"file": "f", "text": TEXT})
    line.order("u2")
    lives = 0
    while lives < 20:
        try:
            line.run()
            break
        except Killed:
            lives += 1
            line.router.abandon()
            line.outbound.close()
            line = Line(tmp_path)
    line.outbound.close()
    assert lives == inbound.TRIES_MAX + also_head
    assert len(line.pool.taken) == 1
    if also_head:
        assert kept(tmp_path) == [".unreadable"]
    else:
        last = reply_to(tmp_path / "out", "u1")
        assert last["actionReplyPayloadV2"]["errorCode"] == orders.NO_MEMORY
    assert (tmp_path / "in" / ".tries").read_bytes() == b""


def test_tries_are_known_after_a_kill_and_forgotten_with_their_file(tmp_path: Path) -> None:
    """A torn end costs that line; what was ended counts anew; what is not noted is not on disk."""
    (tmp_path / "a.jsonl").write_bytes(b"{}")
    tries = Tries(tmp_path)
    assert [tries.begin("a.jsonl#0", noted=True) for _ in range(3)] == [1, 2, 3]
    tries.begin("gone.jsonl#0", noted=True)
    tries.begin("a.jsonl#1", noted=True)
    tries.begin("a.jsonl#2", noted=False)
    tries.end("a.jsonl#1")
    with (tmp_path / ".tries").open("ab") as file:
        file.write(b"+a.jso")
    for _ in range(2):
        tries = Tries(tmp_path)
        assert (repr(tries), tries.begin("a.jsonl#2", noted=False)) == ("<Tries of 1>", 1)
    assert tries.begin("a.jsonl#0", noted=True) == 4
    tries.end("a.jsonl#0")
    tries.end("a.jsonl#2")
    assert (tmp_path / ".tries").read_bytes() == b""
    assert spool.usage(tmp_path).messages == 1
