"""Charts as SVG, of the width of a phone; colours are the page's own."""

import math
from dataclasses import dataclass

from pipeline.report.drawing.markup import Content, Markup, element
from pipeline.report.drawing.svg import Axis, axis, line, line_class, number, path, short, stroke, svg, text

WIDTH, HEIGHT = 340, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 22, 34


@dataclass(frozen=True)
class Series:
    """A line, or marks.

    Attributes:
        label: Shown when pointed at.
        points: x and y; y of NaN is left out.
        colour: Of the page's style, as "v".
        width: Of the line; 0: marks alone.
        dashed: For controls.
        marks: Radius of a dot at each point; 0: none.
        hollow: The dots are rings.
        bars: Half the length of an error bar at each point.
        names: Written beside the points.
    """

    label: str
    points: list[tuple[float, float]]
    colour: str
    width: float = 1.4
    dashed: bool = False
    marks: float = 0
    hollow: bool = False
    bars: tuple[float | None, ...] = ()
    names: tuple[str, ...] = ()


def chart(
    title: str, description: str, series: list[Series], x_label: str, y_label: str, *, log_x=False, x_ticks=None
) -> Markup:
    """Returns lines or marks over two axes.

    Args:
        title: Above the chart.
        description: For those who do not see it.
        series: What is drawn, the first at the bottom.
        x_label: Below.
        y_label: On the left, as text at the top.
        log_x: Whether x is logarithmic.
        x_ticks: Values to name, instead of round ones.
    """
    drawn = [
        (one, [(n, x, y) for n, (x, y) in enumerate(one.points) if not (math.isnan(x) or math.isnan(y))])
        for one in series
    ]
    xs = [x for _, points in drawn for _, x, _ in points] + list(x_ticks or ())
    ys = [y + d for one, points in drawn for n, _, y in points for d in _reach(one, n)]
    if not ys:
        return element("p", f"{title}: no values.", class_="note")
    x_axis, y_axis = axis(xs, _LEFT, WIDTH - _RIGHT, log_x), axis(ys, HEIGHT - _BOTTOM, _TOP + 6)
    parts: list[Content] = [
        element("title", f"{title}: {y_label} against {x_label}"),
        element("desc", description),
        text(_LEFT, 11, title, class_="head"),
        text(WIDTH - _RIGHT, 11, y_label, "end"),
        text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 4, x_label, "middle"),
    ]
    for value in y_axis.ticks():
        y = y_axis.at(value)
        parts += [line(_LEFT, y, WIDTH - _RIGHT, y, "grid"), text(_LEFT - 5, y + 3.4, short(value), "end")]
    for value in x_ticks or x_axis.ticks():
        x = x_axis.at(value)
        parts += [line(x, HEIGHT - _BOTTOM, x, HEIGHT - _BOTTOM + 4, "axis")]
        parts.append(text(x, HEIGHT - _BOTTOM + 15, short(value), "middle"))
    parts.append(line(_LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM, "axis"))
    for one, points in drawn:
        parts.append(_draw(one, [(n, x_axis.at(x), y_axis.at(y)) for n, x, y in points], y_axis))
    parts += _names(
        [(x_axis.at(x), y_axis.at(y), one.names[n]) for one, found in drawn if one.names for n, x, y in found],
        [(x_axis.at(x), y_axis.at(y)) for one, found in drawn if one.marks for _, x, y in found],
    )
    return svg(WIDTH, HEIGHT, parts)


