"""What the root has published: the newest documents, the last events, who listens.

Knows: topics, the ring of events, one bounded queue for each listener.
Does not know: HTTP, descriptors, clocks; `now` is an argument.
Invariants: memory is bounded whatever the root sends and however slowly a listener reads; a
listener that falls behind is told to look at the documents again, never left with a gap it
does not know of.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

import msgspec

RING_EVENTS_MAX = 500
QUEUE_EVENTS_MAX = 600
LISTENERS_MAX = 64
ALIVE_S_MAX = 10.0
TREE_BYTES_MAX = 64 << 20


class Sent(NamedTuple):
    """One server-sent event: its number (None for ours), its kind ("" is a plain one), JSON."""

    seq: int | None
    kind: str
    body: bytes


RESYNC = Sent(None, "resync", b"{}")


class _Numbered(msgspec.Struct):
    seq: int = 0


class Listener:
    """One client of the event stream."""

    def __init__(self) -> None:
        self._queue: deque[Sent] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, item: Sent) -> None:
        """Queue ``item``; a full queue is dropped for one `RESYNC`."""
        if len(self._queue) >= QUEUE_EVENTS_MAX:
            self._queue.clear()
            self._queue.append(RESYNC)
        self._queue.append(item)
        self._wake.set()

    def close(self) -> None:
        """End the stream after what is queued."""
        self._closed = True
        self._wake.set()

    async def take(self, timeout_s: float) -> list[Sent] | None:
        """All that is queued, [] when nothing came for ``timeout_s`` seconds, None at the end."""
        if not self._queue and not self._closed:
            try:
                await asyncio.wait_for(self._wake.wait(), timeout_s)
            except TimeoutError:
                return []
        self._wake.clear()
        found = list(self._queue)
        self._queue.clear()
        return None if not found and self._closed else found


class PublishedState:
    """The newest tree, status and readings, and the last `RING_EVENTS_MAX` events."""

    def __init__(self) -> None:
        self.tree: bytes | None = None
        self.status: bytes | None = None
        self.readings: bytes | None = None
        self.last_frame_at: float | None = None
        self._parts: list[bytes] = []
        self._parsed: dict[str, tuple[bytes, Any]] = {}
        self._ring: deque[Sent] = deque(maxlen=RING_EVENTS_MAX)
        self._listeners: list[Listener] = []

    def __repr__(self) -> str:
        return f"<PublishedState {len(self._ring)} events, {len(self._listeners)} listeners>"

    def take(self, topic: str, body: bytes, now: float) -> None:
        """Take one published document; topics that are not known are skipped."""
        self.last_frame_at = now
        if topic.startswith("tree"):
            self._take_tree(topic, body)
        elif topic == "status":
            self.status = body
        elif topic == "readings":
            self.readings = body
        elif topic == "event":
            self._take_event(body)

    def _take_tree(self, topic: str, body: bytes) -> None:
        if topic == "tree<":
            self._parts = [body]
        elif topic == "tree":
            self.tree, self._parts = body, []
        elif self._parts and topic in ("tree+", "tree>"):  # else its beginning has been missed
            self._parts.append(body)
            if sum(map(len, self._parts)) > TREE_BYTES_MAX:
                self._parts = []
            elif topic == "tree>":
                self.tree, self._parts = b"".join(self._parts), []

    def _take_event(self, body: bytes) -> None:
        try:
            seq = msgspec.json.decode(body, type=_Numbered).seq
        except msgspec.DecodeError:
            return  # one unreadable event is no reason to lose the page
        # A line break in the document would end the event in the middle.
        body = body.replace(b"\r", b" ").replace(b"\n", b" ")
        item = Sent(seq, "", body)
        self._ring.append(item)
        for listener in self._listeners:
            listener.put(item)

    def age_s(self, now: float) -> float | None:
        """Seconds since the root last said anything, None if it never did."""
        return None if self.last_frame_at is None else max(0.0, now - self.last_frame_at)

    def is_alive(self, now: float) -> bool:
        """True while the root spoke within `ALIVE_S_MAX` seconds."""
        age_s = self.age_s(now)
        return age_s is not None and age_s <= ALIVE_S_MAX

    def tree_document(self) -> dict[str, Any] | None:
        """The newest tree, parsed once for each version of it."""
        return self._document("tree", self.tree)

    def status_document(self) -> dict[str, Any] | None:
        """The newest status, parsed once for each version of it."""
        return self._document("status", self.status)

    def _document(self, topic: str, body: bytes | None) -> dict[str, Any] | None:
        if body is None:
            return None
        known = self._parsed.get(topic)
        if known is None or known[0] is not body:
            try:
                document = msgspec.json.decode(body)
            except msgspec.DecodeError:
                document = None
            known = self._parsed[topic] = (body, document if isinstance(document, dict) else None)
        return known[1]

    # --- listeners --------------------------------------------------------------------------

    def listen(self, last_seq: int | None) -> Listener | None:
        """A new listener that begins behind ``last_seq`` (None: with all that is kept), or
        None when there are too many. Events it missed and that are gone give one `RESYNC`."""
        if len(self._listeners) >= LISTENERS_MAX:
            return None
        listener = Listener()
        items = list(self._ring)
        if last_seq is not None:
            first = items[0].seq if items else None
            newest = items[-1].seq if items else None
            # A number from the future is from another life of the root.
            known = first is not None and newest is not None and first - 1 <= last_seq <= newest
            if known:
                items = [item for item in items if (item.seq or 0) > last_seq]
            else:
                listener.put(RESYNC)
        for item in items:
            listener.put(item)
        self._listeners.append(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """Stop sending to ``listener``."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def close(self) -> None:
        """End all streams."""
        for listener in self._listeners:
            listener.close()


# --- questions to the tree ------------------------------------------------------------------


def find_worker(tree: dict[str, Any], path: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The node at ``path`` (or None), and the deepest node on the way to it."""
    nearest = tree
    if path == tree.get("path"):
        return tree, tree
    if not path.startswith(f"{tree.get('path')}/"):
        return None, tree
    while True:
        step = next(
            (
                child
                for child in nearest.get("children") or ()
                if path == child["path"] or path.startswith(child["path"] + "/")
            ),
            None,
        )
        if step is None:
            return None, nearest
        if step["path"] == path:
            return step, step
        nearest = step


def actions_in_flight(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Each running action with its worker's ``path`` and ``worker_type``, in tree order."""
    found = []
    todo = [tree]
    while todo:
        node = todo.pop()
        action = node.get("action")
        if action:
            found.append({"path": node["path"], "worker_type": node.get("worker_type"), **action})
        todo += reversed(node.get("children") or ())
    return found


def quarantined_types(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Each action type that is kept apart: ``name``, ``verdict`` of the deaths in a row, their
    number ``deaths``, ``held`` attempts that wait, ``quarantined_s`` seconds since it is, and
    ``retry_in_s`` seconds to the next attempt."""
    found = (status.get("pool") or {}).get("quarantined") or {}
    return [{"name": name, **record} for name, record in found.items()]
