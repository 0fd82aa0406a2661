"""Lines in a picture: both axes logarithmic, as SVG text.

Knows: points, decades.
Does not know: what is drawn.
Invariants: pure; no library; every line is named beside its last point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 80, 190, 40, 50
COLOURS = ("#1f6feb", "#d29922", "#2da44e", "#cf222e", "#8250df", "#57606a")

Points = Sequence[tuple[float, float]]


def _decades(values: Sequence[float]) -> range:
    return range(
        math.floor(math.log10(min(values))),
        max(math.ceil(math.log10(max(values))), math.floor(math.log10(min(values))) + 1) + 1,
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def svg(title: str, across: str, up: str, lines: Mapping[str, Points]) -> str:
    """The picture. All coordinates must be above 0; raises ValueError without points."""
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError("cannot draw: got no points, want at least one")
    xs, ys = _decades([x for x, _ in points]), _decades([y for _, y in points])
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + wide * (math.log10(x) - xs[0]) / (xs[-1] - xs[0]),
            TOP + high * (1 - (math.log10(y) - ys[0]) / (ys[-1] - ys[0])),
        )

    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, 'font-size="15"'),
        _text(LEFT + wide / 2, HEIGHT - 10, across, 'text-anchor="middle"'),
        _text(LEFT - 8, TOP - 8, up, 'text-anchor="end"'),
    ]
    for power in xs:
        x, _ = at(10.0**power, 10.0 ** ys[0])
        parts.append(f'<path d="M{x:.1f} {TOP}V{TOP + high}" stroke="#d0d7de"/>')
        parts.append(_text(x, TOP + high + 16, f"{10.0**power:g}", 'text-anchor="middle"'))
    for power in ys:
        _, y = at(10.0 ** xs[0], 10.0**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + wide}" stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{10.0**power:g}", 'text-anchor="end"'))
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        spots = [at(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        x, y = spots[-1]
        parts.append(_text(x + 8, y + 4, name, f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>"]) + "\n"
