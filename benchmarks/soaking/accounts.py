"""Every submitted action is accounted for exactly once, or it is said which is not.

Knows: tokens, results, how many strikes there were of which signal.
Does not know: the pool, processes.
Invariants: what is kept of an action that has its result is a few bytes, so that the soak's own
memory hides no leak. Safe to use from any thread.
"""

from __future__ import annotations

import array
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NEVER, _OPEN, _SETTLED = 0, 1, 2
ENDINGS = {
    "crashed": (signal.SIGKILL, signal.SIGSEGV),
    "timed_out": (signal.SIGSTOP,),
}
# What a strike may be told as. A stopped proc may be killed before its deadline.
CAUSES = {
    "killed_from_outside": (signal.SIGKILL,),
    "crashed:SIGSEGV": (signal.SIGSEGV,),
    "stopped_process": (signal.SIGSTOP,),
    "timed_out": (signal.SIGSTOP,),
}
FAULTS_MAX = 20
# So many procs must die before they begin an action for the pool to give it up.
UNBEGUN_MAX = 20


class Accounts:
    """`open` an action, `told` when its callback is called, `settle` when its result is read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states = bytearray(1)
        self._told = bytearray(1)
        self._attempts = bytearray(1)
        self.statuses: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self._details: Counter[str] = Counter()
        self._never_began = 0
        # Tokens of those that ended otherwise. Arrays: thousands of them are a few KiB.
        self._ends = {"crashed": array.array("I"), "timed_out": array.array("I")}
        self.faults: list[str] = []
        self.fault_count = 0

    @property
    def submitted(self) -> int:
        """How many actions were opened."""
        return len(self._states) - 1

    def open(self) -> int:
        """A new action: gives its token."""
        with self._lock:
            self._states.append(_OPEN)
            self._told.append(0)
            return len(self._states) - 1

    def told(self, token: int) -> None:
        """The handle of ``token`` has called back that it is done."""
        with self._lock:
            self._told[token] += 1
            if self._told[token] > 1:
                self._fault(f"action {token}: told {self._told[token]} times that it is done")

    def settle(self, token: int, result: Any, expected: Any) -> bool:
        """The result of ``token`` was read; says whether it succeeded."""
        with self._lock:
            if self._states[token] != _OPEN:
                self._fault(f"action {token}: a second result, {result.status}")
            self._states[token] = _SETTLED
            self.statuses[result.status] += 1
            self._attempt(token, result.attempt_id)
            if result.status == "succeeded":
                if result.value != expected:
                    self._fault(f"action {token}: a value that is not its own")
                return True
            if result.status != "refused":
                self.verdicts[result.verdict] += 1
            if result.certificate is not None and result.verdict not in CAUSES:
                self._details[result.certificate.detail or "no detail"] += 1
            if result.status in self._ends:
                self._ends[result.status].append(token)
                if result.certificate is None or result.certificate.started_at is None:
                    self._fault(f"action {token}: {result.status}, but it had not begun")
            elif result.error is not None and result.error.type == "NeverBegan":
                self._never_began += 1
            else:
                self._fault(f"action {token}: {result.status}: {result.error}")
            return False

    def lost(self, token: int, why: str) -> None:
        """The result of ``token`` does not come."""
        with self._lock:
            self._fault(f"action {token}: {why}")

    def check(self, strikes: Mapping[int, int]) -> list[str]:
        """All faults, with those that only the end shows. ``strikes``: signal to how many."""
        with self._lock:
            missing = self._states.count(_OPEN)
            if missing:
                self._fault(f"{missing} of {self.submitted} actions have no result")
            for status, numbers in ENDINGS.items():
                most = sum(strikes.get(number, 0) for number in numbers)
                if self.statuses[status] > most:
                    what = " and ".join(f"{number.name}s" for number in numbers)
                    self._fault(f"{self.statuses[status]} actions {status}, but {most} {what}")
            struck = sum(strikes.values())
            if self._never_began * UNBEGUN_MAX > struck:
                self._fault(f"{self._never_began} actions never began, of {struck} strikes")
            for verdict, count in self.verdicts.items():
                most = sum(strikes.get(number, 0) for number in CAUSES.get(verdict, ()))
                if count > most:
                    said = f": {dict(self._details)}" if verdict not in CAUSES else ""
                    self._fault(f"{count} actions {verdict}, of {most} strikes that cause it{said}")
            untold = self._told.count(0) - 1
            if untold > missing:
                self._fault(f"{untold} actions called nobody back, {missing} have no result")
            hidden = self.fault_count - len(self.faults)
            return self.faults + ([f"and {hidden} more faults"] if hidden else [])

    def check_pids(self, pids: Sequence[int], strikes: Mapping[tuple[int, int], int]) -> None:
        """Each action that did not succeed has to have run in a process that was struck, and no
        more of them than it was struck. ``pids``: token to process, 0 if it did not come to say;
        ``strikes``: (process, signal) to how many. Found faults are told by `check`."""
        with self._lock:
            for status, tokens in self._ends.items():
                known = (pids[token] for token in tokens if token < len(pids))
                for pid, count in Counter(known).items():
                    most = sum(strikes.get((pid, number), 0) for number in ENDINGS[status])
                    if pid and count > most:
                        self._fault(f"{count} actions {status} in process {pid}, struck {most}×")

    def _attempt(self, token: int, number: int) -> None:
        if number >= len(self._attempts):
            self._attempts.extend(bytes(number + 1024 - len(self._attempts)))
        if self._attempts[number]:
            self._fault(f"action {token}: its attempt {number} is another action's too")
        self._attempts[number] = 1

    def _fault(self, text: str) -> None:
        self.fault_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)


def order_faults(key: str, lines: Iterable[str], succeeded: bytes) -> list[str]:
    """What is wrong with the begins (+N) and ends (-N) that the actions of one key wrote.

    ``succeeded`` has one byte for each action of the key, in the order of submission: 1 if it
    succeeded. They have to begin in that order, each at most once, and none may begin or end
    after the next has begun: an action that was killed does not end, and is dead by then.
    """
    faults = []
    newest, ended = -1, True
    begun, complete = bytearray(len(succeeded)), bytearray(len(succeeded))
    for number, line in enumerate(lines, 1):
        sign, serial = line[:1], int(line[1:])
        if sign == "+":
            if serial <= newest:
                faults.append(f"key {key}, line {number}: {serial} begins after {newest} has begun")
            newest, ended = serial, False
            begun[serial] += 1
        elif serial != newest or ended:
            faults.append(f"key {key}, line {number}: {serial} ends while {newest} is the newest")
        else:
            ended = True
            complete[serial] = 1
    for serial, fine in enumerate(succeeded):
        if fine and not (begun[serial] == 1 and complete[serial]):
            faults.append(f"key {key}: {serial} succeeded, but ran {begun[serial]} times")
    return faults
