"""fsmv2's pool beside other process pools, two procs each, in one run.

    python benchmarks/pools.py [--quick] [--only NAME,…] [--figures GROUP,…] [--rounds N]
                               [--json FILE] [--from FILE] [--markdown FILE]

Pools that are not installed are named; `pip install -e '.[bench]'` has them all. Groups of
figures: speed, start, hangs, deaths, kills. Each pool runs in a process of its own, for a limited
time, and is killed with all it started. Rounds are interleaved; ratios compare within a round.
All raw figures go to a JSON file (default: benchmarks/results/pools-TIME.json); ``--from`` makes
the tables of such a file anew, ``--markdown README.md`` also puts them into a document.

Exit status: 0 when all pools were measured, 1 when one of ours could not be, 2 for wrong options.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from documents import markdown_table, plain_table, put
from peers.fence import run_fenced
from peers.measure import QUICK, Size
from peers.raw import FLOORS
from peers.subject import CLASSES, GROUPS, peer_class
from peers.tables import FIGURES, TITLES, rows_of
from peers.targets import OURS, verdict_rows, verdicts

HERE = Path(__file__).resolve().parent
LIMIT_S = {"speed": 60.0, "start": 40.0, "hangs": 60.0, "deaths": 60.0, "kills": 75.0}
QUICK_LIMIT_S = 60.0
ONCE = ("kills",)  # in the first round only: counts, not times
INSTALL = "pip install -e '.[bench]'"
Rows = Sequence[Sequence[str]]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def missing(name: str) -> bool:
    """Whether the pool ``name`` cannot be measured because it is not installed."""
    distribution = peer_class(name).distribution
    return distribution is not None and importlib.util.find_spec(distribution) is None


def measure(peer: str, group: str, quick: bool) -> dict[str, Any]:
    """Have one group of figures of one pool measured; gives an entry of the JSON's rounds."""
    with tempfile.TemporaryDirectory(prefix="fsmv2-bench-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-P", str(HERE / "peers" / "subject.py"), peer, group, str(path)]
        limit_s = QUICK_LIMIT_S if quick else LIMIT_S[group]
        ended = run_fenced(command + ["--quick"] * quick, limit_s, folder)
        figures = json.loads(path.read_text()) if path.exists() else {}
    error = None
    if ended.code is None:
        error = f"not finished after {ended.seconds:.0f} s"
    elif ended.code:
        error = ended.errors.strip().rpartition("\n")[2] or f"exit status {ended.code}"
    return {
        "peer": peer,
        "group": group,
        "figures": figures,
        "error": error,
        "wedged": ended.code is None,
        "seconds": ended.seconds,
        "left_behind": ended.left,
        "load": os.getloadavg()[0],
    }


def run_rounds(peers: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rounds: every pool once for each group, then all again."""
    found = []
    began = time.monotonic()
    for number in range(1, options.rounds + 1):
        for group in options.figures:
            if group in ONCE and number > 1:
                continue
            for peer in peers:
                if peer in FLOORS and group != "speed":
                    continue
                entry = {"round": number, **measure(peer, group, options.quick)}
                found.append(entry)
                say(
                    f"{time.monotonic() - began:5.0f} s  round {number}/{options.rounds}  "
                    f"{group:<7} {peer:<21} {entry['error'] or 'done'}"
                )
    return found


def surroundings() -> dict[str, Any]:
    """What a reader of the figures has to know of the machine and of what was measured."""
    versions = {}
    for name in ("fsmv2", "multiprocess", "pebble", "billiard", "loky", "msgspec"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "began_at": time.time(),
    }


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog="groups: " + ", ".join(GROUPS)
    )
    names = [*CLASSES, *FLOORS]
    parser.add_argument("--quick", action="store_true", help="one round, small counts")
    parser.add_argument("--only", metavar="NAME,…", help="of: " + ", ".join(names))
    parser.add_argument("--figures", metavar="GROUP,…", help="groups of figures to measure")
    parser.add_argument("--rounds", type=int, metavar="N", help="default 3")
    parser.add_argument("--json", metavar="FILE", help="where the raw figures go")
    parser.add_argument(
        "--from", dest="old", metavar="FILE", help="measure nothing, take this run's figures"
    )
    parser.add_argument("--markdown", metavar="FILE", help="a document to put the tables into")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else names
    options.figures = options.figures.split(",") if options.figures else list(GROUPS)
    options.rounds = options.rounds or (1 if options.quick else 3)
    for got, known, what in (
        (options.only, names, "--only"),
        (options.figures, list(GROUPS), "--figures"),
    ):
        unknown = [each for each in got if each not in known]
        if unknown:
            parser.error(f"{what}: got {', '.join(unknown)}, want some of: {', '.join(known)}")
    return options


def report(document: dict[str, Any], render: Callable[[Rows], list[str]]) -> list[str]:
    """Everything there is to say, as lines; tables as ``render`` makes them."""
    rounds, peers = document["rounds"], document["peers"]
    count = max(each["round"] for each in rounds)
    size = QUICK if document["options"]["quick"] else Size()
    lines = [
        (
            f"Python {document['python']}, Linux {document['kernel']}, {document['cores']} cores, "
            f"load {document['load']:.1f} before and {document['load_after']:.1f} after, "
            f"{count} interleaved round{'s' * (count > 1)}, two procs each."
        ),
        (
            "Cells: median [lowest-highest] ×times better than ProcessPoolExecutor in the same "
            f"round; never: not within {size.watch_s:g} s."
        ),
    ]
    for group in GROUPS:
        rows = rows_of(rounds, peers, group)
        if rows:
            lines += ["", TITLES[group], "", *render(rows)]
    for name in document["skipped"]:
        lines += ["", f"{name}: skipped, not installed ({INSTALL})"]
    for each in rounds:
        if each["error"]:
            what = "wedged" if each["wedged"] else "failed"
            where = f"{each['peer']}, {each['group']}, round {each['round']}"
            lines += ["", f"{where}: {what}: {each['error']}"]
    if OURS in peers:
        lines += ["", "Targets", "", *render(verdict_rows(verdicts(rounds, size.kills)))]
    return lines


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Measure; gives the document, None when none of the pools is installed."""
    skipped = [name for name in options.only if name in CLASSES and missing(name)]
    peers = [name for name in [*CLASSES, *FLOORS] if name in options.only and name not in skipped]
    if not peers:
        return None
    document = surroundings()
    document["options"] = vars(options)
    document["units"] = {figure.name: figure.unit for figure in FIGURES}
    document |= {"peers": peers, "skipped": skipped, "rounds": run_rounds(peers, options)}
    document["load_after"] = os.getloadavg()[0]
    path = Path(options.json or HERE / "results" / time.strftime("pools-%Y%m%d-%H%M%S.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    say(f"raw figures: {path}")
    return document


def main() -> int:
    """Measure and print."""
    options = arguments()
    # As an exception, so that the fence ends what it holds.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    document = json.loads(Path(options.old).read_text()) if options.old else run(options)
    if document is None:
        say(f"nothing to measure: not installed ({INSTALL})")
        return 2
    print("\n".join(report(document, plain_table)))
    if options.markdown:
        put(Path(options.markdown), "pools", report(document, markdown_table))
    return int(any(each["error"] for each in document["rounds"] if each["peer"] == OURS))


if __name__ == "__main__":
    sys.exit(main())
