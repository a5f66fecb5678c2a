"""Line charts as inline SVG: colours come from the page's style, so they follow light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
_TICKS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """A named curve: points (x, y) from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


def lines(curves: Sequence[Line], x_name: str, y_name: str, *, log: bool = False, names: bool = True) -> Markup:
    """Draw curves over a shared x axis.

    Args:
        curves: up to four, at least one point in all.
        x_name: of the x axis.
        y_name: of the y axis.
        log: logarithmic x axis; the points' own x values are its ticks.
        names: write a legend below.
    """
    xs = sorted({x for curve in curves for x, _ in curve.points})
    ys = [y for curve in curves for _, y in curve.points]
    ticks = scale(min(ys), max(ys))
    low, high = ticks[0], ticks[-1]
    place = math.log if log else float

    def across(x: float) -> float:
        span = place(xs[-1]) - place(xs[0])
        share = (place(x) - place(xs[0])) / span if span else 0.5
        return round(_LEFT + 10 + share * (_WIDTH - _LEFT - _RIGHT - 20), 2)

    def up(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 2)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, _HEIGHT, f"{y_name} over {x_name}"
        )
    ]
    for tick in ticks:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, _WIDTH - _RIGHT, up(tick), up(tick)
            )
        )
        parts.append(_text(_LEFT - 6, up(tick) + 4, _number(tick), "end"))
    for x in _spread(xs, across):
        parts.append(_text(across(x), _HEIGHT - _BOTTOM + 16, _number(x), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_name, "middle"))
    for number, curve in enumerate(curves):
        points = [(across(x), up(y)) for x, y in curve.points]
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(Markup('<polyline class="line c{}" points="{}"/>').format(number, path))
        for (x, y), (real_x, real_y) in zip(points, curve.points, strict=True):
            label = f"{curve.name}, {x_name} {_number(real_x)}: {real_y:.4g}"
            parts.append(
                Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
                    number, x, y, label
                )
            )
    parts.append(Markup("</svg>"))
    if names:
        keys = [Markup('<span><i class="key c{}"></i>{}</span>').format(i, c.name) for i, c in enumerate(curves)]
        parts.append(Markup('<p class="legend">{}</p>').format(Markup("").join(keys)))
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(y_name, Markup("").join(parts))


def scale(low: float, high: float) -> list[float]:
    """Return round numbers, evenly spaced, from at or below `low` to at or above `high`.

    >>> scale(0.17, 0.98)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> scale(3, 3)
    [2.0, 2.5, 3.0, 3.5, 4.0]
    """
    if high <= low:
        low, high = low - 1, low + 1
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(tick * power for tick in _TICKS if tick * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _spread(xs: Sequence[float], across: Callable[[float], float]) -> list[float]:
    """Leave out ticks that would run into their neighbour."""
    kept: list[float] = []
    for x in xs:
        if not kept or across(x) - across(kept[-1]) >= 26:
            kept.append(x)
    return kept


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))
