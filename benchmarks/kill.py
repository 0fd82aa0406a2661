"""How soon a slot works again after its action hung.

    python benchmarks/kill.py [--kills 60]

One slot, two spares. Each round submits an action that loops for ever and, behind it, one that
does nothing. Printed, in milliseconds after the deadline: when the spare had the slot, when the
next action began on it, when its result was in the caller's hands. Figures of one run on one
machine.
"""

from __future__ import annotations

import argparse
import os
import time

from fsmv2.supervisor import Action, ActionContext, ActionPool

TIMEOUT_S = 0.05


class Spin(Action, frozen=True):
    """Hangs."""

    timeout_s = TIMEOUT_S

    def execute(self, ctx: ActionContext) -> None:
        while True:
            pass


class Nothing(Action, frozen=True):
    """Tells when it began."""

    def execute(self, ctx: ActionContext) -> float:
        return time.time()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    kills = parser.parse_args().kills
    rows: dict[str, list[float]] = {"slot back": [], "next begins": [], "next is told": []}
    with ActionPool(procs=1, spares=2) as pool:
        pool.run(Nothing())
        for _ in range(kills):
            time.sleep(0.1)  # both spares are there again
            hung, following = pool.submit(Spin()), pool.submit(Nothing())
            result, after = hung.result(), following.result()
            told = time.time()
            certificate = result.certificate
            assert certificate is not None
            assert certificate.started_at is not None
            deadline = certificate.started_at + TIMEOUT_S
            rows["slot back"].append(certificate.slot_back_s or 0.0)
            rows["next begins"].append(after.value - deadline)
            rows["next is told"].append(told - deadline)
    print(f"{kills} kills of a busy loop, load {os.getloadavg()[0]:.1f}; after the deadline:")
    for name, values in rows.items():
        ordered = sorted(value * 1000 for value in values)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        print(f"{name:<14} p50 {ordered[len(ordered) // 2]:6.2f} ms   p99 {p99:6.2f} ms")


if __name__ == "__main__":
    main()
