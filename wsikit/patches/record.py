"""What a dataset says of a slide and of its patches, as JSON and as one table of rows: shared by all formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, OutputError
from wsikit.patches import PatchRows, PatchSet

VERSION = 1
"""Of the layouts on disk; raised when a reader of today could not read tomorrow's files."""
KEY = "wsikit_patches"
"""Name of the version in what is written; what lacks it is not ours."""
REMEDY = "give a dataset that `wsikit tile` wrote to its end, or make it anew"


def described(patches: PatchSet) -> dict[str, Any]:
    """JSON-ready."""
    return {KEY: VERSION} | asdict(patches)


def patch_set(found: Mapping[str, Any], where: Path) -> PatchSet:
    """The inverse of ``described``.

    Raises ConfigError (code no_patches) where something is lacking or the version is not known.
    """
    if found.get(KEY) != VERSION:
        raise ConfigError(
            f"{where} holds no patches that this version reads: {KEY} is {found.get(KEY, 'missing')!r}, not {VERSION}",
            code="no_patches",
            remedy=REMEDY if found.get(KEY) is None else "update wsikit",
        )
    known = {field.name: found[field.name] for field in fields(PatchSet) if field.name in found}
    try:
        patches = PatchSet(**known)
        return replace(patches, slide_size=(int(patches.slide_size[0]), int(patches.slide_size[1])))
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{where} does not say what its patches are: {error}", code="no_patches") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError (code no_patches)."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", code="no_patches", remedy=REMEDY) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object", code="no_patches", remedy=REMEDY)
    return found


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """The same bytes for the same value."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


class Rows:
    """The rows that a writer was given so far, without their bytes."""

    def __init__(self) -> None:
        self._corners: list[NDArray[np.int64]] = []
        self._xy: list[NDArray[np.float64]] = []
        self._tissue: list[NDArray[np.float32]] = []
        self._verbatim: list[NDArray[np.bool_]] = []

    def add(self, rows: PatchRows, *, pixels: bool) -> None:
        """Append rows.

        Raises OutputError (code internal) where lengths differ, or there is no image of a patch and should be.
        """
        count = len(rows.corners)
        verbatim = np.zeros(count, bool) if rows.verbatim is None else rows.verbatim
        lengths = {len(rows.xy), len(rows.tissue), len(verbatim)} | ({len(rows.data)} if pixels else set())
        if lengths - {count}:
            raise OutputError(f"{count} patches came with columns of {sorted(lengths)} rows", code="internal")
        self._corners.append(np.asarray(rows.corners, np.int64).reshape(count, 2))
        self._xy.append(np.asarray(rows.xy, np.float64).reshape(count, 2))
        self._tissue.append(np.asarray(rows.tissue, np.float32))
        self._verbatim.append(np.asarray(verbatim, bool))

    def columns(self) -> dict[str, NDArray[Any]]:
        """corners (N, 2) int64, xy (N, 2) float64, tissue (N,) float32, verbatim (N,) bool."""
        return {
            "corners": np.concatenate([np.empty((0, 2), np.int64), *self._corners]),
            "xy": np.concatenate([np.empty((0, 2)), *self._xy]),
            "tissue": np.concatenate([np.empty(0, np.float32), *self._tissue]),
            "verbatim": np.concatenate([np.empty(0, bool), *self._verbatim]),
        }


def pixel_names(slide_id: str, xy: NDArray[np.float64]) -> list[str]:
    """``{slide_id}_{x}_{y}`` with x, y of the upper left corner in level-0 pixels, rounded."""
    return [f"{slide_id}_{x}_{y}" for x, y in np.rint(xy).astype(np.int64).tolist()]


TABLE, SETTINGS = "patches.csv", "patches.json"
FIXED = ("slide_id", "x", "y", "corner_x", "corner_y", "tissue", "verbatim")
OWN = ("file", "shard", "offset", "length", "crc32")
"""Columns of the table that formats add."""


def about_slide(patches: PatchSet) -> dict[str, Any]:
    """What a table says of the slide beside its name; a manifest's column does not take the name of another."""
    about = {"mpp": patches.mpp, "patient": patches.patient, "label": patches.label, "split": patches.split}
    return about | {name: value for name, value in patches.columns.items() if name not in {*about, *FIXED, *OWN}}


def table_bytes(patches: PatchSet, rows: Rows, extra: Mapping[str, Sequence[object]]) -> bytes:
    """One line a patch: the file's own columns first, then where it is, then what is said of the slide.

    ``x`` and ``y`` are exact, ``corner_x`` and ``corner_y`` on the lattice of ``PatchSet.mpp``.
    """
    found, slide = rows.columns(), about_slide(patches)
    constant = ["" if value is None else value for value in slide.values()]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*extra, *FIXED, *slide])
    values = zip(
        zip(*extra.values(), strict=True),
        found["xy"].tolist(),
        found["corners"].tolist(),
        found["tissue"].tolist(),
        found["verbatim"].tolist(),
        strict=True,
    )
    for own, xy, corner, tissue, verbatim in values:
        writer.writerow([*own, patches.slide_id, *xy, *corner, f"{tissue:.9g}", int(verbatim), *constant])
    return text.getvalue().encode()


class Table:
    """``patches.csv`` read back. Raises ConfigError (code no_patches) where it is not whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(encoding="utf-8", newline="") as file:
                self._rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise ConfigError(f"{path} cannot be read: {error}", code="no_patches", remedy=REMEDY) from error

    def __len__(self) -> int:
        return len(self._rows)

    def text(self, name: str) -> list[str]:
        """One column as it stands."""
        values = [row.get(name) for row in self._rows]
        if None in values:
            line = values.index(None) + 2
            raise ConfigError(f"{self.path}, line {line}: no column {name!r}", code="no_patches", remedy=REMEDY)
        return [value for value in values if value is not None]

    def numbers(self, names: Iterable[str], dtype: type) -> NDArray[Any]:
        """(N, len(names)) of columns."""
        try:
            values: list[NDArray[Any]] = [np.array(self.text(name), dtype=str).astype(dtype) for name in names]
        except ValueError as error:
            raise ConfigError(f"{self.path}: {error}", code="no_patches", remedy=REMEDY) from error
        return np.stack(values, axis=1) if len(self) else np.empty((0, len(values)), dtype)
