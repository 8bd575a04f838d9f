"""What every chart is drawn with: axes, lines and words, as SVG."""

import math
from dataclasses import dataclass

from pipeline.report.drawing.markup import Content, Markup, element


@dataclass(frozen=True)
class Axis:
    """From values to places: linear, or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Returns the place of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Returns three to seven round values on the axis."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
            return [value for value in found if self.low <= value <= self.high]
        step = 10 ** math.floor(math.log10(self.high - self.low))
        step *= next(m for m in (0.2, 0.5, 1, 2) if (self.high - self.low) / (m * step) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(values: list[float], start: float, stop: float, logarithmic: bool = False) -> Axis:
    """Returns an axis on which the values fit, with some room."""
    low, high = min(values), max(values)
    if logarithmic:
        return Axis(low / 1.4, high * 1.4, start, stop, True)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1
    return Axis(low - room, high + room, start, stop)


def legend(entries: list[tuple[str, str, bool]]) -> Markup:
    """Returns names of colours: (name, colour, dashed)."""
    return element(
        "ul",
        [
            element(
                "li",
                svg(28, 8, line(1, 4, 27, 4, line_class(dashed), style=stroke(colour, 2.4))),
                name,
            )
            for name, colour, dashed in entries
        ],
        class_="legend",
    )


def svg(width: float, height: float, parts: Content) -> Markup:
    """Returns a drawing that is as wide as its place."""
    return element("svg", parts, viewBox=f"0 0 {number(width)} {number(height)}", role="img")


def text(x: float, y: float, words: str, anchor: str | None = None, **attributes) -> Markup:
    """Returns words at a place."""
    return element("text", words, x=number(x), y=number(y), text_anchor=anchor, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str, **attributes) -> Markup:
    """Returns a straight line."""
    return element("line", x1=number(x1), y1=number(y1), x2=number(x2), y2=number(y2), class_=class_, **attributes)


def path(points: list[tuple[float, float]]) -> str:
    """Returns the `d` of a line through points."""
    return "M" + "L".join(f"{number(x)},{number(y)}" for x, y in points)


def short(value: float) -> str:
    """Returns a tick's value: 0.25, 40k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{round(value, 10):g}"


def stroke(colour: str, width: float) -> str:
    """Returns the style of a line in one of the page's colours."""
    return f"stroke:var(--{colour});stroke-width:{width:g}"


def line_class(dashed: bool) -> str:
    """Returns the class of a line."""
    return "line control" if dashed else "line"


def number(value: float) -> str:
    """Returns a place in a drawing, to a tenth."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
