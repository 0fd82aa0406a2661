"""Reloads: who may ask for one, one check at a time, and what becomes of its verdict.

Knows: the config file and what runs of it, the check's process, who waits for an answer.
Does not know: engines, pools, HTTP, signals; ``apply`` and ``bury`` are handed in.
Invariants: I12, ``apply`` is called with settings that were checked whole, or not at all; one check
runs at a time, and all who ask meanwhile share the next one, so that no storm of requests makes
more than two; everybody who asked gets exactly one answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fsmv2.supervisor.config.checkprocess import Check, Verdict
from fsmv2.supervisor.config.filewatch import LOOK_S, FileWatch, Mark, mark_of
from fsmv2.supervisor.config.plans import PlanDocument
from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.reloadevents import ReloadApplied, ReloadRefused
from fsmv2.supervisor.system.poller import Poller

NAMED_MAX = 20

Answer = Callable[[Verdict], None]
Apply = Callable[[Settings], None]


@dataclass(frozen=True)
class ConfigFile:
    """A config that was read from ``path``: as the file has it, without the command line's and
    the environment's words. ``mark`` is the file's from before it was read."""

    path: str
    settings: Settings
    mark: Mark | None = None


@dataclass(frozen=True)
class _Asked:
    cause: str
    dry: bool
    answer: Answer | None


class Reloader:
    """Call `ask` when somebody wants a reload, `tend` in each turn of the loop."""

    def __init__(
        self,
        source: ConfigFile | None,
        poller: Poller,
        emit: Callable[[Event], None],
        apply: Apply,
        bury: Callable[[int], None],
    ) -> None:
        self._source = source
        self._poller = poller
        self._emit = emit
        self._apply = apply
        self._bury = bury
        self._check: Check | None = None
        self._checking: list[_Asked] = []
        self._waiting: list[_Asked] = []
        self._watch: FileWatch | None = None
        self._look_at = 0.0
        self._loaded: dict[str, Mark | None] = {}
        if source is not None:
            mark = source.mark or mark_of(source.path)
            self._watch = FileWatch(source.path, mark)
            self._loaded = _marks(source.settings.plugins)

    @property
    def path(self) -> str:
        """The file that is read; empty: there is none."""
        return "" if self._source is None else self._source.path

    @property
    def pids(self) -> set[int]:
        """Our own children, of which nobody else knows."""
        return set() if self._check is None else {self._check.pid}

    def ask(self, cause: str, answer: Answer | None = None, *, dry: bool = False) -> None:
        """Read the config anew because of ``cause``; ``dry``: only say what it would do."""
        if self._source is None:
            if answer is not None:
                answer(Verdict(faults=("cannot reload: started without a config file",)))
            return
        self._waiting.append(_Asked(cause, dry, answer))
        self._begin()

    def _begin(self) -> None:
        if self._check is not None or not self._waiting or self._source is None:
            return
        self._checking, self._waiting = self._waiting, []
        if self._watch is not None:
            self._watch.take()
        try:
            self._check = Check(
                self._source.path,
                self._source.settings,
                self._poller,
                self._judged,
                self._bury,
            )
        except OSError as error:
            why = error.strerror or error
            self._judged(Verdict(faults=(f"cannot check the config: no process: {why}",)))

    def _judged(self, verdict: Verdict) -> None:
        self._check = None
        asked, self._checking = self._checking, []
        verdict = self._with_old_code(verdict)
        meant = [one for one in asked if not one.dry]
        if meant:
            verdict = self._take_over(verdict, meant[0].cause)
        for one in asked:
            if one.answer is not None:
                one.answer(verdict)
        self._begin()

    def _take_over(self, verdict: Verdict, cause: str) -> Verdict:
        settings, plan = verdict.settings, verdict.plan
        if settings is not None and plan is not None and self._source is not None:
            try:
                self._apply(settings)
            except SpecError as error:
                verdict = Verdict(faults=tuple(str(error).splitlines()))
            else:
                self._source = ConfigFile(self._source.path, settings)
                self._loaded = _marks(settings.plugins) | self._loaded
                self._emit(_applied(cause, plan))
                return verdict
        self._emit(ReloadRefused(cause=cause, faults="\n".join(verdict.faults)))
        return verdict

    def _with_old_code(self, verdict: Verdict) -> Verdict:
        """A check runs the plug-ins as their files are now, the root as they were when it loaded
        them: where that differs, a check says nothing about the root."""
        if verdict.faults:
            return verdict
        now = _marks(self._loaded)
        faults = tuple(
            f"plugins: {name} was changed since it was loaded, want a restart to load it anew"
            for name, mark in self._loaded.items()
            if now[name] != mark
        )
        return Verdict(faults=faults) if faults else verdict

    def next_moment(self) -> float | None:
        """When `tend` has something to do at the latest (monotonic seconds)."""
        moments = [self._look_at] if self._watches else []
        if self._check is not None:
            moments.append(self._check.deadline)
        return min(moments, default=None)

    @property
    def _watches(self) -> bool:
        return self._source is not None and self._source.settings.reload.watch

    def tend(self, now: float) -> None:
        """Kill a check that takes too long; look at the file when it is time."""
        if self._check is not None:
            self._check.tend(now)
        if self._watches and self._watch is not None and now >= self._look_at:
            self._look_at = now + LOOK_S
            if self._watch.look():
                self.ask("a change of the file")

    def close(self) -> None:
        """End a check under way; who waits for it hears that the supervisor stops."""
        if self._check is not None:
            self._check.close()
            self._check = None
        asked = self._checking + self._waiting
        self._checking, self._waiting = [], []
        for one in asked:
            if one.answer is not None:
                one.answer(Verdict(faults=("cannot reload: the supervisor stops",)))


def _marks(modules: Iterable[str]) -> dict[str, Mark | None]:
    """The marks of the files that loaded modules came from."""
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return {name: mark_of(file) if file else None for name, file in files.items()}


def _applied(cause: str, plan: PlanDocument) -> ReloadApplied:
    named = [f"{one.change} {one.path}" for one in plan.changes[:NAMED_MAX]]
    more = len(plan.changes) + plan.left_out - len(named)
    if more:
        named.append(f"{more} more")
    keys = dict.fromkeys(text.partition(":")[0] for text in plan.settings)
    return ReloadApplied(
        cause=cause,
        added=plan.counts["added"],
        updated=plan.counts["updated"],
        replaced=plan.counts["replaced"],
        removed=plan.counts["removed"],
        untouched=plan.counts["untouched"],
        changes=", ".join(named),
        settings=", ".join([*keys][:NAMED_MAX]),
    )
