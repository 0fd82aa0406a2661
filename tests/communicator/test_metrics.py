"""What the communicator counts: each row of its table is moved, and says nothing of a message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.actions import authenticate, pull
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.outcomes import Credentials, Direction
from fsmv2.communicator.switchboard import COUNTED, Switchboard
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import ActionContext, Secret

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")


@pytest.fixture
def moved() -> Any:
    """How much a series of no worker's has grown since the test began."""
    metrics.of("")
    begin = {**values()}

    def grown(name: str, **labels: str) -> float:
        key = (name, *sorted({"path": "", **labels}.items()))
        return values().get(key, 0.0) - begin.get(key, 0.0)

    return grown


def values() -> dict[tuple[Any, ...], float]:
    return {
        (sample.name.removeprefix("fsmv2_communicator_"), *sorted(sample.labels.items())): (
            sample.value
        )
        for family in prometheus_client.REGISTRY.collect()
        for sample in family.samples
        if sample.name.startswith("fsmv2_communicator_")
    }


def test_a_sync_moves_its_counts(
    relay: Relay, context: ActionContext, tmp_path: Path, moved: Any
) -> None:
    """Tries, messages, bytes and requests of both directions; having nothing to send is no try."""
    made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
    login = AuthenticateAction(made_for).execute(context)
    assert login.session is not None
    access = Access(made_for, login.session, 7, login.instance_uuid)
    sync = SyncAction(access, str(tmp_path / "out"), str(tmp_path / "in"))
    for payload in ("s3cret", 2):
        spool.post(tmp_path / "out", email="ada@x", message_type="status", payload=payload)
    relay.send("ada@example.com", "action", "s3cret")
    sync.execute(context)
    assert moved("messages_total", direction="push") == 2
    assert moved("messages_total", direction="pull") == 1
    assert moved("bytes_total", direction="push") > 100
    assert moved("tries_total", direction="pull", result="success") >= 1
    assert moved("request_seconds_count", direction="push") == 1
    tries = moved("tries_total", direction="push", result="success")
    relay.fault("pull", faults.nginx_502(), times=None)
    sync.execute(context)
    assert moved("tries_total", direction="push", result="success") == tries
    assert moved("tries_total", direction="pull", result="failure") == 1
    assert moved("errors_total", direction="pull", kind="server_error") == 1
    told = prometheus_client.generate_latest().decode()
    assert "s3cret" not in told
    assert "ada@" not in told


def test_a_reply_that_a_kill_left_packed_is_counted_when_it_is_unpacked(
    relay: Relay, context: ActionContext, tmp_path: Path, moved: Any
) -> None:
    """With its bytes, like any."""
    made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
    login = AuthenticateAction(made_for).execute(context)
    assert login.session is not None
    saved = b'{"UMHMessages":[{"email":"a"},{"email":"b"}]}'
    (tmp_path / f"{1:020d}-1-a.begun1.reply").write_bytes(saved)
    access = Access(made_for, login.session, 7, "")
    assert pull.PullAction(access, str(tmp_path)).execute(context).moved == 2
    assert moved("messages_total", direction="pull") == 2
    assert moved("bytes_total", direction="pull") == len(saved)


def test_two_communicators_of_one_proc_have_their_own_series(
    relay: Relay, context: ActionContext, tmp_path: Path
) -> None:
    """By the worker's path: a gauge that two write is of neither; a refused login, and a sync whose
    pull runs in a thread of its own, are their own worker's too."""
    for number, path in enumerate(("site/a", "site/b")):
        made_for = Credentials(relay.url, Secret(DEMO_TOKEN), path=path)
        login = AuthenticateAction(made_for).execute(context)
        assert login.session is not None
        for payload in range(number + 1):
            spool.post(tmp_path / path, email="a@x", message_type="status", payload=payload)
            relay.send("ada@example.com", "action", payload)
        relay.fault("push", faults.nginx_502())
        access = Access(made_for, login.session, 7, "")
        inbox = str(tmp_path / f"{path}-in")
        SyncAction(access, str(tmp_path / path), inbox).execute(context)
    AuthenticateAction(Credentials(relay.url, None, path="site/a")).execute(context)
    for number, path in enumerate(("site/a", "site/b")):
        own = {"path": path, "direction": "push"}
        assert values()["waiting", *sorted(own.items())] == number + 1
        assert values()["errors_in_row", *sorted(own.items())] == 1
        assert values()["messages_total", ("direction", "pull"), ("path", path)] == number + 1
        assert values()["backpressure", ("path", path)] == 0
    refused = ("direction", "login"), ("kind", "invalid_token")
    assert values()["errors_total", *refused, ("path", "site/a")] == 1
    assert ("errors_total", *refused, ("path", "site/b")) not in values()


