"""Tables of figures as Markdown, the place in a document where they belong, where they come from.

Knows: Markdown's tables, the two comment lines between which a benchmark's figures stand, what
of the machine a reader must know to compare figures.
Does not know: any benchmark.
Invariants: `put` changes nothing outside of the two lines.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path


def surroundings(load_before: float) -> str:
    """What the figures of a run that ends now were measured with."""
    return (
        f"Python {platform.python_version()}, Linux {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores, load {load_before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after"
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the head."""
    head, *body = [[cell.strip().replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def plain_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same for a terminal."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    ruler = ["-" * width for width in widths]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [rows[0], ruler, *rows[1:]]
    ]


def put(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between ``<!-- NAME: figures -->`` and ``<!-- NAME: end -->``.

    Raises ValueError when the document does not have each of them once, in this order.
    """
    begin, end = f"<!-- {name}: figures -->", f"<!-- {name}: end -->"
    text = path.read_text("utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"cannot put figures into {path}: want one line {begin}, below it {end}")
    above, below = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    path.write_text(above + "\n\n" + "\n".join(lines) + "\n\n" + below, "utf-8")
