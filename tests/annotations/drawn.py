"""Annotations of every kind for round trips, and a form of them that can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from hypothesis import strategies as st

from wsikit.annotations.annotations import KINDS, Annotations, Item, gather

CLASS_COLORS = ((200, 0, 0), (1, 2, 3), (255, 255, 255), (12, 120, 220))
OWN_COLORS = ((9, 8, 7), (250, 128, 1))
CELL = 60.0
"""Objects lie in squares of this side, in hundredths of which their corners are."""

texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")), min_size=1, max_size=8).filter(
    lambda text: text.strip() == text
)
# names that mean something else in ASAP; test_xml.py has them
class_names = texts.filter(lambda text: text not in ("None", "_2", "Exclusion") and not text.endswith("(hole)"))
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def boxes(draw: st.DrawFn, low: int = 0, high: int = 1900) -> shapely.Polygon:
    """A triangle or box on the grid of 0.01 px, with none, one or two holes."""
    x, y, w, h = (draw(st.integers(a, b)) / 100 for a, b in ((low, high), (low, high), (600, 1900), (600, 1900)))
    shell = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    if draw(st.booleans()):
        return shapely.Polygon(shell[:3])
    holes = [[(x + a, y + 1), (x + a + 1.25, y + 1), (x + a, y + 2.5)] for a in (1.0, 3.0)[: draw(st.integers(0, 2))]]
    return shapely.Polygon(shell, holes)


@st.composite
def geometries(draw: st.DrawFn) -> shapely.Geometry:
    position = st.tuples(st.integers(0, 4000), st.integers(0, 4000)).map(lambda xy: (xy[0] / 100, xy[1] / 100))
    kind = draw(st.sampled_from(["polygon", "polygon", "multipolygon", "point", "multipoint", "line"]))
    if kind == "polygon":
        return draw(boxes())
    if kind == "multipolygon":
        other = shapely.transform(draw(boxes()), lambda xy: xy + CELL)
        return shapely.MultiPolygon([draw(boxes()), other])
    if kind == "point":
        return shapely.Point(draw(position))
    xy = draw(st.lists(position, min_size=2, max_size=4, unique=True))
    return shapely.MultiPoint(xy) if kind == "multipoint" else shapely.LineString(xy)


@st.composite
def annotated(draw: st.DrawFn) -> Annotations:
    """Up to 5 objects, far from one another, so that no hole lies in another object."""
    classes = draw(st.lists(class_names, max_size=3, unique=True))
    colors = dict(zip(classes, CLASS_COLORS, strict=False))
    names = draw(st.lists(texts.filter(lambda t: t.isascii() and t.isalpha()), max_size=2, unique=True))
    items = []
    for k in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(KINDS))
        place = 4 * CELL * k
        shape = shapely.transform(draw(geometries()), lambda xy, place=place: xy + place)
        nucleus = None
        if kind == "cell" and isinstance(shape, shapely.Polygon) and draw(st.booleans()):
            nucleus = shapely.transform(draw(boxes()), lambda xy, place=place: xy + place)
        items.append(
            Item(
                kind,
                shape,
                draw(st.sampled_from([None, *classes])),
                draw(st.just("") | texts),
                draw(st.sampled_from([None, *OWN_COLORS])),
                draw(st.booleans()),
                {f"m {name}": draw(numbers) for name in names if draw(st.booleans())},
                nucleus,
            )
        )
    return gather(items, colors)


def text(shape: shapely.Geometry) -> str:
    """A geometry wherever its rings begin; to a millionth of a pixel, as offsets leave crumbs."""
    rounded = shapely.transform(shape, lambda xy: np.round(xy, 6))
    return str(shapely.normalize(rounded).wkt)


def comparable(items: Iterable[Item], colors: dict[str, Any]) -> Counter[tuple[Any, ...]]:
    """What must be equal of two sets of annotations: all but ids and order."""
    return Counter(
        (
            item.kind,
            text(item.geometry),
            item.label,
            colors.get(item.label or ""),
            item.name,
            item.color,
            item.locked,
            tuple(sorted(item.measurements.items())),
            None if item.nucleus is None else text(item.nucleus),
        )
        for item in items
    )


def of(annotations: Annotations) -> Counter[tuple[Any, ...]]:
    return comparable(annotations.items(), {label.name: label.color for label in annotations.labels})


def parts(item: Item) -> list[Item]:
    return [replace(item, geometry=part) for part in shapely.get_parts(item.geometry)]
