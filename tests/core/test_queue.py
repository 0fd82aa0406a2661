"""The keyed queue against a naive model: in order per key, one out per key, fair, bounded."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.queue import KeyedQueue

CAPACITY = 6
NO_KEY = ""
KEYS = st.sampled_from(["a", "b", "c", "d", NO_KEY, NO_KEY])
URGENCY = st.sampled_from([False, False, False, True])


class Entry(NamedTuple):
    """An item as the model knows it. Without a key, an item is a turn of its own."""

    item: int
    key: str
    urgent: bool

    @property
    def turn(self) -> str | int:
        return self.key or self.item


class QueueModel(RuleBasedStateMachine):
    """The model is what waits, in the order of its turns per key, and what is out."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: KeyedQueue[int] = KeyedQueue(CAPACITY)
        self.waiting: list[Entry] = []
        self.out: list[Entry] = []
        self.held: list[Entry] = []
        self.returned: set[str | int] = set()
        # Turns that go before others: urgent items, or a key that had one when it became ready.
        self.hurried: set[str | int] = set()
        # How often a ready turn was passed over by each other.
        self.passed: Counter[tuple[str | int, str | int]] = Counter()
        self.last = 0

    def ready(self) -> dict[str | int, Entry]:
        busy = {entry.key for entry in (*self.out, *self.held) if entry.key}
        found: dict[str | int, Entry] = {}
        for entry in self.waiting:
            if entry.key not in busy:
                found.setdefault(entry.turn, entry)
        return found

    def must_go_first(self) -> set[str | int]:
        ready = self.ready()
        return {entry.turn for entry in self.waiting if entry.urgent and entry.turn in ready}

    def forget(self, turn: str | int) -> None:
        """A turn is over: what is said of it begins anew."""
        self.returned.discard(turn)
        self.hurried.discard(turn)
        for pair in [pair for pair in self.passed if pair[0] == turn]:
            del self.passed[pair]

    @rule(key=KEYS, urgent=URGENCY)
    def offer(self, key: str, urgent: bool) -> None:
        self.last += 1
        fits = urgent or len(self.waiting) + len(self.held) < CAPACITY
        assert self.queue.offer(self.last, key, urgent) is fits
        if fits:
            self.waiting.append(Entry(self.last, key, urgent))

    @rule(key=KEYS)
    def take_at_once(self, key: str) -> None:
        self.last += 1
        busy = key and key in {entry.key for entry in (*self.out, *self.held)}
        may = not self.waiting and not busy
        assert self.queue.take_at_once(key) is may
        if may:
            self.out.append(Entry(self.last, key, False))

    @rule()
    def take(self) -> None:
        ready = self.ready()
        first = self.must_go_first()
        got = self.queue.take()
        if not ready:
            assert got is None
            return
        assert got is not None
        entry = ready[got[1] or got[0]]
        assert got == (entry.item, entry.key), "the first of its key"
        if first:
            assert entry.turn in first | self.hurried
        elif entry.turn not in self.hurried:
            if self.returned & ready.keys():
                assert entry.turn in self.returned
            else:
                self.pass_over(entry, ready)
        self.forget(entry.turn)
        self.waiting.remove(entry)
        self.out.append(entry)

    def pass_over(self, entry: Entry, ready: dict[str | int, Entry]) -> None:
        """Fair: among the calm ones, a ready turn is passed over at most once by each other, and
        those without a key are first in, first out."""
        for other in ready.values():
            if other.turn == entry.turn:
                continue
            self.passed[other.turn, entry.turn] += 1
            assert self.passed[other.turn, entry.turn] <= 1
            assert entry.key or other.key or entry.item < other.item

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.out))
        self.queue.release(entry.key)
        self.out.remove(entry)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.out))
        self.out.remove(entry)
        self.return_it(entry)

    def return_it(self, entry: Entry) -> None:
        self.queue.put_back(entry.item, entry.key, entry.urgent)
        self.waiting.insert(0, entry)
        self.returned.add(entry.turn)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """What was taken waits elsewhere: it counts, and its key stays busy."""
        entry = data.draw(st.sampled_from(self.out))
        self.out.remove(entry)
        self.held.append(entry)
        self.queue.held += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def take_its_turn_again(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.held))
        self.held.remove(entry)
        self.queue.held -= 1
        self.return_it(entry)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        if entry.turn in self.must_go_first():
            self.hurried.add(entry.turn)  # it keeps its place
        assert self.queue.discard(entry.item, entry.key)
        self.waiting.remove(entry)
        if entry.turn not in {other.turn for other in self.waiting}:
            self.forget(entry.turn)

    @rule(key=KEYS)
    def discard_what_is_not_there(self, key: str) -> None:
        assert self.queue.discard(-1, key) is False

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.queue) == len(self.waiting)
        busy = {entry.key for entry in (*self.out, *self.held)}
        assert all(self.queue.is_busy(key) is (key in busy) for key in "abcd")
        assert not self.queue.is_busy(NO_KEY)

    def teardown(self) -> None:
        """Nothing is lost: all that waits comes out once all keys are free."""
        for entry in (*self.out, *self.held):
            self.queue.release(entry.key)
        left = []
        while (got := self.queue.take()) is not None:
            left.append(got[0])
            self.queue.release(got[1])
        assert sorted(left) == sorted(entry.item for entry in self.waiting)
        assert len(self.queue) == 0


