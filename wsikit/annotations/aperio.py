"""Aperio ImageScope XML: layers (``Annotation``) with a colour, regions with vertices in level-0 pixels.

A layer's class is its Name or, as ImageScope has it where that is empty, the name of its first attribute. Holes are
regions with NegativeROA="1". Type 2 with two vertices is the ellipse in the box that they span, Type 1 the box, other
pairs are lines (arrow, ruler); one vertex is a point. LineColor is blue * 65536 + green * 256 + red.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import ClassVar

import shapely

from wsikit.annotations.annotations import Annotations, Color, Item, Placement, gather
from wsikit.annotations.shapes import Hole, cut_holes, ellipse, line, polygon, rectangle
from wsikit.annotations.xml_tree import numbers, read_tree
from wsikit.errors import AnnotationError

RECTANGLE, ELLIPSE = "1", "2"


class AperioXML:
    """``.xml`` of Aperio ImageScope."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return b"<Annotations" in head and b"<ASAP_Annotations" not in head

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a file; every region is an annotation. Raises AnnotationError for what is no Aperio XML."""
        root = read_tree(path)
        if root.tag != "Annotations":
            raise AnnotationError(f"{path.name} is no Aperio XML: its root is {root.tag!r}, not 'Annotations'")
        items: list[Item] = []
        colors: dict[str, Color] = {}
        notes: list[str] = []
        for layer in root.iter("Annotation"):
            label, color = _layer_name(layer), _color(path, layer.get("LineColor"))
            if label is not None and color is not None:
                colors.setdefault(label, color)
            own = color if label is None or colors.get(label) != color else None
            found, holes = _regions(path, layer, label, own)
            notes += cut_holes(found, holes)
            items += found
        return gather(items, colors, notes)


def _layer_name(layer: ET.Element) -> str | None:
    attribute = layer.find("Attributes/Attribute")
    first = attribute.get("Name", "") if attribute is not None else ""
    if attribute is not None and first == "Description":  # what ImageScope calls it until somebody renames it
        first = attribute.get("Value", "")
    return layer.get("Name") or first or None


def _color(path: Path, text: str | None) -> Color | None:
    if not text:
        return None
    try:
        value = int(float(text))
    except (ValueError, OverflowError) as error:
        raise AnnotationError(f"{path.name}: LineColor must be a whole number, got {text!r}") from error
    return value & 255, value >> 8 & 255, value >> 16 & 255


def _regions(path: Path, layer: ET.Element, label: str | None, color: Color | None) -> tuple[list[Item], list[Hole]]:
    items: list[Item] = []
    holes: list[Hole] = []
    for region in layer.iter("Region"):
        where = f"{path.name}, layer {layer.get('Id', '?')}, region {region.get('Id', '?')}"
        shape = _shape(path, region, where)
        if region.get("NegativeROA") == "1":
            if not isinstance(shape, shapely.Polygon):
                raise AnnotationError(f"{where}: a negative region must be an area, got a {shape.geom_type}")
            holes.append(Hole(shape, len(items), where))
        else:
            items.append(Item("annotation", shape, label, region.get("Text", ""), color))
    return items, holes


def _shape(path: Path, region: ET.Element, where: str) -> shapely.Geometry:
    vertices = region.findall("Vertices/Vertex") or region.findall("Vertices/V")
    xy = numbers(path, vertices, ("X", "Y"))
    if len(xy) == 1:
        return shapely.Point(xy[0])
    if len(xy) == 2 and region.get("Type") == ELLIPSE:
        return ellipse([*xy[0], *xy[1]], where)
    if len(xy) == 2 and region.get("Type") == RECTANGLE:
        return rectangle([*xy[0], *xy[1]], where)
    return line(xy, where) if len(xy) == 2 else polygon([xy], where)
