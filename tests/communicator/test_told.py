"""The log follows a trouble: when it begins, becomes another one, and ends; never at each try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from storyline import Line

from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.actions.told import CLASSES_MAX, RETURNED_AT, say
from fsmv2.communicator.outcomes import Said
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.errors import Kind, Problem

REFUSED = Problem(Kind.NETWORK, "no connection: Connection refused")
SERVER = Problem(Kind.SERVER_ERROR, "HTTP 500 (server_error)", 500)
GATEWAY = Problem(Kind.SERVER_ERROR, "HTTP 502 (server_error)", 502)


def said_of(context: Any, problems: list[Problem | None]) -> list[str]:
    """What is logged of one try after the other: events, with the detail where there is one."""
    said = Said()
    context.logged.clear()
    for errors, problem in enumerate(problems):
        said = say(context, "push", said, problem, errors)
    return [f"{event}: {fields.get('detail', '')}" for event, _, fields in context.logged]


def test_the_log_says_what_a_relay_that_was_away_does_now(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Away, then there with errors, then well: the log has each of it once for each direction."""
    line = Line(relay, tmp_path, context)
    line.run(3)
    relay.refuse()
    line.post(1)
    line.run(60)
    for endpoint in ("push", "pull"):
        relay.fault(endpoint, Fault(status=500), times=None)
    relay.accept()
    line.run(300)
    relay.heal()
    line.run(75)
    for name in ("push", "pull"):
        told = [
            (event, level, fields.get("kind"))
            for event, level, fields in context.logged
            if event.startswith(f"{name} ")
        ]
        assert told == [
            (f"{name} failed", "warning", "network"),
            (f"{name} fails differently", "warning", "server_error"),
            (f"{name} fails no more", "info", None),
        ]
    assert [one.payload for one in relay.pushed()] == [1]
    ended = [fields for event, _, fields in context.logged if event == "push fails no more"]
    assert ended[0]["errors_in_row"] > 8


def test_the_log_follows_a_login_that_fails(relay: Relay, tmp_path: Path, context: Any) -> None:
    line = Line(relay, tmp_path, context)
    relay.refuse()
    line.run(20)
    relay.fault("login", faults.nginx_502(), times=None)
    relay.accept()
    line.run(80)
    relay.heal()
    line.run(75)
    assert [event for event, _, _ in context.logged if "fail" in event] == [
        "login failed",
        "login fails differently",
        "logins keep failing",
        "login fails no more",
    ]


def test_a_trouble_that_begins_with_killed_attempts_is_told_by_the_first_that_is_not(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """These log nothing themselves, whether they were of syncs or of logins."""
    line = Line(relay, tmp_path, context)
    relay.fault("login", Fault(status=500))
    line.kill(AuthenticateAction, "timed_out")
    line.run(20)
    assert line.trail[-1] == "syncing"
    line.kill(SyncAction, "timed_out")
    relay.fault("pull", Fault(status=500))
    line.run(20)
    assert [event for event, _, _ in context.logged] == [
        "login failed",
        "login fails no more",
        "pull failed",
        "pull fails no more",
    ]


def test_a_trouble_that_changes_to_and_fro_is_no_line_per_try(context: Any) -> None:
    began, changed = f"push failed: {REFUSED}", f"push fails differently: {SERVER}"
    assert said_of(context, [REFUSED, SERVER] * 50) == [began, changed]
    back = [*[REFUSED, SERVER], *[REFUSED] * 50]
    assert said_of(context, back) == [began, changed, f"push fails differently: {REFUSED}"]
    assert said_of(context, back[: 2 + RETURNED_AT - 1]) == [began, changed]
    over = [REFUSED, None, None, SERVER, None]
    ends = "push fails no more: "
    assert said_of(context, over) == [began, ends, f"push failed: {SERVER}", ends]


def test_another_number_in_a_text_is_no_other_trouble_and_another_status_is(context: Any) -> None:
    bytes_left = [Problem(Kind.CHANNEL_FULL, f"not pulled: {n:,} bytes free") for n in (1, 2000)]
    assert len(said_of(context, bytes_left * 20)) == 1
    assert len(said_of(context, [SERVER, GATEWAY, GATEWAY])) == 2


def test_there_is_an_end_of_new_classes(context: Any) -> None:
    """The relay has a say in the text's kind, so there may be any number of them."""
    many = [Problem(Kind.UNKNOWN, f"HTTP {status}", status) for status in range(200, 300)]
    assert len(said_of(context, many * 3)) == CLASSES_MAX
    last = [*many, *[SERVER] * RETURNED_AT]
    assert said_of(context, last)[CLASSES_MAX:] == [f"push fails differently: {SERVER}"]
    said = Said()
    for problem in many * 2:
        said = say(context, "push", said, problem, 1)
    assert len(msgspec.json.encode(said)) < 200
