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
one of those. A fork goes on being measured as what it is a copy of: a new start of coverage.py
in each would cost some 50 ms, and miss the function that has forked.
"""

from __future__ import annotations

import atexit
import contextlib
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

KEPT = "FSMV2_MEASURING_FOLDER"
# Name, per cent that are wanted of branches alone and with statements, which files are in it and
# which are not.
PARTS = (
    ("supervisor/core", 95.0, "supervisor/core/*", ""),
    ("supervisor, the rest", 90.0, "supervisor/*", "supervisor/core/*"),
    ("workerproc", 90.0, "workerproc/*", ""),
    ("ipc", 90.0, "ipc/*", ""),
    ("communicator", 90.0, "communicator/*", ""),
)
HEAD = ("package", "statements", "missed", "branches", "missed", "branches, %", "both, %")


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
        if self.collector is None:
            cov: Any = Coverage.current()
            self.collector = None if cov is None else cov._collector  # noqa: SLF001
        if self.collector is None or self.is_busy:
            return
        self.is_busy = True
        try:
            data = self.collector.data
            lengths = {name: len(arcs) for name, arcs in data.copy().items()}
            if lengths != self.lengths:
                self._write(data)
                self.lengths = lengths
        except (OSError, MemoryError):
            pass  # a limit that an action runs under
        finally:
            self.is_busy = False

    def _write(self, data: dict[str, set[int]]) -> None:
        new = {}
        for name, arcs in data.copy().items():
            if more := arcs.copy() - self.seen.get(name, set()):
                new[name] = list(more)
        if not new:
            return
        path = f"{self.folder}/{os.getpid()}.{os.geteuid()}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # A line of one that was killed while writing ends here.
            os.write(fd, b"\n" + json.dumps(new).encode() + b"\n")
        finally:
            os.close(fd)
        for name, packed in new.items():
            self.seen.setdefault(name, set()).update(packed)

    def is_forked(self) -> None:
        """What the parent has measured is the parent's to write into its database."""
        self.is_busy = False
        cov: Any = Coverage.current()
        if cov is not None:
            cov._auto_save = False  # noqa: SLF001


def _keeping(keeper: _Keeper, wait: Callable[..., Any]) -> Callable[..., Any]:
    def keeping(*args: Any, **named: Any) -> Any:
        keeper.keep()
        return wait(*args, **named)

    # Pickled by name, like the original.
    keeping.__name__, keeping.__qualname__ = wait.__name__, wait.__qualname__
    keeping.__module__ = getattr(wait, "__module__", "socket").replace("posix", "os")
    return keeping


def coverage_init(_registry: Any, _options: Any) -> None:
    """coverage.py calls this in each process that begins, and not in a fork of one."""
    folder = os.environ.get(KEPT)
    if not folder:
        return
    keeper = _Keeper(folder)
    os.register_at_fork(after_in_child=keeper.is_forked)
    atexit.register(keeper.keep)  # a fork that ends by itself
    for owner, names in (
        (os, ("read", "_exit")),
        (socket.socket, ("recv", "recvmsg")),
        (selectors.EpollSelector, ("select",)),
    ):
        for name in names:
            setattr(owner, name, _keeping(keeper, getattr(owner, name)))


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
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # half a line
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
    for part, wanted, include, omit in PARTS:
        chosen: Any = {"include": f"*/{include}", "omit": f"*/{omit}" if omit else None}
        try:
            if missing:
                print(f"\n{part}:")
                cov.report(show_missing=True, skip_covered=True, **chosen)
            totals = _totals(cov, chosen)
        except NoDataError:
            faults.append(f"{part}: got no figures")
            continue
        statements, branches = totals["num_statements"], totals["num_branches"]
        per_cent = totals["percent_covered"]
        taken = 100.0 * totals["covered_branches"] / branches if branches else 100.0
        figures = (statements, totals["missing_lines"], branches, totals["missing_branches"])
        rows.append((part, *map(str, figures), f"{taken:.1f}", f"{per_cent:.1f}"))
        if judged and min(taken, per_cent) < wanted:
            got = f"{taken:.1f} per cent of branches, {per_cent:.1f} with statements"
            faults.append(f"{part}: got {got}, want {wanted:.0f}")
    print()
    for row in (HEAD, ("-" * 20, *("-" * len(head) for head in HEAD[1:])), *rows):
        cells = (cell.rjust(len(head)) for cell, head in zip(row[1:], HEAD[1:], strict=True))
        print(f"| {row[0]:20} | {' | '.join(cells)} |")
    for fault in faults:
        print(f"coverage: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _totals(cov: Coverage, chosen: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile() as file:
        cov.json_report(outfile=file.name, **chosen)
        totals: dict[str, Any] = json.loads(Path(file.name).read_bytes())["totals"]
    return totals


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
