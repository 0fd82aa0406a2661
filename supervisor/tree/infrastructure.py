"""The root's breaker at work: readings in, what the tree may do out.

Knows: the limits of the config, the breaker, who waits for a lease, what is told of it.
Does not know: how readings are made, how the pool runs actions, HTTP.
Invariants: it is looked at between two ticks and never waits; a stop and an observation never ask
it; while it is closed, a worker's action costs one comparison with None. In mode "report" it does
all of this but hold something back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from fsmv2.supervisor.core import breaker as core
from fsmv2.supervisor.core import infrastructureevents as told
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.limits import Limit, Track, follow, limit_of, shown
from fsmv2.supervisor.core.readings import Reading
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.relief import Canceller, Recall, newest_to_spare

Mode = Literal["enforce", "report", "off"]
HELD_OPEN, HELD_CLOSED = "held open by an operator", "held closed by an operator"
NO_PROC = "no proc can be started"
HEARTBEAT_S = 1.0


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the config says of the breaker; ``limits`` replaces defaults, None takes one away."""

    mode: Mode = "enforce"
    heartbeat_s: float = HEARTBEAT_S
    probe_s: float = core.PROBE_S
    limits: Mapping[str, Limit | None] = {}


class Infrastructure:
    """One breaker for one engine. Call `tend` before each tick; ``emit`` hears what changes."""

    def __init__(
        self,
        rules: Rules,
        engine: Engine,
        pool: Canceller,
        emit: Callable[[Event], None],
    ) -> None:
        self._rules = rules
        self._engine = engine
        self._pool = pool
        self._emit = emit
        self._breaker = core.Breaker(probe_s=rules.probe_s, since=engine.context.now)
        self._tracks: dict[str, Track] = {}
        self._missing: dict[str, str] = {}
        self._troubles: tuple[str, ...] = ()
        self._is_well = True
        self._shown_for: tuple[str, ...] | None = None
        self._waiting: dict[Node, None] = {}
        self._recall = Recall(pool)
        self._heartbeat_at: float | None = None
        self._relieved_at = float("-inf")
        # By the ticket a heartbeat in each tick; never more often than that.
        self._beat_s = max(rules.heartbeat_s, engine.interval_s)

    def __repr__(self) -> str:
        return (
            f"<Infrastructure {self._breaker.state}: {', '.join(self._breaker.causes) or 'well'}>"
        )

    # --- looking ----------------------------------------------------------------------------

    def tend(
        self, troubles: tuple[str, ...], readings: Mapping[str, Reading] | None, now: float
    ) -> None:
        """Look if there is something new: ``troubles`` that need no limit, ``readings`` (None: the
        same as before), or a moment that has come."""
        if self._rules.mode == "off":
            return
        if readings is not None:
            self._read(readings, now)
        due = self.next_moment(now)
        if readings is not None or troubles != self._troubles or (due is not None and due <= now):
            self._troubles = troubles
            self._look(now)
        self._take_back()

    def _read(self, readings: Mapping[str, Reading], now: float) -> None:
        """New readings have come. Those that were there before and are not now are missing."""
        self._missing = {r.name: r.missing for r in readings.values() if r.value is None}
        for name in self._tracks.keys() - readings.keys():
            self._missing[name] = "nobody reads it any more"
            self._follow(self._tracks[name], None, now)
        for name, reading in readings.items():
            track = self._tracks.get(name)
            if track is None:
                limit = limit_of(name, self._rules.limits)
                if limit is None:
                    continue
                track = Track(name, limit)
            self._follow(track, reading.value, now)

    def _follow(self, before: Track, value: float | None, now: float) -> None:
        track = self._tracks[before.name] = follow(before, value, now)
        if value is None and before.is_exceeded and not track.is_exceeded:
            self._emit(
                told.ExcessForgotten(
                    reading=track.name,
                    unseen_s=now - (before.seen_at or now),
                    reason=self._missing[track.name],
                )
            )

    def _look(self, now: float) -> None:
        """Let the breaker see what was read, and do what is due."""
        tracks = self._tracks.values()
        exceeded = (*self._troubles, *(track.name for track in tracks if track.is_exceeded))
        over = tuple(track.name for track in tracks if track.is_over)
        self._is_well = not (exceeded or over)
        before = self._breaker
        self._breaker, change = core.step(before, exceeded, over, now)
        if before.forced is not None and self._breaker.forced is None:
            self._emit(told.InfrastructureForceEnded(was=before.forced, state=self._breaker.state))
        self._tell(change, before, now)
        self._apply(now)
        self._relieve_memory(now)
        self._beat(now)

    def next_moment(self, now: float) -> float | None:
        """When `tend` has something to do at the latest, though nothing was read."""
        if self._recall.is_going_on:
            return now
        moments = (core.next_moment(self._breaker, now), self._heartbeat_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def _tell(self, change: core.Change | None, before: core.Breaker, now: float) -> None:
        breaker, mode = self._breaker, self._rules.mode
        down_s = core.downtime_s(before, now)
        match change:
            case "opened":
                cause = self._words(breaker.causes)
                self._emit(told.InfrastructureOpened(cause=cause, mode=mode))
            case "half_opened":
                self._emit(
                    told.InfrastructureHalfOpened(
                        retry_attempt=breaker.tries,
                        elapsed_downtime_s=down_s,
                        closes_in_s=breaker.probe_s,
                        mode=mode,
                    )
                )
            case "reopened":
                self._emit(
                    told.InfrastructureReopened(
                        cause=self._words(breaker.causes),
                        retry_attempt=breaker.tries,
                        elapsed_downtime_s=down_s,
                        mode=mode,
                    )
                )
            case "closed":
                self._emit(
                    told.InfrastructureRecovered(
                        total_downtime_s=down_s, retry_attempts=before.tries, mode=mode
                    )
                )

    def _words(self, causes: Iterable[str]) -> str:
        """What is wrong, with its figures."""
        if self._breaker.state == "half_open":
            return f"after {', '.join(causes)}"  # the figures are good again
        tracks = self._tracks
        return "; ".join(shown(tracks[name]) if name in tracks else name for name in causes)

    def _apply(self, now: float) -> None:
        """Have the tree go by the state that counts now."""
        state = self.state(now) if self._rules.mode == "enforce" else "closed"
        context = self._engine.context
        context.leases = None if state == "closed" else self
        if state != "open":
            self._shown_for = None
            self._recall.stop()
            self._engine.set_infrastructure(None)
            self._wake_waiting(state)
            return
        forced = self._breaker.forced == "open"
        shown_for = ("an operator",) if forced else self._breaker.causes
        if self._shown_for is None:
            self._recall.begin(self._engine.nodes())
        if shown_for != self._shown_for:
            # The figures of that moment: a text that changes each second concerns every node.
            self._shown_for = shown_for
            why = HELD_OPEN if forced else self._words(shown_for)
            self._engine.set_infrastructure(why)

    def _causes(self, now: float) -> list[str]:
        """What it is not closed for, an operator's word first."""
        breaker = self._breaker
        held = ""
        if breaker.forced is not None and now < breaker.forced_until:
            held = HELD_OPEN if breaker.forced == "open" else HELD_CLOSED
        return [text for text in (held, self._words(breaker.causes)) if text]

    def _beat(self, now: float) -> None:
        if self._breaker.state == "closed" == self.state(now):
            self._heartbeat_at = None
            return
        if self._heartbeat_at is None:
            self._heartbeat_at = now + self._beat_s
        if now < self._heartbeat_at:
            return
        self._heartbeat_at = now + self._beat_s
        breaker = self._breaker
        waits = self._is_well and breaker.state == "open"
        self._emit(
            told.InfrastructureStillOpen(
                state=self.state(now),
                cause="; ".join(self._causes(now)),
                forced=self.state(now) == breaker.forced,
                mode=self._rules.mode,
                retry_attempt=breaker.tries,
                max_attempts=None,
                elapsed_downtime_s=core.downtime_s(breaker, now),
                next_retry_in_s=max(0.0, breaker.not_before - now) if waits else None,
                recovery_status=told.recovery_status(breaker.tries, escalates=False),
            )
        )

    # --- memory -----------------------------------------------------------------------------

    def _relieve_memory(self, now: float) -> None:
        """Memory is what an action can give back at once by ending: the newest that may be tried
        again has done the least, so it goes first, one in a probe period."""
        track = self._tracks.get("memory")
        if (
            self._engine.context.infrastructure is None
            or track is None
            or not (track.is_exceeded and track.is_over)
            or now - self._relieved_at < self._rules.probe_s
        ):
            return
        self._relieved_at = now
        node = newest_to_spare(self._engine.nodes(), self._pool)
        if node is None or node.attempt is None:
            return
        attempt = node.attempt
        if self._pool.cancel(attempt.attempt_id, "memory_pressure"):
            self._emit(
                told.MemoryRelieved(
                    path=node.path,
                    action_type=attempt.name,
                    attempt_id=attempt.attempt_id,
                    cause=shown(track),
                )
            )

    def _take_back(self) -> None:
        """What waits for a proc has not begun, and is not to."""
        if self._recall.go_on() and self._recall.count:
            self._emit(told.ActionsRecalled(count=self._recall.count))

    # --- leases -----------------------------------------------------------------------------

    def admits(self, node: Node, now: float) -> bool:
        """Whether ``node`` may start an action; if not, it is looked at again when it may. Who
        waits already is not asked before its turn."""
        if node not in self._waiting and core.may_start(self._breaker, now):
            return True
        self._waiting[node] = None
        return False

    def waits(self, node: Node) -> bool:
        """Whether ``node`` has asked, and was not admitted yet."""
        return node in self._waiting

    def started(self, attempt_id: int, now: float) -> None:
        """An action that was admitted has started."""
        self._breaker = core.lend(self._breaker, attempt_id, now)

    def ended(self, attempt_id: int, result: ActionResult, now: float) -> None:
        """An action has ended."""
        before = self._breaker
        # What a worker's action fails for says nothing of the machine; that none of twenty procs
        # lived to begin it does.
        never_began = result.error is not None and result.error.type == "NeverBegan"
        failed = "no proc lives to begin an action" if never_began else None
        self._breaker, change = core.give_back(before, attempt_id, failed, now)
        self._tell(change, before, now)
        if self._breaker is not before:
            self._apply(now)

    def _wake_waiting(self, state: core.BreakerState) -> None:
        free = len(self._waiting)
        if state == "half_open":
            free = self._breaker.quota - len(self._breaker.leases)
        for node in list(self._waiting)[: max(0, free)]:
            del self._waiting[node]
            if not node.gone:
                node.mark_dirty()

    # --- looking in, and an operator's word -----------------------------------------------------

    def force(self, forced: core.Forced | None, for_s: float, client: str, now: float) -> bool:
        """Hold the breaker open or closed for ``for_s`` seconds; None: let it go by itself. False:
        in this mode it holds nothing back."""
        if self._rules.mode != "enforce":
            return False
        self._breaker = core.force(self._breaker, forced, now + for_s, now)
        self._emit(
            told.InfrastructureForced(
                state=forced or "auto", for_s=for_s if forced else 0.0, client=client
            )
        )
        self._apply(now)
        self._beat(now)
        return True

    def state(self, now: float) -> core.BreakerState:
        """The state that counts at ``now``."""
        return core.effective(self._breaker, now)

    @property
    def mode(self) -> Mode:
        """What the config wants of it."""
        return self._rules.mode

    @property
    def limits(self) -> dict[str, float]:
        """The value at which it opens, of each reading that is limited and was ever seen."""
        tracks = self._tracks.values()
        return {track.name: track.limit.open for track in tracks if track.seen_at is not None}

    @property
    def waiting(self) -> int:
        """How many workers wait for a lease."""
        return len(self._waiting)

    def document(self, now: float) -> dict[str, Any]:
        """The breaker for the API; moments become seconds."""
        breaker = self._breaker
        return {
            "state": self.state(now),
            "mode": self._rules.mode,
            "causes": self._causes(now),
            "since_s": round(max(0.0, now - breaker.since), 3),
            "down_s": round(core.downtime_s(breaker, now), 3),
            "retry_attempts": breaker.tries,
            "may_run": breaker.quota if breaker.state == "half_open" else None,
            "leases": len(breaker.leases),
            "waiting": len(self._waiting),
            "forced": breaker.forced,
            "forced_for_s": round(max(0.0, breaker.forced_until - now), 3)
            if breaker.forced
            else None,
            "limits": [
                {
                    "reading": track.name,
                    "value": track.value,
                    "missing": self._missing.get(track.name, ""),
                    "open": track.limit.open,
                    "close": track.limit.close,
                    "for_s": track.limit.for_s,
                    "exceeded": track.is_exceeded,
                    "over_s": None
                    if track.over_since is None
                    else round(now - track.over_since, 3),
                }
                for track in self._tracks.values()
            ],
        }
