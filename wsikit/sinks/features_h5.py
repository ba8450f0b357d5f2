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
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np

from wsikit.atomic import output_errors, sync, temporary
from wsikit.errors import OutputError
from wsikit.features import Instances
from wsikit.geometry import Level
from wsikit.patches.coords import attributes_of_coords
from wsikit.sinks import SinkContext
from wsikit.sinks.table import Table

DTYPES = {"features": "<f4", "coords": "<i8", "corners": "<i8"}
SAME_MPP = 0.001
"""Relative difference up to which a stored level has the mpp of the patches."""


class FeaturesH5Sink:
    """Writes instances to an HDF5 file.

    HDF5 lays the whole file out when it is begun, and is closed again: rows then go by plain writes to where it
    reserved room for them. A disk that is full is an error of the system that way; inside HDF5 it ends the process.

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
        self._file: IO[bytes] | None = None
        self._offsets: dict[str, int] = {}

    def begin(self, context: SinkContext) -> None:
        """Lay out the temporary file; ``context.instances`` says how many will come."""
        self.abort()
        table = Table.of(context)
        with output_errors(self.path):
            temporary(self.path).unlink(missing_ok=True)
            self._offsets = lay_out(temporary(self.path), table)
            self._file = temporary(self.path).open("r+b")
            self._table = table

    def write(self, instances: Instances) -> None:
        """Append instances."""
        table, file = self._begun()
        rows, values = table.take(instances)
        with output_errors(self.path):
            for name, (shape, _) in table.columns().items():
                dtype = np.dtype(DTYPES[name])
                part = np.rint(values[name]) if name == "coords" else values[name]
                file.seek(self._offsets[name] + rows.start * shape[1] * dtype.itemsize)
                file.write(np.ascontiguousarray(part, dtype).data)

    def commit(self) -> None:
        """Close, flush to disk and rename to the final path."""
        table, file = self._begun()
        table.finish()
        with output_errors(self.path):
            file.close()
            sync(temporary(self.path))
            temporary(self.path).replace(self.path)
            sync(self.path.parent)
        self._table = self._file = None

    def abort(self) -> None:
        """Remove everything written."""
        if self._file is not None:
            # a full disk refuses the last flush too, which no longer matters
            with suppress(OSError):
                self._file.close()
            temporary(self.path).unlink(missing_ok=True)
        self._table = self._file = None

    def _begun(self) -> tuple[Table, IO[bytes]]:
        if self._table is None or self._file is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._table, self._file


def lay_out(path: Path, table: Table) -> dict[str, int]:
    """Make the file with room for all rows; returns the byte at which the rows of each dataset begin."""
    import h5py

    whole = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    whole.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    whole.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # the same rows give the same bytes at any time
    whole.set_obj_track_times(False)
    offsets = {}
    with h5py.File(path, "w") as file:
        file.attrs["wsikit"] = json.dumps(table.attributes(), sort_keys=True)
        for name, (shape, _) in table.columns().items():
            kind = h5py.h5t.py_create(np.dtype(DTYPES[name]))
            made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), whole)
            offsets[name] = made.get_offset() or 0
        file["coords"].attrs.update(coordinate_attributes(table))
        file["features"].attrs["name"] = table.context.slide_id
    return offsets


def coordinate_attributes(table: Table) -> dict[str, Any]:
    """What CLAM and TRIDENT look for beside the coordinates."""
    context, layout = table.context, table.layout
    size = (context.levels[0].width, context.levels[0].height) if context.levels else None
    return attributes_of_coords(
        name=context.slide_id,
        patch=layout.patch,
        overlap=layout.overlap,
        mpp=context.mpp,
        slide_mpp=context.slide_mpp,
        size=size,
        level=_level(context),
    )


def _level(context: SinkContext) -> Level | None:
    """The stored level that the patches lie on."""
    return next((level for level in context.levels if abs(level.mpp / context.mpp - 1) <= SAME_MPP), None)
