"""Tables of counts: one row for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsikit.annotations.points import read_table
from wsikit.errors import ConfigError
from wsikit.patches.cohort import PATIENT_COLUMNS, SLIDE_COLUMNS

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_name", "file", "filename", "file_name", "name"),
    "count": ("count", "counts", "y", "cells", "n_cells", "num_cells", "n_nuclei"),
    "patient": PATIENT_COLUMNS,
    "slide": ("slide", *SLIDE_COLUMNS),
    "organ": ("organ", "tissue"),
    "split": ("split", "fold"),
}
"""Columns, upper or lower case, by the names that tables give them."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says of one image; None where it says nothing."""

    where: str
    """File and line, for messages."""
    image: str | None = None
    count: int | None = None
    patient: str | None = None
    slide: str | None = None
    organ: str | None = None
    split: str | None = None


def read_rows(path: Path, needed: tuple[str, ...] = ("image", "count")) -> list[Row]:
    """All rows of a CSV (commas or semicolons, UTF-8 with or without a byte order mark) or TSV, in its order.

    Args:
        path: the table.
        needed: names of ``ALIASES`` whose columns must be there and filled in every row.

    Raises:
        ConfigError: code bad_counts: a column or a cell is missing, or a count is not 0, 1, 2, ...
        AnnotationError: it cannot be read as a table.
    """
    header, lines = read_table(path)
    columns = _columns(path, header, needed)
    rows = []
    for line, cells in lines:
        where = f"{path.name}, line {line}"
        said = {key: cells[k].strip() or None for key, k in columns.items() if k < len(cells)}
        for key in needed:
            if said.get(key) is None:
                raise ConfigError(
                    f"{where}: the cell of the column {header[columns[key]].strip()!r} is empty",
                    code="bad_counts",
                    remedy="fill it in; an image without any cell has the count 0",
                )
        number = said.pop("count", None)
        rows.append(Row(where, count=None if number is None else whole(number, where), **said))
    return rows


def _columns(path: Path, header: list[str], needed: tuple[str, ...]) -> dict[str, int]:
    """Canonical name -> index, for the columns that the table has."""
    names = [name.strip().lower() for name in header]
    found = {
        key: next(names.index(alias) for alias in aliases if alias in names)
        for key, aliases in ALIASES.items()
        if set(aliases) & set(names)
    }
    for key in needed:
        if key not in found:
            raise ConfigError(
                f"{path} has no column {key!r}; it has {', '.join(repr(name) for name in header)}",
                code="bad_counts",
                remedy=f"name the column one of {', '.join(ALIASES[key])}; columns are parted by commas or semicolons",
            )
    return found


def whole(value: object, where: str) -> int:
    """A count, of text or a number. Raises ConfigError (code bad_counts) for what is none; ``where`` begins it."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not (number >= 0 and number.is_integer()):
        raise ConfigError(
            f"{where}: a count is a whole number from 0 on, got {value if isinstance(value, str) else number!r}",
            code="bad_counts",
            remedy="mend the count, or leave the image out",
        )
    return int(number)
