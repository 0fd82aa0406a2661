#!/usr/bin/env python3
"""What `ops/coverage` needs beside coverage.py: figures of killed processes, and the table.

Knows: where a process has what it measured, in which order our processes wait and get killed.
Does not know: what is tested.
Invariants: whatever a process did before it last waited is counted, however it ends; a package
without figures, or one below what is wanted, makes the whole run fail.

coverage.py writes when a process ends. Most of ours end by SIGKILL, and nothing writes then. So
each process appends its new arcs to a file of its own before it reads or selects: a proc before it
waits for the next action, the template before it waits for an order. No thread, no timer and no
signal handler is needed for that, and nothing stays open: the template would refuse to fork with
one of those.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coverage import Coverage, CoverageData
from coverage.exceptions import NoDataError

WANTED_PER_CENT = 90.0
KEPT = "FSMV2_MEASURING_FOLDER"
PARTS = {
    "supervisor/core": (("supervisor/core/*",), ()),
    "supervisor, the rest": (("supervisor/*",), ("supervisor/core/*",)),
    "workerproc": (("workerproc/*",), ()),
    "ipc": (("ipc/*",), ()),
    "communicator": (("communicator/*",), ()),
}


# --- in each process that is measured ---------------------------------------------------------


class _Keeper:
    """Appends what is new. ``lengths`` are those of coverage.py's sets at the last look: as they
    only grow until the process ends, a look at them is enough to see that nothing is new."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.collector: Any = None
        self.lengths: dict[str, int] = {}
        self.seen: dict[str, set[int]] = {}
        self.is_busy = False

    def keep(self) -> None:
        cov: Any = Coverage.current()
        collector = None if cov is None else cov._collector  # noqa: SLF001
        if collector is None or self.is_busy:
            return
        self.is_busy = True
        try:
            if collector is not self.collector:  # we are a fork
                self.collector, self.lengths, self.seen = collector, {}, {}
            data = collector.data
            lengths = {name: len(arcs) for name, arcs in data.copy().items()}
            if lengths != self.lengths:
                self._write(data)
                self.lengths = lengths
        except OSError:
            pass  # a limit that an action runs under
        finally:
            self.is_busy = False

    def _write(self, data: dict[str, set[int]]) -> None:
        new = {}
        for name, arcs in data.copy().items():
            seen = self.seen.setdefault(name, set())
            if more := arcs.copy() - seen:
                new[name] = list(more)
                seen |= more
        if not new:
            return
        path = f"{self.folder}/{os.getpid()}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(new).encode() + b"\n")
        finally:
            os.close(fd)


def _keeping(keeper: _Keeper, wait: Callable[..., Any]) -> Callable[..., Any]:
    def keeping(*args: Any, **named: Any) -> Any:
        keeper.keep()
        return wait(*args, **named)

    return keeping


def coverage_init(_registry: Any, _options: Any) -> None:
    """coverage.py calls this in each process, and again after a fork."""
    folder = os.environ.get(KEPT)
    if not folder or hasattr(os.read, "__wrapped_by_measuring__"):
        return
    keeper = _Keeper(folder)
    read = _keeping(keeper, os.read)
    read.__wrapped_by_measuring__ = True  # type: ignore[attr-defined]
    os.read = read
    taken: Any = socket.socket
    for name in ("recv", "recvmsg"):
        setattr(taken, name, _keeping(keeper, getattr(taken, name)))
    epoll: Any = selectors.EpollSelector
    epoll.select = _keeping(keeper, epoll.select)


# --- when all have ended ------------------------------------------------------------------------


def _unpacked(arc: int) -> tuple[int, int]:
    """coverage.py's tracer has two line numbers in one int, see its collector."""
    one, other = arc & 0xFFFFFFF, (arc >> 28) & 0xFFFFFFF
    return -one if arc >> 56 & 1 else one, -other if arc >> 57 & 1 else other


def take_in(folder: Path, data_file: str) -> int:
    """Make one data file of all that was kept; from how many processes."""
    arcs: dict[str, set[int]] = defaultdict(set)
    files = list(folder.iterdir())
    for file in files:
        for line in file.read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # else it was killed while writing
                for name, more in json.loads(line).items():
                    arcs[name].update(more)
    data = CoverageData(data_file, suffix="kept")
    data.add_arcs({name: [_unpacked(arc) for arc in packed] for name, packed in arcs.items()})
    data.close()
    return len(files)


def show(missing: bool, judged: bool) -> int:
    """Print the table; 1 if a package has no figures, or too low ones."""
    cov = Coverage()
    cov.load()
    rows, faults = [], []
    for part, (include, omit) in PARTS.items():
        given: Any = {
            "include": [f"*/{pattern}" for pattern in include],
            "omit": [f"*/{pattern}" for pattern in omit],
        }
        if missing:
            print(f"\n{part}:")
            cov.report(show_missing=True, skip_covered=True, **given)
        with tempfile.NamedTemporaryFile() as file:
            try:
                cov.json_report(outfile=file.name, **given)
            except NoDataError:
                faults.append(f"{part}: got no figures")
                continue
            totals = json.loads(Path(file.name).read_text("utf-8"))["totals"]
        per_cent = totals["percent_covered"]
        rows.append(
            f"| {part:20} | {totals['num_statements']:10} | {totals['missing_lines']:6} | "
            f"{totals['num_branches']:8} | {totals['missing_branches']:6} | {per_cent:8.1f} |"
        )
        if per_cent < WANTED_PER_CENT and judged:
            faults.append(f"{part}: got {per_cent:.1f} per cent, want {WANTED_PER_CENT:.0f}")
    print(f"\n| {'package':20} | statements | missed | branches | missed | per cent |")
    print(f"|{'-' * 22}|-----------:|-------:|---------:|-------:|---------:|")
    print("\n".join(rows))
    for fault in faults:
        print(f"coverage: {fault}", file=sys.stderr)
    return 1 if faults else 0


def main() -> int:
    """``measuring.py FOLDER DATA_FILE [--missing] [--judged]``, after all tests."""
    folder, data_file, *flags = sys.argv[1:]
    count = take_in(Path(folder), data_file)
    print(f"coverage: {count} processes kept figures while they ran", file=sys.stderr)
    if not count:
        print("coverage: got no figures of processes that are killed", file=sys.stderr)
        return 1
    Coverage(data_file=data_file).combine(keep=False)
    return show("--missing" in flags, "--judged" in flags)


if __name__ == "__main__":
    sys.exit(main())
