"""Aperio ImageScope XML: layers (``Annotation``) with a colour, regions with vertices in level-0 pixels.

A layer's class is its Name or, as ImageScope has it where that is empty, the name of its first attribute. Holes are
regions with NegativeROA="1". Type 2 with two vertices is the ellipse in the box that they span, Type 1 the box, other
pairs are lines (arrow, ruler); one vertex is a point. LineColor is blue * 65536 + green * 256 + red. HALO's
``.annotations`` files are of the same make, with words for types.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import shapely

from wsikit.annotations.annotations import Annotations, Color, Item, Placement, Written, gather
from wsikit.annotations.flat import LeftOut, single_parts, xml_text
from wsikit.annotations.shapes import Hole, cut_holes, dots, ellipse, encloses, line, polygon, rectangle
from wsikit.annotations.xml_tree import numbers, read_tree, xml_bytes
from wsikit.errors import AnnotationError

RECTANGLE, ELLIPSE = ("1", "Rectangle"), ("2", "Ellipse")
POLYGON, RULER, PIN = "0", "4", "5"
"""Types that are written; readers go by the number of vertices."""
DRAWN: Color = (0, 255, 0)
"""ImageScope's own colour, for objects without class and colour."""


class AperioXML:
    """``.xml`` of Aperio ImageScope, ``.annotations`` of HALO."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml", ".annotations")

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return b"<Annotations" in (text := head.replace(b"\0", b"")) and b"<ASAP_Annotations" not in text

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
            own = None if color == (DRAWN if label is None else colors.get(label)) else color
            found, holes, empty = _regions(path, layer, label, own)
            notes += [*cut_holes(found, holes), *empty]
            items += found
        return gather(items, colors, notes)

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """One layer per class, and more where objects have colours of their own; holes follow their region."""
        left_out = LeftOut()
        left_out.lacking(annotations.items(), "kind", "locks", "measurements", "nuclei")
        layers: dict[tuple[str, Color], list[Item]] = {(label.name, label.color): [] for label in annotations.labels}
        class_colors = {label.name: label.color for label in annotations.labels}
        for item in single_parts(annotations.items(), left_out, multipoints=False):
            if isinstance(item.geometry, shapely.LineString) and len(item.geometry.coords) > 2:
                left_out["lines with more than two points: left out"] += 1
                continue
            name = item.label or ""
            layers.setdefault((name, item.color or class_colors.get(name, DRAWN)), []).append(item)
        root = ET.Element("Annotations", {"MicronsPerPixel": f"{placement.mpp:.6f}"} if placement.mpp else {})
        for number, ((name, color), items) in enumerate(layers.items(), 1):
            layer = _layer(root, number, xml_text(name, left_out), color)
            for item in items:
                _add(layer, item, xml_text(item.name, left_out))
        return Written(xml_bytes(root), left_out.sentences())


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


def _regions(
    path: Path, layer: ET.Element, label: str | None, color: Color | None
) -> tuple[list[Item], list[Hole], list[str]]:
    """The objects of a layer, its holes, and a sentence for each region that is nothing: a stray click."""
    items: list[Item] = []
    holes: list[Hole] = []
    empty: list[str] = []
    for region in layer.iter("Region"):
        where = f"{path.name}, layer {layer.get('Id', '?')}, region {region.get('Id', '?')}"
        shape = _shape(path, region, where)
        if shape is None:
            empty.append(f"{where} encloses nothing: left out")
        elif region.get("NegativeROA") == "1":
            if not isinstance(shape, shapely.Polygon):
                raise AnnotationError(f"{where}: a negative region must be an area, got a {shape.geom_type}")
            holes.append(Hole(shape, len(items), where))
        else:
            items.append(Item("annotation", shape, label, region.get("Text", ""), color))
    return items, holes, empty


def _shape(path: Path, region: ET.Element, where: str) -> shapely.Geometry | None:
    vertices = region.findall("Vertices/Vertex") or region.findall("Vertices/V")
    xy = numbers(path, vertices, ("X", "Y"))
    if len(xy) == 1:
        return dots(xy, where)
    if len(xy) == 2 and region.get("Type") in ELLIPSE:
        return ellipse([*xy[0], *xy[1]], where)
    if len(xy) == 2 and region.get("Type") in RECTANGLE:
        return rectangle([*xy[0], *xy[1]], where)
    if len(xy) == 2:
        return line(xy, where)
    return polygon([xy], where) if encloses(xy) else None


def _layer(root: ET.Element, number: int, name: str, color: Color) -> ET.Element:
    red, green, blue = color
    facts = {"Id": str(number), "Name": name, "ReadOnly": "0", "Type": "4", "Visible": "1", "Selected": "0"}
    layer = ET.SubElement(root, "Annotation", {**facts, "LineColor": str(blue << 16 | green << 8 | red)})
    ET.SubElement(layer, "Attributes")
    return ET.SubElement(layer, "Regions")


def _add(layer: ET.Element, item: Item, text: str) -> None:
    shape = item.geometry
    if isinstance(shape, shapely.Polygon):
        _region(layer, shape.exterior.coords[:-1], POLYGON, text)
        for hole in shape.interiors:
            _region(layer, hole.coords[:-1], POLYGON, "", negative=True)
    else:
        _region(layer, list(shape.coords), PIN if isinstance(shape, shapely.Point) else RULER, text)


def _region(layer: ET.Element, xy: Sequence[tuple[float, ...]], kind: str, text: str, negative: bool = False) -> None:
    number = str(len(layer) + 1)
    facts = {"Id": number, "Type": kind, "Zoom": "1", "Selected": "0", "Text": text, "InputRegionId": "0"}
    region = ET.SubElement(
        layer, "Region", {**facts, "NegativeROA": str(int(negative)), "Analyze": "1", "DisplayId": number}
    )
    ET.SubElement(region, "Attributes")
    vertices = ET.SubElement(region, "Vertices")
    for x, y in xy:
        ET.SubElement(vertices, "Vertex", {"X": repr(x), "Y": repr(y)})
