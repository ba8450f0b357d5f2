"""Annotations of the Digital Slide Archive (large_image's JSON): elements in level-0 pixels.

An element's class is its ``group``, else its label; a name is a label beside a group. What the schema has no place for
(object type, lock, measurements) is kept in ``user``, the field that it leaves free.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import shapely

from wsikit.annotations.annotations import KINDS, Annotations, Color, Item, Placement, Written, gather
from wsikit.annotations.colors import hex_color, parse_color
from wsikit.annotations.flat import LeftOut, single_parts
from wsikit.annotations.geojson import load_json, measurements
from wsikit.annotations.shapes import coordinates, dots, ellipse, line, polygon, rectangle
from wsikit.errors import AnnotationError

DRAWN: Color = (0, 0, 0)
"""The colour that elements without one have."""


class DSAJSON:
    """``.json`` of the Digital Slide Archive: one annotation, one with its record, or a list of these."""

    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return b'"elements"' in head

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a file. Raises AnnotationError, naming the element, for what the schema does not allow."""
        document = load_json(path)
        items: list[Item] = []
        colors: dict[str, Color] = {}
        notes: Counter[str] = Counter()
        for annotation in document if isinstance(document, list) else [document]:
            inner = annotation.get("annotation", annotation) if isinstance(annotation, dict) else None
            elements = inner.get("elements") if isinstance(inner, dict) else None
            if not isinstance(elements, list):
                raise AnnotationError(
                    f"{path.name}: an annotation of the Digital Slide Archive needs a list 'elements'"
                )
            for number, element in enumerate(elements):
                where = f"{path.name}, element {number}"
                if not isinstance(element, dict):
                    raise AnnotationError(f"{where} must be an object, got {type(element).__name__}")
                shape = _shape(element, where)
                if shape is None:
                    notes[f"elements of type {element.get('type')!r}: left out"] += 1
                else:
                    items.append(_item(element, shape, colors, where))
        return gather(items, colors, [f"{n} x {what}" for what, n in notes.items()])

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """One annotation, named like the file."""
        left_out = LeftOut()
        left_out.lacking(annotations.items(), "nuclei")
        colors = {label.name: label.color for label in annotations.labels}
        parts = single_parts(annotations.items(), left_out, multipoints=False)
        elements = [_element(item, colors) for item in parts]
        return Written(orjson.dumps({"name": path.name.partition(".")[0], "elements": elements}), left_out.sentences())


def _shape(element: dict[str, Any], where: str) -> shapely.Geometry | None:
    """The geometry of an element; None for heat maps, images and the like."""
    try:
        match element.get("type"):
            case "point":
                return dots([element["center"]], where)
            case "polyline" if element.get("closed"):
                return polygon([element["points"], *(element.get("holes") or [])], where)
            case "polyline" | "arrow":
                return line(element["points"], where)
            case "rectangle":
                return rectangle(_bounds(element, "width", "height", where), where, float(element.get("rotation", 0)))
            case "ellipse":
                return ellipse(_bounds(element, "width", "height", where), where, float(element.get("rotation", 0)))
            case "circle":
                doubled = {**element, "radius": 2 * float(element["radius"])}
                return ellipse(_bounds(doubled, "radius", "radius", where), where)
            case _:
                return None
    except KeyError as error:
        raise AnnotationError(f"{where}: a {element['type']} needs {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{where}: a {element['type']} with a value of the wrong type: {error}") from error


def _bounds(element: dict[str, Any], width: str, height: str, where: str) -> list[float]:
    (x, y) = coordinates([element["center"]], where)[0]
    w, h = float(element[width]) / 2, float(element[height]) / 2
    return [x - w, y - h, x + w, y + h]


def _item(element: dict[str, Any], shape: shapely.Geometry, colors: dict[str, Color], where: str) -> Item:
    group = element.get("group") or None
    value = element["label"].get("value") if isinstance(element.get("label"), dict) else None
    user = element["user"] if isinstance(element.get("user"), dict) else {}
    label = group or (None if user.get("named") else value) or None
    kind = user.get("objectType", "annotation")
    color = parse_color(element.get("lineColor"), f"{where}: lineColor")
    fill = parse_color(element.get("fillColor"), f"{where}: fillColor") or color
    if label is not None and fill is not None:
        colors.setdefault(str(label), fill)
    expected = DRAWN if label is None else colors.get(str(label))
    return Item(
        kind if kind in KINDS else "annotation",
        shape,
        None if label is None else str(label),
        str(value) if value and (group or user.get("named")) else "",
        None if color == expected else color,
        user.get("isLocked") is True,
        measurements(user.get("measurements"), f"{where}: measurements"),
    )


def _element(item: Item, colors: dict[str, Color]) -> dict[str, Any]:
    shape = item.geometry
    fill = colors.get(item.label or "", DRAWN)
    user: dict[str, Any] = {} if item.kind == "annotation" else {"objectType": item.kind}
    user |= {"isLocked": True} if item.locked else {}
    user |= {"named": True} if item.name and not item.label else {}
    user |= {"measurements": dict(item.measurements)} if item.measurements else {}
    shade = "rgba({}, {}, {}, 0.2)".format(*fill)
    element: dict[str, Any] = {"lineColor": hex_color(item.color or fill), "fillColor": shade}
    element |= {"group": item.label} if item.label else {}
    element |= {"label": {"value": item.name}} if item.name else {}
    element |= {"user": user} if user else {}
    if isinstance(shape, shapely.Point):
        return {"type": "point", "center": _positions(shape)[0], **element}
    if isinstance(shape, shapely.LineString):
        return {"type": "polyline", "points": _positions(shape), "closed": False, **element}
    area = {"type": "polyline", "points": _positions(shape.exterior)[:-1], "closed": True}
    holes = [_positions(hole)[:-1] for hole in shape.interiors]
    return {**area, **({"holes": holes} if holes else {}), **element}


def _positions(shape: shapely.Geometry) -> list[list[float]]:
    xy = shapely.get_coordinates(shape)
    found: list[list[float]] = np.column_stack([xy, np.zeros(len(xy))]).tolist()
    return found
