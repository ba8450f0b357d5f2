"""LYSTO's layout: all images in one HDF5 file.

Known of the public record (Zenodo 3513571: ``training.h5``, ``training_labels.csv``): the datasets ``x``
(N, 299, 299, 3) uint8 RGB, ``y`` counts and ``organ``, bytes such as ``colon_...`` with the organ before the first
underscore; a ``test.h5`` is the same without ``y``. Assumed, since the columns of the CSV are not documented: its rows
stand in the order of ``x``, and its columns have usual names (``tables.ALIASES``). Where it repeats the counts they
must be those of ``y``, so that a table in another order cannot give images to the wrong patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import ConfigError, PixelReadError
from wsikit.methods.counting.tables import ALIASES, Row, read_rows, whole
from wsikit.slides import Pixels

SUFFIXES = (".h5", ".hdf5")
TRAINING = "training.h5"


@dataclass(frozen=True, slots=True)
class StackedImage:
    """One image of ``x``. The file is opened for each read: nothing is shared with threads or forked processes, and
    opening it takes a fraction of a millisecond."""

    path: Path
    index: int
    size: tuple[int, int]
    """(width, height) in px."""

    def __call__(self) -> Pixels:
        """(H, W, 3) uint8. Raises PixelReadError where the file cannot be read (any more)."""
        import h5py

        try:
            with h5py.File(self.path) as file:
                return np.asarray(file["x"][self.index])
        except (OSError, KeyError, ValueError) as error:
            raise PixelReadError(
                f"image {self.index} of {self.path} cannot be read: {error}", remedy="copy the file again"
            ) from error

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


def read_stack(path: Path, table: Path | None = None) -> tuple[list[tuple[Row, StackedImage]], list[str]]:
    """The rows and images of a file, and what to warn of.

    Args:
        path: the HDF5 file.
        table: a CSV of the same order; if not given, ``training_labels.csv`` beside ``training.h5`` where there is one.

    Raises:
        ConfigError: code bad_counts: no such file, arrays of other shapes or types, no counts, or a table that does not
            fit.
        AnnotationError: a table that cannot be read.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            x = _images(file, path)
            rows = _rows(file, path, len(x))
            height, width = x.shape[1:3]
            warnings = _slow(x, path)
    except OSError as error:
        raise ConfigError(
            f"{path} is no HDF5 file that can be read: {error}", code="bad_counts", remedy="copy the file again"
        ) from error
    beside = path.with_name(f"{path.stem}_labels.csv")
    table = table or (beside if beside.is_file() else None)
    if table is not None:
        rows = _joined(rows, read_rows(table, needed=()), path, table)
    rows = [replace(row, organ=row.organ and row.organ.partition("_")[0]) for row in rows]
    for row in rows:
        if row.count is None:
            raise ConfigError(
                f"{row.where} has no count",
                code="bad_counts",
                remedy="a file without the dataset y (as LYSTO's test.h5) needs a table of counts",
            )
    return [(row, StackedImage(path, index, (width, height))) for index, row in enumerate(rows)], warnings


def _images(file: Any, path: Path) -> Any:
    x = file.get("x")
    shape: tuple[int, ...] = getattr(x, "shape", ())
    if len(shape) != 4 or shape[3] != 3 or x.dtype != np.uint8:
        found = f"x is {x.dtype} {shape}" if shape else f"its datasets are {', '.join(file) or 'none'}"
        raise ConfigError(
            f"{path} has no dataset x of N images, (N, H, W, 3) uint8: {found}",
            code="bad_counts",
            remedy="write images as LYSTO's training.h5 has them, or give a folder of images and a table of counts",
        )
    return x


def _rows(file: Any, path: Path, length: int) -> list[Row]:
    columns = {key: _column(file, aliases, path, length) for key, aliases in ALIASES.items() if key != "image"}
    rows = []
    for index in range(length):
        where = f"image {index} of {path.name}"
        said = {key: _text(values[index]) for key, values in columns.items() if values is not None and key != "count"}
        count = None if columns["count"] is None else whole(columns["count"][index], where)
        rows.append(Row(where, f"{index:05d}", count, **said))
    return rows


def _column(file: Any, aliases: Sequence[str], path: Path, length: int) -> Any:
    """(N,) values of the first dataset of these names, or None."""
    name = next((alias for alias in aliases if alias in file), None)
    if name is None:
        return None
    values = np.ravel(file[name][()])
    if len(values) != length:
        raise ConfigError(
            f"{path} has {length} images in x and {len(values)} values in {name}",
            code="bad_counts",
            remedy="copy the file again: both have one for each image",
        )
    return values


def _text(value: Any) -> str | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip() or None


def _joined(rows: list[Row], said: list[Row], path: Path, table: Path) -> list[Row]:
    """Rows with what the table adds."""
    if len(said) != len(rows):
        raise ConfigError(
            f"{table} has {len(said)} rows, {path.name} has {len(rows)} images",
            code="bad_counts",
            remedy="the table has one row for each image, in the same order",
        )
    return [_both(own, other) for own, other in zip(rows, said, strict=True)]


def _both(own: Row, said: Row) -> Row:
    if None not in (own.count, said.count) and own.count != said.count:
        raise ConfigError(
            f"{said.where} says {said.count}, y of {own.where} says {own.count}",
            code="bad_counts",
            remedy="bring the table into the order of the file, or take its count column out",
        )
    added = {key: getattr(said, key) for key in ("count", "patient", "slide", "organ", "split")}
    return replace(own, **{key: value for key, value in added.items() if value is not None})


def _slow(x: Any, path: Path) -> list[str]:
    together = x.chunks[0] if x.chunks else 1
    if together == 1:
        return []
    return [
        f"{path.name} stores {together} images in one chunk, all of which are decoded to read one; written again with "
        f"chunks of (1, {x.shape[1]}, {x.shape[2]}, 3) it is read faster"
    ]
