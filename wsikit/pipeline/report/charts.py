"""Inline SVG of the report: built as XML, so that whatever a name holds, the result is well-formed and harmless.

Sizes are in units of the viewBox, about a pixel on a desktop screen. Colours of text and lines come from the page's
style sheet (classes ``axis``, ``ink``, ``mark``), so that they follow light, dark and print.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from wsikit.pipeline.lettering import printable
from wsikit.pipeline.report.cohort import Measure, Point
from wsikit.pipeline.report.formats import counted, rgb

WIDTH, MARGIN = 460, 14
"""Of a distribution, and left and right of its axis."""
DOT = 5.0
"""Radius."""
DOT_BINS, BAR_BINS = 36, 20
"""About so many classes of the axis for dots, which want their own place, and for bars, which want company."""
MOST_DOTS = 9
"""In a pile; higher ones make the chart one of bars."""
FEWEST_DOTS = 3
"""Two slides are told by their range; a chart of them would show no more."""
PLOT = 96
"""Height of the bars."""
COLUMN = 26
"""Widest column of a composition, px."""

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Bins:
    """Equal classes of an axis, from round numbers to round numbers."""

    low: float
    step: float
    members: tuple[tuple[Point, ...], ...]
    """Points of each class, in order of their values."""

    @property
    def high(self) -> float:
        """Where the axis ends."""
        return self.low + self.step * len(self.members)

    @property
    def tallest(self) -> int:
        """Points in the fullest class."""
        return max(map(len, self.members))

    def edges(self, index: int) -> tuple[float, float]:
        """From and to of a class; the upper edge belongs to the next one, but for the last."""
        return self.low + index * self.step, self.low + (index + 1) * self.step


def binned(points: Sequence[Point], wanted: int) -> Bins:
    """Sort values into about ``wanted`` classes whose edges are round numbers. There must be a point."""
    low, high = (edge(point.value for point in points) for edge in (min, max))
    # equal values get an axis around them, not a single point
    step = nice_step((high - low or abs(high) or 1.0) / wanted)
    first = math.floor(low / step)
    count = max(1, math.floor(high / step) - first + 1)
    members: list[list[Point]] = [[] for _ in range(count)]
    for point in sorted(points, key=lambda point: point.value):
        members[min(max(math.floor(point.value / step) - first, 0), count - 1)].append(point)
    return Bins(first * step, step, tuple(map(tuple, members)))


def nice_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def distributions(measures: Sequence[Measure], unit: str, text: Format) -> list[tuple[Measure, Markup]]:
    """How each measure spreads over slides, in charts of one height; what says nothing has none.

    A slide is a dot that leads to its section; where there are too many they are counted in bars. The median is marked.
    """
    shown = [measure for measure in measures if len(measure.points) >= FEWEST_DOTS and not measure.background]
    height = max(map(_height, shown), default=0.0)
    return [(measure, distribution(measure, unit, text, height)) for measure in shown]


def _height(measure: Measure) -> float:
    """What its dots or bars need."""
    tallest = binned(measure.points, DOT_BINS).tallest
    return 2 * DOT * tallest if tallest <= MOST_DOTS else PLOT


def distribution(measure: Measure, unit: str, text: Format, height: float) -> Markup:
    """One measure over slides, dots or bars at most ``height`` high."""
    bins = binned(measure.points, DOT_BINS)
    dots = bins.tallest <= MOST_DOTS
    if not dots:
        bins = binned(measure.points, BAR_BINS)
    base = 24 + height
    svg = _svg(WIDTH, base + 24, _told(measure, unit, text))
    _axis(svg, bins, base, text)
    (_dots if dots else _bars)(svg, bins, base, rgb(measure.color), text)
    _median(svg, bins, base, measure.median or 0.0, text)
    return _markup(svg)


def _told(measure: Measure, unit: str, text: Format) -> str:
    """What a reader who does not see the chart should know of it."""
    low, median, high = (text(value or 0.0) for value in (measure.low, measure.median, measure.high))
    slides = counted(len(measure.points), "slide")
    return f"{measure.name}, {unit}, over {slides}: lowest {low}, median {median}, highest {high}"


def _svg(width: float, height: float, title: str) -> Element:
    svg = Element("svg", viewBox=f"0 0 {width:g} {height:g}", role="img")
    svg.set("aria-label", printable(title))
    return svg


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))  # ElementTree has escaped it


def _x(bins: Bins, value: float) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * (value - bins.low) / (bins.high - bins.low)


def _axis(svg: Element, bins: Bins, base: float, text: Format) -> None:
    _line(svg, "axis", MARGIN, base, WIDTH - MARGIN, base)
    step = nice_step((bins.high - bins.low) / 5)
    for index in range(math.ceil(bins.low / step - 1e-9), math.floor(bins.high / step + 1e-9) + 1):
        x = _x(bins, index * step)
        _line(svg, "axis", x, base, x, base + 4)
        _text(svg, x, base + 18, _round(text(index * step)))


def _round(said: str) -> str:
    """Without the zeros after the point that a round number does not need: 5.00 is 5, 20.0 % is 20 %."""
    return re.sub(r"\.0+\b|(\.\d*[1-9])0+\b", r"\1", said)


def _dots(svg: Element, bins: Bins, base: float, color: str, text: Format) -> None:
    for index, members in enumerate(bins.members):
        x = _x(bins, sum(bins.edges(index)) / 2)
        for height, point in enumerate(members):
            link = SubElement(svg, "a", href=f"#slide-{point.index}")
            circle = SubElement(link, "circle", cx=f"{x:.1f}", cy=f"{base - DOT - 1 - 2 * DOT * height:.1f}")
            circle.attrib |= {"r": f"{DOT - 0.4:g}", "fill": color}
            _title(circle, f"{point.name}: {text(point.value)}")


def _bars(svg: Element, bins: Bins, base: float, color: str, text: Format) -> None:
    for index, members in enumerate(bins.members):
        low, high = bins.edges(index)
        height = PLOT * len(members) / bins.tallest
        bar = _rectangle(svg, _x(bins, low) + 0.5, base - height, _x(bins, high) - _x(bins, low) - 1, height, color)
        _title(bar, f"{counted(len(members), 'slide')}: {text(low)} to {text(high)}")
    # there is no second axis: the fullest class gives the scale, on the side where the median is not
    right = _x(bins, statistics.median(point.value for point in chain(*bins.members))) < WIDTH / 2
    said = f"highest bar: {counted(bins.tallest, 'slide')}"
    _text(svg, WIDTH - MARGIN if right else MARGIN, 12, said, "end" if right else "start")


def _median(svg: Element, bins: Bins, base: float, value: float, text: Format) -> None:
    x = _x(bins, value)
    _line(svg, "mark", x, 18, x, base)
    anchor = "start" if x < WIDTH * 0.2 else "end" if x > WIDTH * 0.8 else "middle"
    _text(svg, x, 12, f"median {text(value)}", anchor).set("class", "ink")


def composition(measures: Sequence[Measure], text: Format) -> Markup:
    """A column per slide, filled with its shares and sorted by the first one: how the slides differ, at a glance."""
    shares: dict[int, list[tuple[Measure, Point]]] = {}
    for measure in measures:
        for point in measure.points:
            shares.setdefault(point.index, []).append((measure, point))
    columns = sorted(shares.values(), key=lambda parts: -parts[0][1].value)
    width = len(columns) * COLUMN
    svg = _svg(width, 100, f"Shares of {', '.join(measure.name for measure in measures)} of each slide")
    svg.attrib |= {"preserveAspectRatio": "none", "class": "columns", "style": f"max-width: {width}px"}
    for number, parts in enumerate(columns):
        _column(svg, number * COLUMN, parts, text)
    return _markup(svg)


def _column(svg: Element, x: float, parts: Sequence[tuple[Measure, Point]], text: Format) -> None:
    group, top = SubElement(svg, "g"), 0.0
    _title(group, "\n".join([parts[0][1].name, *(f"{m.name} {text(point.value)}" for m, point in parts)]))
    for measure, point in parts:
        height = 100 * point.value
        _rectangle(group, x + COLUMN * 0.06, top, COLUMN * 0.88, height, rgb(measure.color))
        top += height


def _line(svg: Element, kind: str, x0: float, y0: float, x1: float, y1: float) -> None:
    line = SubElement(svg, "line", x1=f"{x0:.1f}", y1=f"{y0:.1f}", x2=f"{x1:.1f}", y2=f"{y1:.1f}")
    line.set("class", kind)


def _rectangle(parent: Element, x: float, y: float, width: float, height: float, color: str) -> Element:
    size = {"width": f"{width:.2f}", "height": f"{height:.2f}"}
    return SubElement(parent, "rect", size, x=f"{x:.2f}", y=f"{y:.2f}", fill=color)


def _text(svg: Element, x: float, y: float, said: str, anchor: str = "middle") -> Element:
    text = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": "tick"})
    text.text = said
    return text


def _title(element: Element, said: str) -> None:
    SubElement(element, "title").text = "\n".join(map(printable, said.split("\n")))
