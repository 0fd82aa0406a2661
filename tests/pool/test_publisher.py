"""What the root publishes of a large tree: in slices, in parts that a frame can hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fsmv2.ipc.frames import FRAME_BYTES_MAX
from fsmv2.supervisor.core.rootworker import Stopped
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.worker import Worker, WorkerFactory
from fsmv2.supervisor.telemetry import publisher as publishing
from fsmv2.supervisor.telemetry.publisher import SLICE_PAUSE_S, Publisher
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.infrastructure import Infrastructure, Rules
from fsmv2.supervisor.web.state import PublishedState

CHILDREN = 4_000  # more than fits into one frame
SLICES_MAX = 20_000


class _Leaf(Worker):
    type_name = "leaf"
    initial = stopping = Stopped


class _Metrics:
    def __init__(self) -> None:
        self.trees: list[tuple[dict[str, int], dict[str, int], int]] = []

    def tree(self, phases: dict[str, int], widths: dict[str, int], circuits: int) -> None:
        self.trees.append((phases, widths, circuits))

    def pool(self, statistics: object) -> None:
        pass

    def infrastructure(self, state: str, limits: dict[str, float], waiting: int) -> None:
        pass

    def readings(self, readings: object) -> None:
        pass


class _Bench:
    """A publisher over a wide tree; ``sent`` is what it published, ``takes`` what is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, children: int) -> None:
        monkeypatch.setattr(publishing, "pool_statistics", lambda pool: {"lanes": {}})
        self.sent: list[tuple[str, bytes]] = []
        self.takes = 1 << 30
        self.metrics = _Metrics()
        pool: Any = SimpleNamespace(in_flight=lambda attempt_id: None)
        probe: Any = SimpleNamespace(readings=lambda now: {}, procs=lambda now: [])
        specs = tuple(ChildSpec(f"c{n}", "leaf") for n in range(children))
        self.engine = Engine(
            name="r",
            children=specs,
            factory=WorkerFactory([_Leaf]),
            pool=pool,
            emit=lambda event: None,
            now=1.0,
            wall=1.0,
        )
        self.engine.tick(1.0, 1.0)
        telemetry: Any = SimpleNamespace(statuses={}, restarts=0, recent=())
        metrics: Any = self.metrics
        breaker = Infrastructure(Rules(), self.engine, pool, lambda event: None)
        self.publisher = Publisher(
            "r", self.engine, pool, probe, telemetry, metrics, breaker, self._take
        )
        self.now = 10.0

    def _take(self, topic: str, body: bytes) -> bool:
        self.sent.append((topic, body))
        return len(self.sent) <= self.takes

    def publish(self) -> int:
        """Publish once, whole; how many slices that took."""
        for slices in range(1, SLICES_MAX):
            self.publisher.publish(self.now)
            self.now += SLICE_PAUSE_S
            if self.sent and self.sent[-1][0] == "status":
                return slices
        raise AssertionError("no end of a publication")


def test_a_large_tree_is_published_in_slices_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SLICE_S", 0.0)  # one node at a time, however fast we are
    bench = _Bench(monkeypatch, CHILDREN)
    assert bench.publish() > CHILDREN

    topics = [topic for topic, _ in bench.sent]
    assert topics == ["tree<", *["tree+"] * (len(topics) - 4), "tree>", "readings", "status"]
    assert all(len(body) < FRAME_BYTES_MAX for _, body in bench.sent)
    state = PublishedState()
    for topic, body in bench.sent:
        state.take(topic, body, 1.0)
    assert state.tree is not None
    assert len(state.tree) > FRAME_BYTES_MAX
    tree = msgspec.json.decode(state.tree)
    assert [child["name"] for child in tree["children"]] == [f"c{n}" for n in range(CHILDREN)]
    phases, widths, circuits_open = bench.metrics.trees[0]
    assert sum(phases.values()) == CHILDREN + 1
    assert widths == {"r": CHILDREN}
    assert circuits_open == 0


def test_a_tree_that_is_not_taken_whole_is_not_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _Bench(monkeypatch, CHILDREN)
    bench.takes = 2
    bench.publish()
    assert [topic for topic, _ in bench.sent] == ["tree<", "tree+", "tree+", "readings", "status"]


def test_a_small_tree_is_published_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _Bench(monkeypatch, 3)
    monkeypatch.setattr(publishing, "SLICE_S", 60.0)
    assert bench.publish() == 1
    assert [topic for topic, _ in bench.sent] == ["tree", "readings", "status"]


def test_a_huge_status_costs_the_tree_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame with it was refused, and nobody was shown the tree any more."""
    bench = _Bench(monkeypatch, 3)
    node = bench.engine.root.children["c1"]
    node.status = {"lines": "x" * (3 << 20)}
    bench.publish()
    state = PublishedState()
    for topic, body in bench.sent:
        state.take(topic, body, 1.0)
    assert state.tree is not None
    tree = msgspec.json.decode(state.tree)
    assert [child["status"] for child in tree["children"]] == [None, "<dict, 3145740 bytes>", None]


def test_what_an_operator_did_is_published_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each time, and still within the share of time that publications may take."""
    bench = _Bench(monkeypatch, 3)
    monkeypatch.setattr(publishing, "SLICE_S", 60.0)
    bench.publish()
    bench.publisher._cost_s = 0.0
    before = len(bench.sent)
    bench.now = 10.01
    bench.publisher.publish(bench.now)
    assert len(bench.sent) == before
    bench.publisher.hurry()
    assert bench.publisher.next_moment() <= bench.now
    bench.publisher.publish(bench.now)
    assert len(bench.sent) == 2 * before
    bench.publisher._cost_s = 0.0
    assert bench.publisher.next_moment() == bench.now + publishing.PUBLISH_S
    bench.publisher.hurry()
    bench.publisher._cost_s = 1.0
    assert bench.publisher.next_moment() == bench.now + 1.0 / publishing.SHARE_MAX
    bench.publisher.publish(bench.now + 5.0)
    assert len(bench.sent) == 2 * before
