"""Tables: all points of a data set, a row each; and what is known of its images, a row each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations.points import ALIASES as COORDINATES
from wsikit.annotations.points import read_table
from wsikit.errors import ConfigError
from wsikit.methods.points.images import CODE, Facts
from wsikit.training.names import SPLITS
from wsikit.training.tables import ALIASES as SHARED
from wsikit.training.tables import columns as columns_of
from wsikit.training.tables import refuse, rows_of_files

ALIASES: Mapping[str, tuple[str, ...]] = {
    **SHARED,
    "organ": ("organ", "tissue"),
    **{key: COORDINATES[key] for key in ("x", "y", "x_um", "y_um")},
}
"""Columns, upper or lower case, by the names that tables give them."""
FACTS = ("patient", "slide", "organ", "split")
IMAGES = "images.csv"
"""In the folder of a data set: what is known of its images."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What a table says of one image."""

    where: str
    """File and the line of its first row, for messages."""
    image: str
    facts: Facts
    points: NDArray[np.float64]
    """(n, 2) x, y in px of the image; none where its row says nothing in x and y."""


def points_of_table(table: Path, files: Sequence[Path], mpp: float | None) -> dict[Path, Row]:
    """Image file -> its row, in the order of the table.

    The columns are image, x and y (or x_um and y_um), and patient, slide, organ, split where they are known. An image
    without any nucleus has one row with nothing in x and y.

    Args:
        table: a CSV (commas or semicolons) or TSV.
        files: the images.
        mpp: um per px of the images, for coordinates in um.

    Raises:
        ConfigError: code bad_points: a column is missing, a cell is no number, rows of one image say different things
            of it, a row without an image, or an image without a row.
        AnnotationError: the table cannot be read.
    """
    folder = files[0].parent
    found = rows_of_files(_rows(table, mpp), files, folder, CODE)
    refuse(
        [path.name for path in files if path not in found],
        f"images of {folder} have no row in {table}",
        "mark their nuclei; an image without any has one row with its name and nothing in x and y",
        CODE,
    )
    return found


def facts_of_images(folder: Path, files: Sequence[Path]) -> dict[Path, Facts]:
    """Image file -> what ``images.csv`` of the folder says of it: patient, slide, organ, split. Empty without a table.

    Raises:
        ConfigError: code bad_points: no column image, a row without an image, an image without a row, two of one.
        AnnotationError: the table cannot be read.
    """
    table = folder / IMAGES
    if not table.is_file():
        return {}
    rows = [Row(where, image, facts, np.zeros((0, 2))) for where, image, facts, _ in _lines(table, ())]
    found = rows_of_files(rows, files, files[0].parent, CODE)
    refuse([path.name for path in files if path not in found], f"images have no row in {table}", "add rows", CODE)
    return {path: row.facts for path, row in found.items()}


def _rows(table: Path, mpp: float | None) -> list[Row]:
    """The rows of each image as one."""
    x, y, scale = _coordinates(table, mpp)
    groups: dict[str, list[tuple[str, Facts, tuple[float, float] | None]]] = {}
    for where, image, facts, cells in _lines(table, (x, y)):
        groups.setdefault(image, []).append((where, facts, _point(where, cells[x], cells[y], scale)))
    return [_together(image, lines) for image, lines in groups.items()]


def _coordinates(table: Path, mpp: float | None) -> tuple[str, str, float]:
    """The columns of the coordinates, and px per their unit."""
    names = {name.strip().lower() for name in read_table(table)[0]}
    if not names & set(ALIASES["x_um"]) or names & set(ALIASES["x"]):
        return "x", "y", 1.0
    if mpp is None:
        raise ConfigError(
            f"{table} has its coordinates in um, and the um per px of the images are not said",
            code=CODE,
            remedy="say the mpp of the images",
        )
    return "x_um", "y_um", 1 / mpp


def _lines(table: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, str, Facts, dict[str, str]]]:
    """File and line, image, what is said of it, and all cells, for each row."""
    header, lines = read_table(table)
    columns = columns_of(table, header, ALIASES, ("image", *needed), CODE)
    for line, cells in lines:
        where = f"{table.name}, line {line}"
        said = {key: cells[k].strip() if k < len(cells) else "" for key, k in columns.items()}
        if not said["image"]:
            raise ConfigError(f"{where}: the row names no image", code=CODE, remedy="fill it in, or take the row out")
        patient, slide, organ, split = (said.get(key) or None for key in FACTS)
        facts = Facts(patient, slide, organ, _split(split, where))
        yield where, said["image"], facts, said


def _split(said: str | None, where: str) -> str | None:
    if said is None or said.lower() in SPLITS:
        return said and SPLITS[said.lower()]
    raise ConfigError(
        f"{where}: the split is {said!r}, not one of {', '.join(SPLITS)}",
        code=CODE,
        remedy="mend it, or leave it empty",
    )


def _point(where: str, x: str, y: str, scale: float) -> tuple[float, float] | None:
    """In px; None where both cells are empty."""
    if not x and not y:
        return None
    try:
        point = float(x) * scale, float(y) * scale
    except ValueError:
        point = (math.nan, math.nan)
    if not all(map(math.isfinite, point)):
        raise ConfigError(
            f"{where}: x and y are numbers, got {x!r} and {y!r}",
            code=CODE,
            remedy="mend them; both are empty for an image without any nucleus",
        )
    return point


def _together(image: str, lines: Sequence[tuple[str, Facts, tuple[float, float] | None]]) -> Row:
    where, facts, _ = lines[0]
    for other, said, point in lines:
        if said != facts:
            raise ConfigError(
                f"{other} says {said} of {image}, {where} says {facts}",
                code=CODE,
                remedy=f"say the same of an image in all of its rows, or say it once, in {IMAGES}",
            )
        if point is None and len(lines) > 1:
            raise ConfigError(
                f"{other} says that {image} has no point, and other rows give some",
                code=CODE,
                remedy="take the row out, or fill in x and y",
            )
    points = [point for _, _, point in lines if point is not None]
    return Row(where, image, facts, np.array(points, np.float64).reshape(-1, 2))
