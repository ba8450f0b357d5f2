"""Patch features as HDF5, as CLAM and TRIDENT read them: datasets ``features`` and ``coords``.

``features`` is (N, D) float32, ``coords`` (N, 2) int64, x, y of a patch's upper left corner in level-0 pixels of the
full plane, which is OpenSlide's. Where the lattice is no whole number of level-0 pixels these are rounded, and the
attribute ``rounded`` says so; ``corners`` (not read by others) has the exact ones on the lattice of ``mpp``.

Attributes of ``coords`` are named as their writers name them:

* by CLAM (Lu et al. 2021, github.com/mahmoodlab/CLAM, read by ``dataset_modules/dataset_h5.py``): ``patch_size``,
  ``patch_level``, ``downsample``, ``level_dim``, ``downsampled_level_dim``, ``name``;
* by TRIDENT (Zhang et al. 2025, github.com/mahmoodlab/TRIDENT, ``trident/wsi_objects/WSI.py``): ``patch_size``,
  ``patch_size_level0``, ``level0_magnification``, ``target_magnification``, ``overlap``, ``level0_width``,
  ``level0_height``, ``name``.

CLAM's patches lie on a stored level. Where none has the mpp of the patches, its attributes of a level are left out, and
CLAM refuses to read pixels by this file rather than reading others. What no other tool names is in the file's attribute
``wsikit``, as JSON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from wsikit.atomic import output_errors, sync, temporary
from wsikit.errors import OutputError
from wsikit.features import Instances
from wsikit.geometry import Level
from wsikit.sinks import SinkContext
from wsikit.sinks.table import Table

if TYPE_CHECKING:
    import h5py

CHUNK = 1024
"""Rows that are read and written together."""
POWER_MPP = 10.0
"""Objective power times um per px: 0.25 um/px is called 40x."""
SAME_MPP = 0.001
"""Relative difference up to which a stored level has the mpp of the patches."""


class FeaturesH5Sink:
    """Writes instances to an HDF5 file.

    Args:
        path: the final file, ``*.h5`` by custom. One that exists is replaced at commit.

    Raises:
        OutputError: from begin, write and commit, where the disk refuses.
        PredictionError: from write and commit, where other instances come than were announced.
    """

    takes: ClassVar[Literal["instances"]] = "instances"
    filename: ClassVar[str] = "features.h5"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table: Table | None = None
        self._file: h5py.File | None = None

    def begin(self, context: SinkContext) -> None:
        """Create the temporary file; ``context.instances`` says how many will come."""
        import h5py

        self.abort()
        table = Table.of(context)
        with self._errors():
            # removed first: HDF5 refuses to truncate what a crashed writer of this process still holds open
            temporary(self.path).unlink(missing_ok=True)
            self._file = h5py.File(temporary(self.path), "w")
            self._table = table
            self._file.attrs["wsikit"] = json.dumps(table.attributes(), sort_keys=True)
            for name, (shape, dtype) in table.columns().items():
                kind = "int64" if name == "coords" else dtype
                chunks = (min(CHUNK, shape[0]), shape[1]) if all(shape) else None
                self._file.create_dataset(name, shape, kind, chunks=chunks)
            self._file["coords"].attrs.update(coordinate_attributes(table))
            self._file["features"].attrs["name"] = context.slide_id

    def write(self, instances: Instances) -> None:
        """Append instances."""
        table, file = self._begun()
        rows, values = table.take(instances)
        values["coords"] = np.rint(values["coords"]).astype(np.int64)
        with self._errors():
            for name, part in values.items():
                file[name][rows] = part

    def commit(self) -> None:
        """Close, flush to disk and rename to the final path."""
        table, file = self._begun()
        table.finish()
        with self._errors():
            file.close()
            sync(temporary(self.path))
            temporary(self.path).replace(self.path)
            sync(self.path.parent)
        self._table = self._file = None

    def abort(self) -> None:
        """Remove everything written."""
        if self._file is not None:
            # a full disk refuses the last flush too, which no longer matters
            with suppress(OSError, RuntimeError):
                self._file.close()
            temporary(self.path).unlink(missing_ok=True)
        self._table = self._file = None

    def _begun(self) -> tuple[Table, h5py.File]:
        if self._table is None or self._file is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._table, self._file

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """HDF5 says what the system refused only in the text of its errors."""
        with output_errors(self.path):
            try:
                yield
            except (OSError, RuntimeError) as error:
                number = re.search(r"errno = (\d+)", str(error))
                if number is None:
                    raise
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def coordinate_attributes(table: Table) -> dict[str, Any]:
    """What CLAM and TRIDENT look for beside the coordinates."""
    context, layout = table.context, table.layout
    level = _level(context)
    attributes: dict[str, Any] = {
        "name": context.slide_id,
        "patch_size": layout.patch,
        "patch_size_level0": round(layout.patch * table.scale),
        "level0_magnification": power(context.slide_mpp),
        "target_magnification": power(context.mpp),
        "overlap": layout.overlap,
        "mpp": context.mpp,
        "level0_mpp": context.slide_mpp,
        "rounded": not float(table.scale).is_integer(),
    }
    if context.levels:
        attributes |= {"level0_width": context.levels[0].width, "level0_height": context.levels[0].height}
    if level is not None:
        size = np.array((level.width, level.height))
        attributes |= {"patch_level": level.index, "downsample": np.full(2, level.downsample)}
        attributes |= {"level_dim": size, "downsampled_level_dim": size}
    return attributes


def _level(context: SinkContext) -> Level | None:
    """The stored level that the patches lie on."""
    return next((level for level in context.levels if abs(level.mpp / context.mpp - 1) <= SAME_MPP), None)


def power(mpp: float) -> float | int:
    """The objective power of a resolution, whole where it is one within 2 %: 0.2527 um/px is called 40x."""
    exact = POWER_MPP / mpp
    return round(exact) if abs(exact / max(round(exact), 1) - 1) <= 0.02 else exact
