"""Line charts of the page as inline SVG.

They take their colours from the page's style and follow its light and dark theme; colours in matplotlib's SVG are
fixed. Text remains text, points have titles, and no script is needed, so the page is self-contained.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
_COLOURS, _DIGIT = 8, 7  # of the page's style: number of curve colours, width of a digit
_TICKS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """A named curve.

    Attributes:
        name: the name of the curve.
        points: (x, y) from left to right.
        colour: its number; after eight, the colours repeat, with dashed lines.
        spreads: spread of each point, drawn above and below it; may be empty.
        words: description of each point; may be empty.
        joined: whether a line joins the points; otherwise they are hollow.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    spreads: Sequence[float] = ()
    words: Sequence[str] = ()
    joined: bool = True


def lines(
    curves: Sequence[Line], x_name: str, y_name: str, *, log: bool = False, names: bool = False, words: bool = False
) -> Markup:
    """Draw curves over a shared x axis.

    Args:
        curves: curves with at least one point in total.
        x_name: name of the x axis.
        y_name: name of the y axis.
        log: logarithmic x axis.
        names: write a legend below the chart.
        words: write the descriptions of points beside them, for joined curves.
    """
    xs = sorted({x for curve in curves for x, _ in curve.points})
    ys = [y + side * spread for curve in curves for (_, y), spread in _spreads(curve) for side in (-1, 1)]
    ticks = scale(min(ys), max(ys))
    low, high = ticks[0], ticks[-1]
    place = math.log if log else float

    def across(x: float) -> float:
        span = place(xs[-1]) - place(xs[0])
        fraction = (place(x) - place(xs[0])) / span if span else 0.5
        return round(_LEFT + 10 + fraction * (_WIDTH - _LEFT - _RIGHT - 20), 2)

    def up(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 2)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, _HEIGHT, f"{y_name} over {x_name}"
        )
    ]
    for tick in ticks:
        parts.append(_stroke("grid", _LEFT, up(tick), _WIDTH - _RIGHT, up(tick)))
        parts.append(_text(_LEFT - 6, up(tick) + 4, _number(tick), "end"))
    for x in _spread(xs, across):
        parts.append(_text(across(x), _HEIGHT - _BOTTOM + 16, _number(x), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_name, "middle"))
    for curve in curves:
        parts += _curve(curve, x_name, across, up, words=words)
    parts.append(Markup("</svg>"))
    if names:
        parts.append(legend([curve.name for curve in curves]))
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(y_name, Markup("").join(parts))


def legend(names: Sequence[str]) -> Markup:
    """Return a legend: names in the order of their colours."""
    keys = [Markup('<span><i class="key {}"></i>{}</span>').format(_style(i), name) for i, name in enumerate(names)]
    return Markup('<p class="legend">{}</p>').format(Markup("").join(keys))


def _curve(
    curve: Line, x_name: str, across: Callable[[float], float], up: Callable[[float], float], *, words: bool
) -> list[Markup]:
    """Draw a curve's line, whiskers, dots and words; the title of a dot is shown under the pointer."""
    style, parts = _style(curve.colour), []
    if curve.joined:
        path = " ".join(f"{across(x)},{up(y)}" for x, y in curve.points)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(style, path))
    for number, ((x, y), spread) in enumerate(_spreads(curve)):
        if spread:
            parts.append(_stroke(f"whisker {style}", across(x), up(y - spread), across(x), up(y + spread)))
        word = curve.words[number] if curve.words else ""
        label = ", ".join(filter(None, (curve.name, word, f"{x_name} {_number(x)}: {y:.4g}")))
        label += f" ± {spread:.2g}" if spread else ""
        parts.append(
            Markup('<circle class="{} {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
                "dot" if curve.joined else "ring",
                style,
                across(x),
                up(y),
                label,
            )
        )
        if words and word and curve.joined:
            side, anchor = (6, "start") if across(x) < _WIDTH / 2 else (-6, "end")
            parts.append(_text(across(x) + side, up(y) + (14 if side > 0 else -6), word, anchor))
    return parts


def _spreads(curve: Line) -> list[tuple[tuple[float, float], float]]:
    return list(zip(curve.points, curve.spreads or [0.0] * len(curve.points), strict=True))


def _style(colour: int) -> str:
    return f"c{colour % _COLOURS}" + (" again" if colour >= _COLOURS else "")


def _stroke(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(style, x1, y1, x2, y2)


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
    """Leave out ticks whose numbers would overlap the previous one."""
    kept: list[float] = []
    for x in xs:
        room = _DIGIT * (len(_number(x)) + len(_number(kept[-1]))) / 2 + 10 if kept else 0
        if not kept or across(x) - across(kept[-1]) >= room:
            kept.append(x)
    return kept


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))
