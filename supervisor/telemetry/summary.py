"""What a run comes to: counts and deaths, as data and as text.

Knows: the numbers of a finished run and how to print them.
Does not know: where they were counted.
Invariants: every figure has a unit; deaths are told with path, action, status and verdict.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.counting import several


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``statuses`` counts actions by how they ended; ``deaths`` counts attempts that
    were killed or died, by (path, action type, status, verdict); ``observation_deaths`` counts
    observations that did, by status."""

    clean: bool
    exit_code: int
    ran_s: float
    ticks: int
    statuses: dict[str, int]
    deaths: dict[tuple[str, str, str, str], int]
    restarts: int
    proc_deaths: int
    observation_deaths: dict[str, int] = {}

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
        crashed_looks = self.observation_deaths.get("crashed", 0)
        killed_looks = sum(self.observation_deaths.values()) - crashed_looks
        ended = (
            f"killed: {_counted(killed, killed_looks)}, "
            f"crashed: {_counted(count('crashed', 0), crashed_looks)}"
        )
        lines = [
            f"ran {self.ran_s:.1f} s, {self.ticks} ticks, {stop}",
            f"actions run: {total} ({ends})",
            f"{ended}, worker restarts: {self.restarts}",
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


def _counted(actions: int, observations: int) -> str:
    """Observations are no actions run, and are told where there are any."""
    looks = several(observations, "observation")
    return f"{actions} (and {looks})" if observations else f"{actions}"
