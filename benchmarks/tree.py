"""What the tree costs: ticks, reconciling, templates, memory, and thousands of live workers.

    python benchmarks/tree.py [--quick] [--json FILE] [--from FILE] [--markdown FILE] [--plot FILE]

Printed beside each figure: the limit of the ticket the project began with, what the Go original
needs, our target, and whether it is met. Times without real procs are CPU times, the least of some
runs. Raw figures go to a JSON file (default: benchmarks/results/tree-TIME.json), and beside it a
picture of how the time of a tick grows with the nodes and with the changed ones (SVG); ``--from``
makes table and picture of such a file anew. ``--quick`` takes fewer runs and shorter looks.

Exit status: 0; 1 when workers did not come up; 2 for wrong options. Targets do not change it: they
depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from documents import markdown_table, plain_table, put, surroundings
from growing import cases, enqueue
from growing.plot import svg
from growing.rows import table

HERE = Path(__file__).resolve().parent
LIVE_LIMIT_S = 240.0
CHANGED = (1, 10, 100, 1_000)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs, no 10,000 live workers")
    parser.add_argument("--json", metavar="FILE", help="where the raw figures go")
    parser.add_argument("--from", dest="source", metavar="FILE", help="measured before")
    parser.add_argument("--markdown", metavar="FILE", help="a document to put the table into")
    parser.add_argument("--plot", metavar="FILE", help="where the picture goes (SVG)")
    return parser.parse_args()


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def live(leaf: str, workers: int, seconds: float) -> dict[str, float]:
    """The figures of a supervisor in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-P", str(HERE / "growing" / "live.py"), leaf, str(workers), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=LIVE_LIMIT_S,
        check=True,
    )
    found: dict[str, float] = json.loads(ended.stdout)
    if "error" in found:
        raise RuntimeError(f"{workers} workers: {found['error']}")
    return found


def measure(quick: bool) -> dict[str, Any]:
    """All figures, flat: ``group.name``; and the points of the lines."""
    times = 1 if quick else 10
    figures: dict[str, float] = {}

    def take(group: str, found: dict[str, float]) -> None:
        say(group)
        figures.update({f"{group}.{name}": value for name, value in found.items()})

    for nodes, widths in cases.WIDTHS.items():
        take(f"tick_{nodes}", cases.ticks(widths, times))
    take("cube", cases.ticks(cases.CUBE, times))
    take("health", cases.health(1_000, times))
    changed = cases.changed_leaves(cases.WIDTHS[10_000], CHANGED, times)
    for count in (10, 1_000):
        take(f"reconcile_{count}", cases.reconciles(count, times))
    take("pure", cases.pure(times))
    take("memory", {"bytes_per_node": cases.bytes_per_node(cases.WIDTHS[1_000])})
    with tempfile.TemporaryDirectory(prefix="fsmv2-bench-") as folder:
        found = sorted(enqueue.enqueues_s(2 * times, folder))
    take("enqueue", {"p50_s": found[len(found) // 2]})
    take("start", live("actor", 100, 0))
    take("live_1000", live("meter", 1_000, 2.0 if quick else 20.0))
    if not quick:
        take("live_10000", live("meter", 10_000, 20.0))
    return {"figures": figures, "changed": [list(point) for point in changed.items()]}


def picture(measured: dict[str, Any]) -> str:
    """How the time of a tick grows."""
    figures = measured["figures"]

    def line(name: str) -> list[tuple[float, float]]:
        return [(n, figures[f"tick_{n}.{name}"] * 1000) for n in cases.WIDTHS]

    return svg(
        "How long a tick takes",
        "nodes in the tree; for the last line: changed leaves of 10,000",
        "ms",
        {
            "all evaluated": line("full_s"),
            "one leaf changed": line("one_leaf_s"),
            "nothing changed": line("steady_s"),
            "leaves changed": [(count, seconds * 1000) for count, seconds in measured["changed"]],
        },
    )


def main() -> int:
    """Measure and print."""
    options = arguments()
    if options.source:
        measured = json.loads(Path(options.source).read_text())
    else:
        before = os.getloadavg()[0]
        try:
            measured = measure(options.quick)
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(f"cannot measure: {error}", file=sys.stderr)
            return 1
        measured["surroundings"] = f"{surroundings(before)}."
    rows = table(measured["figures"])
    print(measured["surroundings"])
    print("\n".join(plain_table(rows)))
    if not options.source:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        raw = Path(options.json or HERE / "results" / f"tree-{stamp}.json")
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.write_text(json.dumps(measured, indent=1) + "\n")
        options.plot = options.plot or str(raw.with_suffix(".svg"))
    if options.plot:
        Path(options.plot).write_text(picture(measured), "utf-8")
    if options.markdown:
        lines = [measured["surroundings"], "", *markdown_table(rows)]
        put(Path(options.markdown), "tree", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
