"""Points as a table: x, y, class, name, score and further numbers, in level-0 pixels or in micrometres."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import shapely

from wsikit.annotations.annotations import Annotations, Item, Placement, Written, gather
from wsikit.annotations.flat import LeftOut
from wsikit.errors import AnnotationError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "x": ("x", "x_px", "cx", "center_x", "centroid_x", "x_center", "x_centroid", "centroid x px"),
    "y": ("y", "y_px", "cy", "center_y", "centroid_y", "y_center", "y_centroid", "centroid y px"),
    "x_um": ("x_um", "x_µm", "centroid x µm", "centroid x um"),
    "y_um": ("y_um", "y_µm", "centroid y µm", "centroid y um"),
    "class": ("class", "label", "classification", "class_name", "cell_type", "type", "group"),
    "name": ("name",),
    "score": ("score", "probability", "confidence", "prob"),
}
"""Columns, upper or lower case, by the names that other tools give them."""
QUPATH_HEADERS = "centroid x"
"""What QuPath's measurement tables call coordinates; QuPath counts from the corner of the bounds."""
SCORE = "Score"


class CSVPoints:
    """``.csv`` (commas, or semicolons as spreadsheets write them) and ``.tsv``; points are detections."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return True

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a table. Raises AnnotationError, naming the line, for a missing column or what is no number."""
        header, rows = read_table(path)
        columns, others = _columns(path, header)
        scale = _scale(path, columns, placement)
        x, y = (key for key in columns if key[0] in "xy" and key[1:] in ("", "_um"))
        read = {name: k for k, name in others.items() if _numeric(rows, k)}
        texts = [name for k, name in others.items() if name not in read]
        items = []
        for line, row in rows:
            where = f"{path.name}, line {line}"
            xy = [_number(row, columns[key], where) * scale for key in (x, y)]
            if not all(map(math.isfinite, xy)):
                raise AnnotationError(f"{where}: x and y must be finite numbers, got {xy}")
            numbers = {name: _number(row, k, where) for name, k in read.items()}
            if "score" in columns:
                numbers[SCORE] = _number(row, columns["score"], where)
            measured = {name: value for name, value in numbers.items() if math.isfinite(value)}
            label, name = (_cell(row, columns[key]) if key in columns else "" for key in ("class", "name"))
            items.append(Item("detection", shapely.Point(xy), label or None, name, None, False, measured))
        notes = [f"{len(rows)} x column {name!r} is not of numbers: left out" for name in texts]
        own = header[columns[x]].strip().lower().startswith(QUPATH_HEADERS)
        return gather(items, {}, notes).moved(*(placement.bounds_offset if own else (0, 0)))

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """Points, and areas as their centroids, which is said; other objects are left out."""
        left_out = LeftOut()
        left_out.lacking(annotations.items(), "colors", "nuclei")
        left_out.class_colors(annotations)
        left_out["objects that are no detections: detections in this format"] += sum(
            len(features) for features in annotations.features if features.kind != "detection"
        )
        names = dict.fromkeys(name for features in annotations.features for name in features.measurements)
        taken = {alias for aliases in ALIASES.values() for alias in aliases}
        kept = [name for name in names if name == SCORE or (name.strip().lower() not in taken and name.strip() == name)]
        left_out["measurements named like a column: left out"] += len(names) - len(kept)
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n")
        writer.writerow(["x", "y", "class", "name", *("score" if name == SCORE else name for name in kept)])
        for item in annotations.items():
            padded = [text for text in (item.label or "", item.name) if text != text.strip()]
            left_out["names that begin or end with blanks: cut"] += bool(padded)
            left_out["locks: left out"] += item.locked
            for x, y in _points(item.geometry, left_out):
                numbers = [repr(item.measurements[name]) if name in item.measurements else "" for name in kept]
                writer.writerow([repr(x), repr(y), item.label or "", item.name, *numbers])
        return Written(text.getvalue().encode("utf-8", "backslashreplace"), left_out.sentences())


def _points(shape: shapely.Geometry, left_out: LeftOut) -> list[tuple[float, float]]:
    dimension = shapely.get_dimensions(shape)
    if dimension == 1:
        left_out["lines: left out"] += 1
        return []
    left_out["areas: their centroids"] += dimension == 2
    left_out["objects with several points: each is an object now"] += isinstance(shape, shapely.MultiPoint)
    found = [(shape.centroid.x, shape.centroid.y)] if dimension == 2 else shapely.get_coordinates(shape).tolist()
    return [(float(x), float(y)) for x, y in found]


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the rows that are not blank, with their line numbers; commas, semicolons or, in a .tsv, tabs.

    Raises AnnotationError where it is no UTF-8 text, no CSV, or empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read as UTF-8 text: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(path, text))
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise AnnotationError(f"{path.name}, line {reader.line_num}: {error}") from error
    if not rows:
        raise AnnotationError(f"{path.name} is empty; a header with the names of its columns is needed")
    return rows[0][1], rows[1:]


def delimiter_of(path: Path, text: str) -> str:
    """What separates the columns of a table: a tab in a .tsv, else a semicolon where the header has no comma."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.lstrip().partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def _columns(path: Path, header: list[str]) -> tuple[dict[str, int], dict[int, str]]:
    """Canonical name -> index; index -> name of the columns that no alias knows."""
    names = [name.strip().lower() for name in header]
    found = {
        key: next(names.index(alias) for alias in aliases if alias in names)
        for key, aliases in ALIASES.items()
        if set(aliases) & set(names)
    }
    if {"x", "y"} <= set(found):
        found = {key: k for key, k in found.items() if key not in ("x_um", "y_um")}
    elif not {"x_um", "y_um"} <= set(found):
        raise AnnotationError(
            f"{path.name} has no columns for coordinates; it has {', '.join(header)}, x and y in pixels or x_um and "
            "y_um in micrometres are needed"
        )
    else:
        found = {key: k for key, k in found.items() if key not in ("x", "y")}
    used = set(found.values())
    others = {k: name.strip() for k, name in enumerate(header) if k not in used and name.strip()}
    twice = [name for name, count in Counter(others.values()).items() if count > 1]
    if twice:
        raise AnnotationError(f"{path.name} has several columns {twice[0]!r}: give each a name of its own")
    return found, others


def _scale(path: Path, columns: Mapping[str, int], placement: Placement) -> float:
    """Level-0 pixels per unit of the coordinates."""
    if "x" in columns:
        return 1.0
    if placement.mpp is None:
        raise AnnotationError(
            f"{path.name} has its coordinates in um, and the um per pixel of the slide are not known",
            remedy="give the slide with --slide, or its um per level-0 pixel with --mpp",
        )
    return 1 / placement.mpp


def _cell(row: list[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


def _numeric(rows: list[tuple[int, list[str]]], column: int) -> bool:
    try:
        for _, row in rows:
            float(_cell(row, column) or "nan")
    except ValueError:
        return False
    return True


def _number(row: list[str], column: int, where: str) -> float:
    text = _cell(row, column)
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise AnnotationError(f"{where}: expected a number, got {text!r}") from error