def heat_map(
    title: str, description: str, rows: list[str], columns: list[str], cells: dict[tuple[int, int], tuple], x_label: str
) -> Markup:
    """Returns a table of shaded cells.

    Args:
        title: Above.
        description: For those who do not see it.
        rows: Names, from the top.
        columns: Names.
        cells: (row, column) -> (shade 0 to 1, text in the cell, text when pointed at).
        x_label: What the columns are.
    """
    left = min(110, 12 + 5.6 * max(map(len, rows)))
    below = min(80, 12 + 5.2 * max(map(len, columns))) if max(map(len, columns)) > 3 else 14
    size = min(34.0, (WIDTH - left - 4) / len(columns))
    height = 20 + size * len(rows) + below + 16
    font = f"font-size:{min(10.0, max(3.0, size * 0.72)):.1f}px"
    parts: list[Content] = [element("title", title), element("desc", description), text(0, 11, title, class_="head")]
    for n, name in enumerate(rows):
        parts.append(text(left - 4, 20 + size * (n + 0.5) + 3, name, "end", style=font))
    for n, name in enumerate(columns):
        x, y = left + size * (n + 0.5), 20 + size * len(rows) + 11
        if below > 14:
            turned = f"rotate(-90 {x:.1f} {y:.1f}) translate(4 3)"
            parts.append(text(x, y, name, "end", transform=turned, style=font))
        else:
            parts.append(text(x, y, name, "middle", style=font))
    parts.append(text(left + size * len(columns) / 2, height - 3, x_label, "middle"))
    frame = {"x": f"{left:.1f}", "y": 20, "width": f"{size * len(columns):.1f}", "height": f"{size * len(rows):.1f}"}
    for (row, column), (shade, inside, pointed) in cells.items():
        x, y = left + size * column, 20 + size * row
        place = {"x": number(x), "y": number(y), "width": number(size), "height": number(size)}
        square = element("rect", element("title", pointed), **place, style=f"fill:rgba(var(--heat),{shade:.2f})")
        parts.append(square)
        if inside and size >= 14:
            ink = "fill:#fff" if shade > 0.6 else "fill:var(--ink)"
            style = f"{ink};font-size:{min(9.5, size * 0.36):.1f}px;pointer-events:none"
            parts.append(text(x + size / 2, y + size / 2 + 3, inside, "middle", style=style))
    parts.append(element("rect", **frame, class_="axis"))
    return svg(WIDTH, height, parts)


def _draw(one: Series, places: list[tuple[int, float, float]], y_axis: Axis) -> Markup:
    parts: list[Content] = [element("title", one.label)]
    if one.width and len(places) > 1:
        d = path([(x, y) for _, x, y in places])
        parts.append(element("path", d=d, class_=line_class(one.dashed), style=stroke(one.colour, one.width)))
    for n, x, y in places:
        below, above = _reach(one, n)
        if above:
            unit = (y_axis.stop - y_axis.start) / (y_axis.high - y_axis.low)
            parts.append(line(x, y + below * unit, x, y + above * unit, "line", style=stroke(one.colour, 1)))
        if one.marks or len(places) == 1:
            fill = "var(--paper)" if one.hollow else f"var(--{one.colour})"
            style = f"{stroke(one.colour, 1.4)};fill:{fill}"
            parts.append(element("circle", cx=number(x), cy=number(y), r=one.marks or 2, style=style))
    return element("g", parts)


def _names(places: list[tuple[float, float, str]], marks: list[tuple[float, float]]) -> list[Markup]:
    """Returns names beside their points, each where it covers no mark and no earlier name, if there is such a place."""
    taken = [(x - 4, x + 4, y + 4) for x, y in marks]  # left, right, baseline
    parts = []
    for x, y, name in places:
        width = 5.6 * len(name)
        offered = [
            (left, baseline)
            for down in (-5, 13, 4, -16, 24, -27, 35)
            for left, baseline in ((x + 7, y + down), (x - 7 - width, y + down))
            if left > _LEFT and left + width < WIDTH - 2 and baseline > _TOP
        ]
        free = [place for place in offered if not any(_overlap(place, width, other) for other in taken)]
        left, baseline = (free or offered or [(x, y)])[0]
        taken.append((left, left + width, baseline))
        parts.append(text(left, baseline, name, class_="here"))
    return parts


def _overlap(place: tuple[float, float], width: float, other: tuple[float, float, float]) -> bool:
    left, baseline = place
    return left < other[1] and other[0] < left + width and abs(baseline - other[2]) < 10


def _reach(one: Series, n: int) -> tuple[float, float]:
    half = one.bars[n] if one.bars and one.bars[n] is not None else 0.0
    return -half, half