def test_a_full_inbox_is_back_pressure_and_no_error(moved: Any) -> None:
    """Entered once, however long it lasts; the gauge goes back."""
    well = Direction()
    held = Direction(held=True, waiting=pull.INBOX_MESSAGES_MAX)
    for before, now in ((well, held), (held, held)):
        metrics.tried("pull", before, now)
    assert moved("tries_total", direction="pull", result="held") == 2
    assert moved("backpressure_entries_total") == 1
    assert values()["backpressure", ("path", "")] == 1
    assert values()["waiting", ("direction", "pull"), ("path", "")] == pull.INBOX_MESSAGES_MAX
    metrics.tried("pull", held, well)
    assert values()["backpressure", ("path", "")] == 0


def test_what_is_set_aside_and_what_fails_is_counted(moved: Any) -> None:
    """Logins too."""
    metrics.tried("push", Direction(), Direction(refused=3))
    metrics.failed("login", Problem(Kind.INVALID_TOKEN, "s3cret", 401))
    assert moved("set_aside_total", direction="push") == 3
    assert moved("errors_total", direction="login", kind="invalid_token") == 1
    assert authenticate.metrics is metrics


def test_a_number_that_cannot_be_counted_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken library costs numbers, not messages."""
    monkeypatch.setattr(metrics, "_families", dict)
    metrics.tried("push", Direction(), Direction())
    metrics.moved("push", 1, 1)
    with pytest.raises(KeyError, match="mine"), metrics.request("push"):
        raise KeyError("mine")


def test_a_switchboards_counts_are_collected(tmp_path: Path) -> None:
    """In a program that registers it; each count is one series without labels."""
    board = Switchboard(tmp_path / "out", tmp_path / "in", None, {})  # type: ignore[arg-type]
    board.counts.add("orders", 2)
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics.collector(board))  # type: ignore[arg-type]
    told = prometheus_client.generate_latest(registry).decode()
    assert "fsmv2_communicator_switchboard_orders_total 2.0" in told
    assert "fsmv2_communicator_switchboard_outbox_now 0.0" in told
    assert len(re.findall(r"^# TYPE", told, re.MULTILINE)) == len(board.statistics())
    assert len(board.statistics()) == len(COUNTED) + 4


def test_switchboards_of_one_program_have_series_of_their_own(tmp_path: Path) -> None:
    """By the names it gives them; a second collector beside the first is refused."""
    boards = {
        name: Switchboard(tmp_path / name / "out", tmp_path / name / "in", None, {})  # type: ignore[arg-type]
        for name in ("press", "oven")
    }
    boards["press"].counts.add("orders", 2)
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics.collector(boards))  # type: ignore[arg-type]
    told = prometheus_client.generate_latest(registry).decode()
    assert 'fsmv2_communicator_switchboard_orders_total{board="press"} 2.0' in told
    assert 'fsmv2_communicator_switchboard_orders_total{board="oven"} 0.0' in told
    for more in (boards, boards["oven"]):
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(metrics.collector(more))  # type: ignore[arg-type]


def test_the_readme_has_the_table() -> None:
    """Word for word."""
    assert metrics.table_markdown() in README, f"want\n{metrics.table_markdown()}"
    spool_metric = [row.name for row in metrics.TABLE if row.kind == "gauge"]
    assert spool_metric == ["waiting", "errors_in_row", "backpressure"]
    assert spool.usage("nowhere").messages == 0
