"""The readings of this machine, for `fsmv2 doctor`: what is found, where, and what is missing.

Knows: how two looks are taken without a pool, how readings are written for people.
Does not know: supervisors; nothing that runs is looked at.
Invariants: read-only; takes `BETWEEN_S` seconds and what two looks take.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence

from fsmv2.supervisor.core.readings import MACHINE_NAMES, Facts, Reading, readings_of
from fsmv2.supervisor.probe.looks import look_at_disk, look_at_machine

BETWEEN_S = 0.25


def look_twice(proc: str = "/proc") -> list[Reading]:
    """All readings of the machine as this process may use it, and of the folder where a root
    keeps large results."""
    before = look_at_machine(os.getpid(), {}, proc)
    time.sleep(BETWEEN_S)
    facts = look_at_machine(os.getpid(), {}, proc)
    disk: Facts = look_at_disk(tempfile.gettempdir())
    return [
        *readings_of(MACHINE_NAMES, facts, before).values(),
        *readings_of(tuple(disk.claims), disk, None).values(),
    ]


def value_text(reading: Reading) -> str:
    """The value with its unit, and the figures behind a share."""
    if reading.value is None:
        return "missing"
    match reading.unit:
        case "share":
            told = f"{reading.value:.1%}"
        case "1":
            told = f"{reading.value:.2f} per CPU"
        case unit:
            told = f"{reading.value:g} {unit}"
    if reading.limit is None or reading.used is None:
        return told
    return f"{told} ({_figure(reading.used)} of {_figure(reading.limit)})"


def _figure(number: float) -> str:
    if number >= 10 << 20:
        return f"{number / (1 << 20):,.0f} Mi"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.2f}"


def as_text(readings: Sequence[Reading]) -> str:
    """For people: a line each, with its source, or why it is missing."""
    width = max(len(each.name) for each in readings)
    texts = [value_text(each) for each in readings]
    value_width = max(map(len, texts))
    return "\n".join(
        f"{each.name:{width}}  {text:{value_width}}  {each.scope}: {each.missing or each.source}"
        for each, text in zip(readings, texts, strict=True)
    )