QueueModel.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, derandomize=True, database=None
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


def test_items_without_a_key_are_unrelated() -> None:
    """Any number of them is out at a time, and each has a turn of its own."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item, key in [("1", ""), ("a1", "a"), ("2", ""), ("a2", "a"), ("3", "")]:
        queue.offer(item, key)
    taken = [queue.take() for _ in range(5)]
    assert taken == [("1", ""), ("a1", "a"), ("2", ""), ("3", ""), None]
    queue.release("")
    assert queue.take() is None, "only its own release frees a key"


def test_an_urgent_item_without_a_key_goes_first_and_hurries_nobody_else() -> None:
    """It has no key that others could be of."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item in ("1", "2"):
        queue.offer(item, "")
    queue.offer("3", "", urgent=True)
    queue.offer("4", "", urgent=True)
    assert drain(queue) == ["3", "4", "1", "2"]


def test_items_put_back_in_reverse_come_in_the_order_they_were_taken() -> None:
    """As a pipe is taken back from its end; before all that is calm, after what is urgent."""
    queue: KeyedQueue[str] = KeyedQueue(10)
    for item in "12345":
        queue.offer(item, "")
    for item in reversed([queue.take() for _ in range(3)]):
        assert item is not None
        queue.put_back(*item)
    queue.offer("urgent", "", urgent=True)
    assert drain(queue) == ["urgent", "1", "2", "3", "4", "5"]


def test_what_is_held_back_counts_against_the_capacity() -> None:
    """It waits, only elsewhere."""
    queue: KeyedQueue[str] = KeyedQueue(2)
    queue.offer("1", "")
    queue.take()
    queue.held += 1
    assert queue.offer("2", "")
    assert not queue.offer("3", "")
    assert "1/2 waiting, 1 held back" in repr(queue)


def test_nothing_is_taken_at_once_past_what_waits_or_from_a_busy_key() -> None:
    """The short way must not overtake."""
    queue: KeyedQueue[str] = KeyedQueue(5)
    assert queue.take_at_once("a")
    assert not queue.take_at_once("a")
    assert queue.take_at_once("b")
    assert queue.take_at_once("")
    assert queue.take_at_once("")
    queue.release("a")
    queue.offer("1", "")
    assert not queue.take_at_once("a")
    assert not queue.take_at_once("")


def test_releasing_or_returning_what_is_not_out_is_a_bug() -> None:
    """Told at once, not found a day later as a wedged key."""
    queue: KeyedQueue[str] = KeyedQueue(1)
    with pytest.raises(BugError, match="not busy"):
        queue.release("a")
    with pytest.raises(BugError, match="was not taken"):
        queue.put_back("a1", "a")


# --- several at a time ----------------------------------------------------------------------

WAITING = st.lists(st.tuples(KEYS, URGENCY), max_size=12)


def filled(waiting: list[tuple[str, bool]], returned: int) -> KeyedQueue[int]:
    """A queue with that in it, of which the first few were out and have come back."""
    queue: KeyedQueue[int] = KeyedQueue(100)
    for number, (key, urgent) in enumerate(waiting):
        queue.offer(number, key, urgent)
    taken = [queue.take() for _ in range(returned)]
    for out in reversed(taken):
        if out is not None:
            queue.put_back(*out)
    return queue


@given(WAITING, st.integers(0, 3), st.integers(0, 14))
def test_several_at_a_time_are_what_as_many_takes_give(
    waiting: list[tuple[str, bool]], returned: int, most: int
) -> None:
    one_by_one, at_once = filled(waiting, returned), filled(waiting, returned)
    singles = [out[0] for _ in range(most) if (out := one_by_one.take()) is not None]
    assert at_once.take_several(most) == singles
    assert len(at_once) == len(one_by_one)
    assert at_once.take() == one_by_one.take()


@given(WAITING, st.integers(0, 90))
def test_items_offered_together_are_in_the_order_of_single_offers_or_none_is_there(
    waiting: list[tuple[str, bool]], more: int
) -> None:
    one_by_one, at_once = filled(waiting, 0), filled(waiting, 0)
    items = list(range(1_000, 1_000 + more))
    one_by_one.capacity = at_once.capacity = 60
    fits = len(at_once) + more <= 60
    assert at_once.offer_all(items) is fits
    if fits:
        assert all(one_by_one.offer(item, NO_KEY) for item in items)
    assert len(at_once) == len(one_by_one) if fits else len(at_once) == len(waiting)
    assert at_once.take_several(100) == (one_by_one if fits else filled(waiting, 0)).take_several(
        100
    )
