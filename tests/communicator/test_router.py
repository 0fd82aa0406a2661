"""The router with a pool that is played: what each message leads to, and in which order."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ordered_actions import Add
from playedline import Line

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds
from fsmv2.communicator.switchboard import orders, router
from fsmv2.communicator.transport.codec import decode_content, encode_content
from fsmv2.supervisor.core.action import ActionError, DeathCertificate

SECRET = "s3cret"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path)
    yield line
    line.outbound.close()


def test_an_order_is_confirmed_executed_and_ended_once(line: Line) -> None:
    """In this order; the value is the payload, in both forms of it."""
    line.order(payload={"left": 2, "right": 3})
    line.run()
    assert [action for action, _ in line.pool.taken] == [Add(left=2, right=3)]
    assert (line.states(), line.left()) == (["confirmed", "executing"], 1)
    assert line.router._open["u1"].incoming.message.content == ""  # not kept while it runs
    line.pool.end(value=5)
    line.run()
    assert (line.states(), line.left()) == (["confirmed", "executing", "success"], 0)
    last = line.replies()[-1][1]
    assert last["actionUUID"] == "u1"
    assert last["actionReplyPayload"] == 5
    assert last["actionReplyPayloadV2"] == {"message": "done", "payload": 5}
    assert line.router.in_flight == 0


@pytest.mark.parametrize(
    ("fields", "code", "why"),
    [
        (
            {"status": "failed", "error": ActionError("ValueError", "no pump", "line 3 of …")},
            "ERR_ACTION_FAILED",
            "add failed: ValueError: no pump",
        ),
        (
            {
                "status": "crashed",
                "ran_s": 0.25,
                "certificate": DeathCertificate(verdict="crashed:SIGSEGV", stack="frame 1"),
            },
            "ERR_RETRY_CRASHED",
            "add ended with its process after 0.2 s: crashed:SIGSEGV",
        ),
        (
            {
                "status": "timed_out",
                "ran_s": 30.0,
                "certificate": DeathCertificate(verdict="hung_in_c", log_tail=("a line",)),
            },
            "ERR_RETRY_TIMED_OUT",
            "add timed out: ended after 30.0 s (hung_in_c)",
        ),
        ({"status": "cancelled"}, "ERR_RETRY_CANCELLED", "add was cancelled"),
        (
            {"status": "refused", "error": ActionError("QueueFull", "10 wait")},
            "ERR_RETRY_REFUSED",
            "add refused: QueueFull: 10 wait",
        ),
    ],
    ids=["failed", "crashed", "timed out", "cancelled", "refused"],
)
def test_every_other_end_is_one_failure_that_says_why(
    line: Line, fields: dict[str, Any], code: str, why: str
) -> None:
    """Without stacks and log lines: those are the operator's, not the user's."""
    line.order()
    line.run()
    line.pool.end(**fields)
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"]
    assert line.replies()[-1][1]["actionReplyPayload"] == why
    assert line.replies()[-1][1]["actionReplyPayloadV2"] == {"message": why, "errorCode": code}
    assert line.left() == 0


@pytest.mark.parametrize(
    ("kind", "payload", "code", "why"),
    [
        ("fly", {}, "ERR_UNKNOWN_ACTION", "'fly', want of: add, again, crash, exit,"),
        ("add", {"left": "x"}, "ERR_BAD_PAYLOAD", "Expected `int`, got `str` - at `$.left`"),
        ("add", {"left": 1, "up": 2}, "ERR_BAD_PAYLOAD", "unknown field `up`"),
        ("add", [1], "ERR_BAD_PAYLOAD", "Expected `object`"),
        ("greet", {"token": 7}, "ERR_BAD_PAYLOAD", "want Secret"),
    ],
)
def test_an_order_that_cannot_be_run_has_one_failure_reply(
    line: Line, kind: str, payload: Any, code: str, why: str
) -> None:
    """An unknown type, fields that are not the action's own: nothing is run."""
    line.order(kind=kind, payload=payload)
    line.run()
    assert line.states() == ["failure"]
    last = line.replies()[0][1]["actionReplyPayloadV2"]
    assert last["errorCode"] == code
    assert why in last["message"]
    assert (line.pool.taken, line.left()) == ([], 0)


def test_a_pool_that_takes_nothing_is_a_failure_reply_too(line: Line) -> None:
    """Closed, or an action class that cannot be sent: told by its type only."""
    line.pool.error = ValueError(SECRET)
    line.order()
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"]
    assert "ValueError" in str(line.replies()[-1])
    assert SECRET not in str(line.replies())


def test_the_same_order_is_run_once(line: Line) -> None:
    """Scenario 56: delivered again while it runs, after it has ended, and after a restart; the
    second delivery is counted, and not answered a second time."""
    line.order()
    line.order()
    line.run()
    assert (len(line.pool.taken), line.left()) == (1, 1)
    line.pool.end(value=1)
    line.run()
    line.order()
    line.run()
    assert (line.counts["duplicates"], line.left()) == (2, 0)
    line.outbound.close()
    after = Line(line.folder)
    after.order()
    after.run()
    assert (after.counts["duplicates"], after.pool.taken) == (1, [])
    assert after.states() == ["confirmed", "executing", "success"]
    after.outbound.close()


