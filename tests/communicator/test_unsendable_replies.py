"""Replies that cannot be sent: each order has its end all the same, and holds up no other."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playedline import Line

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds, outbox
from fsmv2.communicator.transport.codec import decode_content, encode_content


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path)
    yield line
    line.outbound.close()


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "why"), [(object(), "TypeError"), (nested(20_000), "RecursionError")]
)
def test_a_value_that_is_no_json_is_told_as_such(line: Line, value: Any, why: str) -> None:
    """The action was run; its user learns that there is no value to be had."""
    line.order()
    line.run()
    line.pool.end(value=value)
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"]
    assert f"value cannot be sent: {why}" in line.replies()[-1][1]["actionReplyPayload"]


def test_a_value_too_large_to_send_holds_up_no_reply_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends while the outbox is full; what it is told, and all behind it, goes out in turn."""
    monkeypatch.setattr(outbox, "MESSAGE_BYTES_MAX", 2_000)
    line = Line(tmp_path, Bounds(messages_max=2))
    line.order("u0")
    line.run()
    line.order("u1")
    line.run()
    assert line.router.unsent == 2
    line.pool.end(0, value=random.Random(0).randbytes(4_000).hex())
    line.run()
    got: list[tuple[str, str]] = []
    told: list[str] = []
    for _ in range(10):
        taken, *_ = spool.outgoing(tmp_path / "out", 999, 1 << 30)
        payloads = [decode_content(one.message.content)[1] for one in taken]
        got += [(each["actionUUID"], each["actionReplyState"][7:]) for each in payloads]
        told += [p["actionReplyPayload"] for p in payloads if "failure" in p["actionReplyState"]]
        spool.acknowledge(taken)
        line.outbound._count()
        line.run()
        if len(line.pool.taken) == 2 and not line.pool.taken[1][1].done():
            line.pool.end(1, value=1)
    states = ["confirmed", "executing"]
    assert [state for uuid, state in got if uuid == "u0"] == [*states, "failure"]
    assert re.search(r"it has \d{4,} bytes, want at most 2000", told[0])
    assert [state for uuid, state in got if uuid == "u1"] == [*states, "success"]
    assert (line.router.unsent, line.router.in_flight, line.left()) == (0, 0, 0)
    line.outbound.close()


def test_an_order_that_cannot_even_be_answered_is_not_in_flight_for_ever(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender's name alone is larger than any reply may be: given up, counted, and gone."""
    monkeypatch.setattr(outbox, "MESSAGE_BYTES_MAX", 2_000)
    body = {"actionType": "add", "actionUUID": "u1", "actionPayload": {"left": 1}}
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "MESSAGE_BYTES_MAX", 9_000)
        line.send(encode_content("action", body), email="a" * 3_000)
    line.run()
    assert (line.counts["faults"], line.router.in_flight, line.left()) == (1, 0, 0)
    assert line.pool.taken == []
