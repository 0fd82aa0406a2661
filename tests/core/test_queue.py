"""The keyed queue against a naive model: in order per key, one out per key, fair, bounded."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.queue import KeyedQueue

CAPACITY = 6
KEYS = st.sampled_from("abcd")


class QueueModel(RuleBasedStateMachine):
    """The model is one list of (item, key) in the order of their turns per key."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: KeyedQueue[int] = KeyedQueue(CAPACITY)
        self.waiting: list[tuple[int, str]] = []
        self.out: dict[str, int] = {}
        self.since: dict[str, int] = {}  # how often a ready key has been passed over
        self.returned: set[str] = set()
        self.last = 0

    def ready(self) -> set[str]:
        return {key for _item, key in self.waiting if key not in self.out}

    @rule(key=KEYS)
    def offer(self, key: str) -> None:
        self.last += 1
        full = len(self.waiting) >= CAPACITY
        assert self.queue.offer(self.last, key) is not full
        if not full:
            self.waiting.append((self.last, key))

    @rule()
    def take(self) -> None:
        ready = self.ready()
        got = self.queue.take()
        if not ready:
            assert got is None
            return
        assert got is not None
        item, key = got
        assert key in ready
        assert item == next(one for one, its in self.waiting if its == key)
        if self.returned & ready:
            assert key in self.returned
        # Fair: a ready key is passed over at most once by each of the other keys, those not
        # counted that had an item put back.
        turn = 0 if key in self.returned else 1
        self.since = {other: self.since.get(other, 0) + turn for other in ready if other != key}
        assert all(turns <= 3 for turns in self.since.values())
        self.returned.discard(key)
        self.waiting.remove((item, key))
        self.out[key] = item

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.out)))
        self.queue.release(key)
        del self.out[key]

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.out)))
        item = self.out.pop(key)
        self.queue.put_back(item, key)
        self.waiting.insert(0, (item, key))
        self.returned.add(key)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        item, key = data.draw(st.sampled_from(self.waiting))
        assert self.queue.discard(item, key)
        self.waiting.remove((item, key))
        if not any(its == key for _item, its in self.waiting):
            self.returned.discard(key)
            self.since.pop(key, None)

    @rule(key=KEYS)
    def discard_what_is_not_there(self, key: str) -> None:
        assert self.queue.discard(-1, key) is False

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert all(self.queue.is_busy(key) is (key in self.out) for key in "abcd")


QueueModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestQueueAgainstAModel = QueueModel.TestCase


def drain(queue: KeyedQueue[str]) -> list[str]:
    """Take everything, each key free again at once."""
    order = []
    while (got := queue.take()) is not None:
        order.append(got[0])
        queue.release(got[1])
    return order


def test_keys_take_turns() -> None:
    """A key with many items does not keep the others waiting."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.offer(item, item[0])
    assert drain(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_one_item_of_a_key_is_out_at_a_time() -> None:
    """The next one waits for the release, whatever else goes."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item in ("a1", "a2", "b1"):
        queue.offer(item, item[0])
    assert [queue.take(), queue.take(), queue.take()] == [("a1", "a"), ("b1", "b"), None]
    queue.release("a")
    assert queue.take() == ("a2", "a")


def test_a_full_queue_refuses_but_takes_what_is_urgent() -> None:
    """A stop must not be refused because of starts."""
    queue: KeyedQueue[str] = KeyedQueue(1)
    assert queue.offer("start", "a")
    assert not queue.offer("another", "b")
    assert queue.offer("stop", "c", urgent=True)
    assert drain(queue) == ["stop", "start"]


def test_an_urgent_item_takes_its_key_before_the_others() -> None:
    """Its key's earlier items still go first, so that a key stays in order."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item in ("a1", "b1", "c1"):
        queue.offer(item, item[0])
    queue.offer("c2", "c", urgent=True)
    assert queue.take() == ("c1", "c")


def test_an_item_that_was_put_back_is_the_next_of_all() -> None:
    """It was given out before the others, and never begun."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item in ("a1", "b1", "a2"):
        queue.offer(item, item[0])
    assert queue.take() == ("a1", "a")
    queue.put_back("a1", "a")
    assert drain(queue) == ["a1", "b1", "a2"]


def test_a_discarded_item_leaves_no_trace() -> None:
    """Its key is forgotten with its last item."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    queue.offer("a1", "a")
    assert queue.discard("a1", "a")
    assert not queue.discard("a1", "a")
    assert queue.take() is None
    assert queue.offer("a2", "a")
    assert drain(queue) == ["a2"]


def test_releasing_or_returning_what_is_not_out_is_a_bug() -> None:
    """Told at once, not found a day later as a wedged key."""
    queue: KeyedQueue[str] = KeyedQueue(1)
    with pytest.raises(BugError, match="not busy"):
        queue.release("a")
    with pytest.raises(BugError, match="was not taken"):
        queue.put_back("a1", "a")
