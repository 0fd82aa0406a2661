"""What a run comes to: counts and deaths, as data and as text.

Knows: the numbers of a finished run and how to print them.
Does not know: where they were counted.
Invariants: every figure has a unit; deaths are told with path, action, status and verdict.
"""

from __future__ import annotations

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``statuses`` counts actions by how they ended; ``deaths`` counts attempts that
    were killed or died, by (path, action type, status, verdict)."""

    clean: bool
    exit_code: int
    ran_s: float
    ticks: int
    statuses: dict[str, int]
    deaths: dict[tuple[str, str, str, str], int]
    restarts: int
    proc_deaths: int

    def text(self) -> str:
        """The summary for people, one fact a line."""
        count = self.statuses.get
        total = sum(self.statuses.values())
        killed = sum(n for (_p, _a, status, _v), n in self.deaths.items() if status != "crashed")
        ends = ", ".join(
            f"{count(status, 0)} {status.replace('_', ' ')}"
            for status in ("succeeded", "failed", "timed_out", "crashed", "cancelled", "refused")
        )
        stop = "clean stop" if self.clean else "forced stop"
        lines = [
            f"ran {self.ran_s:.1f} s, {self.ticks} ticks, {stop}",
            f"actions run: {total} ({ends})",
            f"killed: {killed}, crashed: {count('crashed', 0)}, worker restarts: {self.restarts}",
        ]
        if self.deaths:
            lines.append("death certificates:")
            rows = sorted(self.deaths.items())
            width = max(len(f"{path} {action}") for (path, action, _s, _v), _n in rows)
            lines += [
                f"  {f'{path} {action}':<{width}}  {verdict if status == 'crashed' else status}"
                f"{'' if status == 'crashed' or verdict == status else f' ({verdict})'}"
                f"  x {n}"
                for (path, action, status, verdict), n in rows
            ]
        return "\n".join(lines)
