"""Tables of counts: one row for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsikit.annotations.points import read_table
from wsikit.errors import ConfigError
from wsikit.training.tables import ALIASES as SHARED
from wsikit.training.tables import columns as columns_of

ALIASES: Mapping[str, tuple[str, ...]] = {
    **SHARED,
    "count": ("count", "counts", "y", "cells", "n_cells", "num_cells", "n_nuclei"),
    "organ": ("organ", "tissue"),
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
    columns = columns_of(path, header, ALIASES, needed, "bad_counts")
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
