"""How soon a slot works again after its action hung, in every shape of a hang.

    python benchmarks/kill.py [--kills 40] [--only SHAPE,…] [--memory-mib 256]
                              [--json FILE] [--markdown FILE]

One slot, two spares. Each round submits an action that hangs and, behind it, one that tells when
it begins. Told are, in milliseconds after the deadline, at the 50th and the 99th percentile: when
the spare had the slot, when the next action ran on it, when the kernel had reported the victim's
death, when its result was in the caller's hands; then how many of the stacks name the guilty
function, and the verdicts. Target: the next action runs after at most 3 ms (p50) and 15 ms (p99).
Shapes are interleaved, so that a busy moment of the machine hits all of them.

Exit status: 0; 1 when a kill went wrong: another end, or a process that lives on; 2 for wrong
options. Figures and stacks do not change it: they depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from documents import markdown_table, plain_table, put, surroundings
from killing import kills
from killing.shapes import SHAPES

from fsmv2.supervisor import ActionPool

LINES_OF_FAULTS_MAX = 20


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=40, help="of each shape")
    parser.add_argument("--only", metavar="SHAPE,…", help="of: " + ", ".join(SHAPES))
    parser.add_argument("--memory-mib", type=int, default=256, help="of the shape 'huge memory'")
    parser.add_argument("--json", metavar="FILE", help="where the raw figures go")
    parser.add_argument("--markdown", metavar="FILE", help="a document to put the table into")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else list(SHAPES)
    unknown = [name for name in options.only if name not in SHAPES]
    if unknown:
        parser.error(f"--only: got {', '.join(unknown)}, want some of: {', '.join(SHAPES)}")
    return options


def measure(options: argparse.Namespace, marker: Path) -> dict[str, list[dict[str, Any]]]:
    """All rounds: every shape once, then all again."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    size = options.memory_mib << 20
    with ActionPool(procs=1, spares=2, preload=("killing.shapes",)) as pool:
        for number in range(options.kills):
            for name in options.only:
                found[name].append(kills.kill_one(pool, SHAPES[name], size, marker))
            if number % 10 == 9:
                print(f"{number + 1} of {options.kills} rounds", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Measure and print."""
    options = arguments()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fsmv2-kill-") as folder:
        measured = measure(options, Path(folder) / "pids")
    head = (
        f"{surroundings(load)}; {options.kills} kills of each shape, "
        "milliseconds after the deadline, p50 / p99."
    )
    rows = kills.rows(measured)
    print(head)
    print("\n".join(plain_table(rows)))
    if options.json:
        document = {"surroundings": head, "kills": measured}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown:
        put(Path(options.markdown), "kill", [head, "", *markdown_table(rows)])
    faults = [f"FAULT {name}: {text}" for name in measured for text in _faults(measured[name])]
    print("\n".join(faults[:LINES_OF_FAULTS_MAX]), end="\n" if faults else "")
    return int(bool(faults))


def _faults(found: list[dict[str, Any]]) -> list[str]:
    return [text for each in found for text in each["faults"]]


if __name__ == "__main__":
    sys.exit(main())