def test_what_cannot_be_routed_is_warned_of_and_the_next_message_is_routed(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario 64: bad base64, bad inner JSON, half of a zstd frame, an unknown type, an action
    that nobody could be answered about; behind each of them the next message is routed. No content
    is in a line of the log, and a hundred are one line."""
    plain = encode_content("subscribe", {})
    frame = base64.b64decode(encode_content("subscribe", SECRET * 1000))
    inner = (
        *(SECRET.encode(), b'{"Payload":', b'{"Payload":"s3cret}', b"[]", b"", b"\xff\xfe{}"),
        frame[: len(frame) // 2],
    )
    bad = [
        f"!{SECRET}",
        plain[:-6],
        *(base64.b64encode(each).decode() for each in inner),
        encode_content("encrypted-content", SECRET),
        encode_content("action", SECRET),
        encode_content("action", {"actionType": SECRET}),
    ]
    for number, content in enumerate(bad):
        line.send(content)
        line.order(f"u{number}")
        line.run()
        assert len(line.pool.taken) == number + 1, content
        line.send(content, plain)
        line.run()
        assert line.counts["subscribes"] == number + 1, content
    line.send(*[encode_content("action", [SECRET])] * 100, plain)
    line.run()
    assert (line.counts["unreadable"], line.counts["unexpected"]) == (122, 2)
    assert [subscriber.email for subscriber in line.subscribers.get_subscribers()] == ["ada@x"]
    assert line.left() == len(bad)  # the orders, which still run
    assert SECRET not in caplog.text
    assert len(caplog.records) == 2


@pytest.mark.parametrize("payload", ["", None, {}, {"resubscribed": "yes"}, [True]])
def test_a_subscription_without_the_word_wants_the_full_set(line: Line, payload: Any) -> None:
    """Only the word itself means that the console has it."""
    line.send(encode_content("subscribe", {"resubscribed": True}))
    line.run()
    assert line.subscribers.get_subscribers()[0].bootstrapped is True
    line.send(encode_content("subscribe", payload))
    line.run()
    assert line.subscribers.get_subscribers()[0].bootstrapped is False
    for email in ("", "a" * 1001):
        line.send(encode_content("subscribe", {}), email=email)
    line.run()
    assert line.counts["unreadable"] == 2


def test_a_full_outbox_holds_orders_back_and_drops_no_reply(tmp_path: Path) -> None:
    """Scenarios 34 and 36, this side: orders stay in the inbox, replies wait; pushing lets both
    go on, and each order has its replies, once and in order."""
    line = Line(tmp_path, Bounds(messages_max=4))
    for number in range(10):
        line.order(f"u{number}")
    got: list[tuple[str, str]] = []
    for _ in range(200):
        line.run()
        assert spool.usage(tmp_path / "out").messages <= 4
        for index, (_, future) in enumerate(line.pool.taken):
            if not future.done():
                line.pool.end(index, value=index)
        taken, *_ = spool.outgoing(tmp_path / "out", 999, 1 << 30)
        payloads = [decode_content(one.message.content)[1] for one in taken]
        got += [(each["actionUUID"], each["actionReplyState"]) for each in payloads]
        spool.acknowledge(taken)
        line.outbound._count()
        if line.left() == 0 and not taken:
            break
    states = [f"action-{word}" for word in ("confirmed", "executing", "success")]
    for number in range(10):
        assert [state for uuid, state in got if uuid == f"u{number}"] == states
    assert len(got) == 30
    line.outbound.close()


def test_too_many_orders_at_once_wait_in_the_inbox(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, whatever comes; none is dropped."""
    monkeypatch.setattr(router, "IN_FLIGHT_MAX", 3)
    for number in range(5):
        line.order(f"u{number}")
    line.run()
    assert len(line.pool.taken) == 3
    for index in range(3):
        line.pool.end(index, value=0)
    line.run()
    line.run()
    assert len(line.pool.taken) == 5
    assert line.left() == 2


def test_an_error_of_ours_costs_one_message(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, counted and told by its type, or it would come again for ever."""

    def broken(*_: Any) -> None:
        raise RuntimeError(SECRET)

    with monkeypatch.context() as patch:
        patch.setattr(line.router, "_subscribe", broken)
        line.send(encode_content("subscribe", {}))
        line.run()
    assert (line.counts["faults"], line.left()) == (1, 0)
    line.order()
    line.run()
    assert line.states() == ["confirmed", "executing"]


def test_names_of_a_reply_are_those_of_the_wire() -> None:
    """As consoles read them."""
    order = orders.Order("u", "add", None)
    assert orders.reply(order, orders.ReplyState.EXECUTING, "x") == {
        "actionUUID": "u",
        "actionReplyState": "action-executing",
        "actionReplyPayload": "x",
        "actionReplyPayloadV2": {"message": "x"},
    }
    assert repr(order) == "<Order>"
