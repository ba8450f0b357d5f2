"""ASAP XML: annotations of a type, each part of a group that is its class; coordinates in level-0 pixels.

ASAP has no holes. By convention they are annotations of a group of their own: one called ``<class> (hole)`` inside the
group of the class, which is what wsikit writes, or ``_2`` (CAMELYON16) or ``Exclusion``. A hole is cut out of the
annotation before it where that covers it, else out of the smallest that does.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import shapely

from wsikit.annotations.annotations import Annotations, Color, Item, Placement, Written, gather
from wsikit.annotations.colors import hex_color, parse_color
from wsikit.annotations.flat import LeftOut, single_parts, xml_text
from wsikit.annotations.shapes import Hole, cut_holes, dots, encloses, line, polygon
from wsikit.annotations.xml_tree import numbers, read_tree, xml_bytes
from wsikit.errors import AnnotationError

HOLE = "(hole)"
"""What the name of a group of holes ends in."""
EXCLUSIONS = ("_2", "Exclusion")
"""Groups that mean holes in published data."""
NO_GROUP = "None"
DRAWN: Color = (244, 250, 88)
"""ASAP's own colour, #F4FA58, for objects without class and colour."""


class ASAPXML:
    """``.xml`` of ASAP."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return b"<ASAP_Annotations" in head.replace(b"\0", b"")

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a file; all are annotations. Raises AnnotationError for what is no ASAP XML."""
        root = read_tree(path)
        if root.tag != "ASAP_Annotations":
            raise AnnotationError(f"{path.name} is no ASAP XML: its root is {root.tag!r}, not 'ASAP_Annotations'")
        groups = {group.get("Name", ""): group for group in root.iter("Group")}
        colors = {
            name: color
            for name, group in groups.items()
            if not _means_hole(name) and (color := parse_color(group.get("Color"), f"{path.name}: Color")) is not None
        }
        items: list[Item] = []
        holes: list[Hole] = []
        notes: Counter[str] = Counter()
        for number, annotation in enumerate(root.iter("Annotation")):
            where = f"{path.name}, annotation {number} ({annotation.get('Name', '')!r})"
            shape = _shape(path, annotation, where, notes)
            group = annotation.get("PartOfGroup", NO_GROUP)
            if shape is None:
                notes["areas with fewer than 3 corners: left out"] += 1
            elif not _means_hole(group):
                items.append(_item(annotation, number, shape, group, colors, where))
            elif isinstance(shape, shapely.Polygon):
                holes.append(Hole(shape, len(items), where))
            else:
                raise AnnotationError(f"{where} is part of {group!r}, which means a hole, and is a {shape.geom_type}")
        nested = [n for n, g in groups.items() if g.get("PartOfGroup", NO_GROUP) != NO_GROUP and not _means_hole(n)]
        notes["groups inside groups: read, the tie to the outer group left out"] += len(nested)
        said = [*cut_holes(items, holes), *(f"{n} x {what}" for what, n in notes.items() if n)]
        return gather(items, colors, said)

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """One group per class; holes follow their annotation, in a group inside that of the class."""
        left_out = LeftOut()
        left_out.lacking(annotations.items(), "kind", "locks", "measurements", "nuclei")
        reserved = [label.name for label in annotations.labels if _means_hole(label.name) or label.name == NO_GROUP]
        left_out["classes whose name means something else in ASAP (None, or holes)"] += len(reserved)
        root = ET.Element("ASAP_Annotations")
        listed = ET.SubElement(root, "Annotations")
        colors = {label.name: label.color for label in annotations.labels}
        pierced: dict[str, None] = {}
        for item in single_parts(annotations.items(), left_out, multipoints=True):
            if isinstance(item.geometry, shapely.LineString) and len(item.geometry.coords) > 2:
                left_out["lines with more than two points: left out"] += 1
                continue
            group = xml_text(item.label or NO_GROUP, left_out)
            _add(listed, item, group, item.color or colors.get(item.label or "", DRAWN), left_out)
            if isinstance(item.geometry, shapely.Polygon) and item.geometry.interiors:
                pierced[group] = None
        groups = ET.SubElement(root, "AnnotationGroups")
        for name, color in colors.items():
            _group(groups, xml_text(name, LeftOut()), NO_GROUP, color)
        for name in pierced:
            _group(groups, _hole_group(name), name, (0, 0, 0))
        return Written(xml_bytes(root), left_out.sentences())


