"""Draws the figures of growth.py: three small plots beside each other, as an SVG.

Its colours are of middle lightness and there is no background, so that it can be read on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

WIDTH, HEIGHT = 900, 300
PANEL, GAP, LEFT, TOP, BOTTOM = 230, 70, 50, 60, 60
INK = "#7d838c"
COLOURS = {"standalone": "#2f81c9", "cluster": "#d0712a"}
NAMES = {"standalone": "one Redis", "cluster": "Cluster of 3 primaries"}

Line = dict[str, Any]
Curve = tuple[str, str, Callable[[Line], float | None]]  # topology, dashes, value


def draw(results: list[Line]) -> str:
    """The whole file. `results` are lines as growth.py writes them."""
    topologies = [name for name in COLOURS if any(line["topology"] == name for line in results)]
    panels = [
        ("Redis, all primaries, % of a core", [("", _value("redis_percent"))]),
        ("bytes a session", [("", _value("bytes_per_session"))]),
        ("offline lag, ms: p50 (dashed), p99", [("4 3", _value("p50_ms")), ("", _value("p99_ms"))]),
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
        "<title>Redis's processor time, memory and offline lag by the number of live sessions</title>",
    ]
    for number, topology in enumerate(topologies):
        x = LEFT + number * 150
        parts.append(f'<circle cx="{x}" cy="14" r="4" fill="{COLOURS[topology]}"/>')
        parts.append(f'<text x="{x + 10}" y="18" fill="{COLOURS[topology]}">{NAMES[topology]}</text>')
    for number, (title, values) in enumerate(panels):
        curves = [(topology, dashes, value) for topology in topologies for dashes, value in values]
        parts += _panel(LEFT + number * (PANEL + GAP), title, curves, results)
    return "\n".join([*parts, "</svg>", ""])


def _panel(x: int, title: str, curves: list[Curve], results: list[Line]) -> list[str]:
    height = HEIGHT - TOP - BOTTOM
    sizes = sorted({line["sessions"] for line in results})
    found = [value for _, _, take in curves for line in results if (value := take(line)) is not None]
    top = _round_up(max(found, default=1.0))
    low, span = math.log10(sizes[0]), max(0.1, math.log10(sizes[-1]) - math.log10(sizes[0]))

    def place(size: int, value: float) -> tuple[float, float]:
        return x + 12 + (PANEL - 24) * (math.log10(size) - low) / span, TOP + height * (1 - value / top)

    parts = [f'<text x="{x}" y="{TOP - 14}" font-weight="600">{title}</text>']
    for step in range(5):
        y = TOP + height * (1 - step / 4)
        parts.append(
            f'<line x1="{x}" y1="{y:.1f}" x2="{x + PANEL}" y2="{y:.1f}" stroke="{INK}" stroke-opacity="0.35"/>'
        )
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{top * step / 4:,g}</text>')
    for size in sizes:
        at = f'x="{place(size, 0)[0]:.1f}" text-anchor="middle"'
        beats = max(line["heartbeats_per_s"] for line in results if line["sessions"] == size)
        parts.append(f'<text {at} y="{TOP + height + 18}">{_name(size)}</text>')
        parts.append(f'<text {at} y="{TOP + height + 34}" font-size="10">{beats / 1000:.1f} k/s</text>')
    label = "live sessions; below, their heartbeats"
    parts.append(f'<text x="{x + PANEL / 2}" y="{TOP + height + 52}" text-anchor="middle">{label}</text>')
    for topology, dashes, take in curves:
        lines = sorted((line for line in results if line["topology"] == topology), key=lambda line: line["sessions"])
        points = [place(line["sessions"], value) for line in lines if (value := take(line)) is not None]
        path = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in points)
        stroke = f'stroke="{COLOURS[topology]}" stroke-width="2" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{path}" fill="none" {stroke}/>')
        parts += [
            f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="3" fill="{COLOURS[topology]}"/>' for at_x, at_y in points
        ]
    return parts


def _value(name: str) -> Callable[[Line], float | None]:
    return lambda line: line[name]


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten: its quarters are short numbers."""
    power = 10 ** math.floor(math.log10(value))
    return next(float(step * power) for step in (1, 2, 4, 8, 10) if step * power >= value)


def _name(size: int) -> str:
    return f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size // 1000} k"
