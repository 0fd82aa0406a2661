"""What the communicator's tests share: a relay on loopback and an action's context."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import prometheus_client.values
import pytest

from fsmv2.communicator import metrics
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import http
from fsmv2.supervisor import Secret


class FakeContext:
    """An `ActionContext` that keeps what an action says."""

    def __init__(self, scratch: Path, timeout_s: float = 40.0) -> None:
        self.attempt_id = 1
        self.scratch = scratch
        self.cancelled = False
        self.stopping = False
        self.logged: list[tuple[str, str, dict[str, Any]]] = []
        self._ends_at = time.monotonic() + timeout_s

    @property
    def deadline_s(self) -> float:
        return self._ends_at - time.monotonic()

    def progress(self, text: str) -> None:
        self.logged.append((text, "progress", {}))

    def log(self, event: str, level: str = "info", **fields: Any) -> None:
        self.logged.append((event, level, fields))


@pytest.fixture(autouse=True)
def metrics_are_left_to_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They belong to a proc: in this process they would outlive the tests that moved them, and go
    on from the numbers in the files of another test."""
    monkeypatch.setattr(prometheus_client.values, "ValueClass", prometheus_client.values.MutexValue)
    families = metrics._families  # a test may put something else there
    yield
    if families.cache_info().currsize:
        for family in families().values():
            prometheus_client.REGISTRY.unregister(family)
        families.cache_clear()


@pytest.fixture
def client(relay: Relay) -> http.HttpTransport:
    return http.transport_for(http.Relay(relay.url))


@pytest.fixture
def jwt(client: http.HttpTransport) -> Secret:
    return client.authenticate(Secret(DEMO_TOKEN)).token


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path)


@pytest.fixture
def context_for(tmp_path: Path) -> Callable[[float], FakeContext]:
    """Makes the context of an attempt that begins now and has so many seconds."""
    return lambda timeout_s: FakeContext(tmp_path, timeout_s)


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as running:
        yield running


@pytest.fixture(autouse=True)
def no_connection_outlives_its_test() -> Iterator[None]:
    yield
    http.close_all()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
