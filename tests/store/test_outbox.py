"""What waits to be saved: nothing is lost, nothing old overtakes something new, all is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import FRAME_BYTES_MAX, pack_frame
from fsmv2.ipc.messages import Write
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.storeevents import StoreRefused
from fsmv2.supervisor.store.memory import MemoryStore
from fsmv2.supervisor.store.outbox import BYTES_MAX, WRITES_MAX, Outbox
from fsmv2.supervisor.store.process import DOCUMENT_BYTES_MAX, WriterProcess
from fsmv2.supervisor.store.protocol import put, removal
from fsmv2.supervisor.system import processes


def observed(path: str, n: int, pad: int = 0) -> Write:
    return put(path, "observed", {"n": n, "pad": "x" * pad}, 0.0)


def test_newest_document_replaces_the_one_that_waits() -> None:
    outbox = Outbox()
    for n in range(1000):
        outbox.take(observed("site/a", n))
        outbox.take(observed("site/b", n))
    assert len(outbox) == 2
    order = outbox.next_order()
    assert order is not None
    assert order.writes == [observed("site/a", 999), observed("site/b", 999)]


def test_one_order_is_out_at_a_time_and_bounded() -> None:
    outbox = Outbox()
    for n in range(WRITES_MAX + 10):
        outbox.take(observed(f"site/{n}", n))
    order = outbox.next_order()
    assert order is not None
    assert len(order.writes) == WRITES_MAX
    assert outbox.next_order() is None
    outbox.saved(order.number)
    order = outbox.next_order()
    assert order is not None
    assert len(order.writes) == 10


def test_large_documents_make_more_orders() -> None:
    outbox = Outbox()
    for n in range(10):
        outbox.take(observed(f"site/{n}", n, pad=BYTES_MAX // 3))
    order = outbox.next_order()
    assert order is not None
    assert len(order.writes) == 2


def test_late_answer_to_an_earlier_order_ends_no_later_one() -> None:
    outbox = Outbox()
    outbox.take(observed("site/a", 1))
    first = outbox.next_order()
    outbox.take_back()
    second = outbox.next_order()
    assert first is not None
    assert second is not None
    outbox.saved(first.number)
    assert outbox.number_out == second.number


def test_removed_worker_needs_nothing_else_saved() -> None:
    outbox = Outbox()
    outbox.take(observed("site/a", 1))
    outbox.take(removal("site/a", 0.0))
    order = outbox.next_order()
    assert order is not None
    assert [write.role for write in order.writes] == ["removed"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("ab")),
        st.tuples(st.just("change"), st.sampled_from("ab")),
        st.tuples(st.just("remove"), st.sampled_from("ab")),
        st.tuples(st.sampled_from(["send", "answer", "die before", "die after"]), st.just("")),
    ),
    max_size=60,
)


@given(steps)
def test_store_ends_where_the_tree_does_however_writers_die(history: list[tuple[str, str]]) -> None:
    """The writer dies before or after its commit; what is sent again does no harm."""
    outbox, store = Outbox(), MemoryStore()
    tree: dict[str, Any] = {}
    generations: dict[str, int] = {}
    order = None
    for serial, (verb, path) in enumerate([*history, ("die after", "")]):
        match verb:
            case "add":
                generation = generations[path] = generations.get(path, 0) + 1
                tree[path] = (generation, serial)
                outbox.take(put(path, "identity", {"generation": generation}, 0.0))
                outbox.take(observed(path, serial))
            case "change" if path in tree:
                tree[path] = (tree[path][0], serial)
                outbox.take(observed(path, serial))
            case "remove" if path in tree:
                del tree[path]
                outbox.take(removal(path, 0.0))
            case "send" if outbox.number_out is None:
                order = outbox.next_order()
            case "answer" | "die after" if order is not None and outbox.number_out is not None:
                store.save(order.writes)
                outbox.saved(order.number) if verb == "answer" else outbox.take_back()
            case "die before":
                outbox.take_back()
    while (order := outbox.next_order()) is not None:
        store.save(order.writes)
        outbox.saved(order.number)
    found = {
        path: (record.identity["generation"], (record.observed or {})["n"])
        for path, record in store.snapshot().workers.items()
    }
    assert found == tree


def test_a_document_that_no_frame_can_carry_is_refused_and_told_once() -> None:
    """FrameError ended the root when such a document was sent."""
    told: list[Event] = []
    poller: Any = None
    writer = WriterProcess(("store.db", 10, 60.0), told.append, poller)
    for n in range(3):
        writer.take(observed("site/a", n, pad=FRAME_BYTES_MAX))
    assert [type(event) for event in told] == [StoreRefused]
    assert "site/a: cannot keep its observed: got 1048" in str(told[0])
    assert "0 waiting" in repr(writer)
    writer.take(observed("site/a", 4))
    writer.take(observed("site/a", 5, pad=FRAME_BYTES_MAX))
    assert len(told) == 2
    assert "1 waiting" in repr(writer)


def test_a_writer_that_cannot_be_started_again_is_the_stores_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once may pass by itself, before anybody looks."""

    def fails(*_args: object) -> None:
        raise OSError("no process left")

    monkeypatch.setattr(processes, "start", fails)
    poller: Any = None
    now = [0.0]
    writer = WriterProcess(("store.db", 10, 60.0), lambda event: None, poller, lambda: now[0])
    writer.take(observed("site/a", 1))
    writer._retry_at = 0.0  # one has died
    shown = []
    for _ in range(2):
        writer.tend(now[0])
        shown.append(writer.trouble)
        now[0] += 60.0
    assert shown == ["", "cannot start its writer: no process left; 1 unsaved"]


def test_the_largest_document_that_is_taken_fits_into_a_frame() -> None:
    outbox = Outbox()
    path = "/".join(["x" * 63] * 16)
    outbox.take(Write(path, "observed", 1e9, b"x" * DOCUMENT_BYTES_MAX))
    pack_frame(encode(outbox.next_order()))