def _means_hole(group: str) -> bool:
    return group.endswith(HOLE) or group in EXCLUSIONS


def _hole_group(group: str) -> str:
    return HOLE if group == NO_GROUP else f"{group} {HOLE}"


def _item(
    annotation: ET.Element, number: int, shape: shapely.Geometry, group: str, colors: dict[str, Color], where: str
) -> Item:
    label = None if group in (NO_GROUP, "") else group
    color = parse_color(annotation.get("Color"), where)
    if color is not None and label is not None:
        colors.setdefault(label, color)
    own = None if color == (DRAWN if label is None else colors.get(label)) else color
    name = annotation.get("Name", "")
    return Item("annotation", shape, label, "" if name == _automatic(number) else name, own)


def _automatic(number: int) -> str:
    """The name that ASAP itself gives."""
    return f"Annotation {number}"


def _shape(path: Path, annotation: ET.Element, where: str, notes: Counter[str]) -> shapely.Geometry | None:
    kind = annotation.get("Type", "")
    points = annotation.findall("Coordinates/Coordinate")
    if all(point.get("Order", "").isdecimal() for point in points):
        points.sort(key=lambda point: float(point.attrib["Order"]))
    xy = numbers(path, points, ("X", "Y"))
    if kind in ("Dot", "PointSet"):
        found = dots(xy, where)
        return shapely.MultiPoint([found]) if kind == "PointSet" and isinstance(found, shapely.Point) else found
    if kind == "Measurement":
        return line(xy, where)
    if kind not in ("Polygon", "Rectangle", "Spline"):
        raise AnnotationError(f"{where}: type must be Polygon, Rectangle, Spline, Dot or PointSet, got {kind!r}")
    notes["splines: straight between their points"] += kind == "Spline"
    return polygon([xy], where) if encloses(xy) else None


def _group(groups: ET.Element, name: str, inside: str, color: Color) -> None:
    group = ET.SubElement(groups, "Group", {"Name": name, "PartOfGroup": inside, "Color": hex_color(color)})
    ET.SubElement(group, "Attributes")


TYPES = {shapely.Point: "Dot", shapely.MultiPoint: "PointSet", shapely.LineString: "Measurement"}


def _add(listed: ET.Element, item: Item, group: str, color: Color, left_out: LeftOut) -> None:
    shape, name = item.geometry, xml_text(item.name, left_out)
    if not isinstance(shape, shapely.Polygon):
        xy = shapely.get_coordinates(shape).tolist()
        _annotation(listed, name, TYPES[type(shape)], group, color, xy)
        return
    _annotation(listed, name, "Polygon", group, color, shape.exterior.coords[:-1])
    for hole in shape.interiors:
        _annotation(listed, "", "Polygon", _hole_group(group), (0, 0, 0), hole.coords[:-1])


def _annotation(
    listed: ET.Element, name: str, kind: str, group: str, color: Color, xy: Sequence[Sequence[float]]
) -> None:
    facts = {"Name": name or _automatic(len(listed)), "Type": kind, "PartOfGroup": group, "Color": hex_color(color)}
    coordinates = ET.SubElement(ET.SubElement(listed, "Annotation", facts), "Coordinates")
    for order, (x, y) in enumerate(xy):
        ET.SubElement(coordinates, "Coordinate", {"Order": str(order), "X": repr(x), "Y": repr(y)})
