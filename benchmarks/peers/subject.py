"""One pool, one group of figures, in a process of its own.

    python benchmarks/peers/subject.py PEER GROUP FILE [--quick]     (started by pools.py)

Knows: which class is which pool, which function measures which group.
Does not know: rounds, other pools, tables.
Invariants: FILE has every figure that was known when the process ended, however it ended; this
process never waits for a pool that does not close.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fsmv2.ipc.linux import die_with_parent
from peers import hurt, measure
from peers.face import Peer
from peers.raw import FLOORS

# In the order of the tables. Modules are named and not imported: one process, one pool.
CLASSES = {
    "fsmv2": "peers.ours:Ours",
    "ProcessPoolExecutor": "peers.executors:StandardExecutor",
    "multiprocessing.Pool": "peers.sharedpools:StandardPool",
    "multiprocess.Pool": "peers.sharedpools:Multiprocess",
    "pebble": "peers.pebblepool:Pebble",
    "billiard": "peers.sharedpools:Billiard",
    "loky": "peers.executors:Loky",
}
GROUPS = {
    "speed": measure.speed,
    "start": measure.start,
    "hangs": hurt.hangs,
    "deaths": hurt.deaths,
    "kills": hurt.kills,
}


def peer_class(name: str) -> type[Peer]:
    """The class that stands for the pool ``name``."""
    module, _, attribute = CLASSES[name].partition(":")
    found: type[Peer] = getattr(importlib.import_module(module), attribute)
    return found


def main() -> None:
    """Measure, write, end without looking back."""
    name, group, path = sys.argv[1:4]
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    size = measure.QUICK if "--quick" in sys.argv[4:] else measure.Size()
    known: dict[str, Any] = {}

    def record(figure: str, value: Any) -> None:
        known[figure] = value
        Path(path + ".new").write_text(json.dumps(known))
        os.replace(path + ".new", path)

    code = 0
    peer = None
    try:
        if name in FLOORS:
            for figure, value in FLOORS[name](size.round_trips * 2).items():
                record(figure, value)
        else:
            peer = peer_class(name)()
            if peer.distribution:
                importlib.import_module(peer.distribution)
            GROUPS[group](peer, size, record)
    except BaseException:
        traceback.print_exc()
        code = 1
    if peer is not None:
        peer.close_within(2.0)
    os._exit(code)


if __name__ == "__main__":
    main()
