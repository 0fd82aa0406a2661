"""Replays seeds of the simulation; `ops/replay` is the command.

Knows: how to run one seed or many, in several processes.
Does not know: what a seed means: tests/simulation/worlds.py.
Invariants: I10, the same seed prints the same lines.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "simulation"))

from twins import play_twins
from worlds import History

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.testing import FaultPlan
from fsmv2.supervisor.testing.faultplan import FAULTS

PROGRESS_S = 5.0
FAILURES_SHOWN = 5


def main() -> int:
    """0: all promises held; 1: one did not; 2: the command cannot be understood."""
    options = _options()
    try:
        if options.seeds is None:
            return _one(options.seed, options.ticks, options.faults, options.twins)
        return _many(options.seeds, options.faults, options.twins, options.jobs)
    except SpecError as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops/replay", description="Replay simulated histories.")
    parser.add_argument("seed", type=int, nargs="?", help="the seed whose trace is printed")
    parser.add_argument("--seeds", type=_range, metavar="A:B", help="many, from A up to before B")
    parser.add_argument("--ticks", type=int, help="stop after so many")
    parser.add_argument(
        "--faults",
        help=f"none, or NAME=RATE,… instead of those of the seed; names: {', '.join(FAULTS)}",
    )
    parser.add_argument(
        "--twins", action="store_true", help="compare the incremental tick with the full one"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    if (options.seed is None) == (options.seeds is None):
        parser.error("want a SEED or --seeds A:B")
    return options


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last))


def _plan(text: str | None) -> FaultPlan | None:
    if text is None:
        return None
    pairs = (each.partition("=") for each in text.split(",")) if text != "none" else ()
    try:
        rates = {name: float(rate) for name, _, rate in pairs}
        return FaultPlan(**rates)
    except (TypeError, ValueError) as error:
        raise SpecError(f"cannot read --faults {text!r}: {error}; want NAME=RATE,…") from None


def _one(seed: int, ticks: int | None, faults: str | None, twins: bool) -> int:
    history = History(seed, _plan(faults))
    if twins:
        fault = _fault_of(seed, faults, twins)
        print(fault or f"seed {seed}: the full tick decides the same")
        return 1 if fault else 0
    run = history.begin()
    error: Exception | None = None
    try:
        run.play(ticks)
    except Exception as raised:  # whatever the history has run into
        error = raised
    print("\n".join(run.sim.trace.lines))
    if error is not None:
        print(f"{type(error).__name__}: {str(error).partition('the last lines')[0]}")
        return 1
    return 0


def _fault_of(seed: int, faults: str | None, twins: bool) -> str | None:
    try:
        history = History(seed, _plan(faults))
        if twins:
            play_twins(history)
        else:
            history.begin().play()
    except SpecError:
        raise
    except Exception as error:  # whatever the history has run into
        return f"{type(error).__name__}: {error}"
    return None


def _job(job: tuple[int, str | None, bool]) -> tuple[int, str | None]:
    return job[0], _fault_of(*job)


def _many(seeds: range, faults: str | None, twins: bool, jobs: int) -> int:
    _plan(faults)
    began = told = time.monotonic()
    failed: list[int] = []
    with multiprocessing.Pool(jobs) as pool:
        work: Iterator[tuple[int, str | None]] = pool.imap_unordered(
            _job, ((seed, faults, twins) for seed in seeds), chunksize=20
        )
        for count, (seed, fault) in enumerate(work, 1):
            if fault is not None:
                failed.append(seed)
                if len(failed) <= FAILURES_SHOWN:
                    print(f"seed {seed}: {fault}\n", flush=True)
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                print(f"{count} of {len(seeds)}, {len(failed)} failed", file=sys.stderr)
    took_s = time.monotonic() - began
    print(f"{len(seeds)} seeds in {took_s:.0f} s, {len(failed)} failed: {sorted(failed)[:20]}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
