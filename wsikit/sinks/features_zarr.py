"""Patch features as Zarr: one group with three arrays in the order of the patches, by row, then column.

::

    features.zarr/         zarr 3; attributes say where the vectors come from
      features             (N, D) float32
      coords               (N, 2) float64, x, y of a patch's upper left corner in level-0 pixels of the full plane
      corners              (N, 2) int64, the same corner on the lattice of ``mpp``: exact, for reading the patch again

Rows are stored in shards of 4096, each written once and whole by the one writer.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wsikit.atomic import output_errors, remove, remove_unfinished, replace_folder, temporary
from wsikit.errors import OutputError
from wsikit.features import Instances
from wsikit.sinks import SinkContext
from wsikit.sinks.table import Table

if TYPE_CHECKING:
    import zarr

CHUNK, SHARD = 1024, 4096
"""Rows that are compressed together, and rows in a file: what the merge hands over at once."""


class FeaturesZarrSink:
    """Writes instances to a Zarr group.

    Args:
        path: the final folder, ``*.zarr`` by custom. One that exists is replaced at commit.

    Raises:
        OutputError: from begin, write and commit, where the disk refuses.
        PredictionError: from write and commit, where other instances come than were announced.
    """

    takes: ClassVar[Literal["instances"]] = "instances"
    filename: ClassVar[str] = "features.zarr"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table: Table | None = None
        self._group: zarr.Group | None = None

    def begin(self, context: SinkContext) -> None:
        """Create the temporary group; ``context.instances`` says how many will come."""
        import zarr

        self.abort()
        folder = temporary(self.path)
        with output_errors(self.path):
            remove(folder)
            folder.mkdir()
            self._table = Table.of(context)
            self._group = zarr.create_group(folder, zarr_format=3, attributes=self._table.attributes())
            for name, (shape, dtype) in self._table.columns().items():
                self._create(self._group, name, shape, dtype)

    def _create(self, group: zarr.Group, name: str, shape: tuple[int, int], dtype: str) -> None:
        from zarr.codecs import ZstdCodec

        # explicit, so that neither zarr's defaults nor a user's zarr configuration change the files
        width = max(shape[1], 1)
        group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(CHUNK, width),
            shards=(SHARD, width),
            compressors=ZstdCodec(level=1),
            fill_value=0,
            dimension_names=["patch", "feature" if name == "features" else "xy"],
        )

    def write(self, instances: Instances) -> None:
        """Append instances."""
        table, group = self._begun()
        rows, values = table.take(instances)
        with output_errors(self.path):
            for name, part in values.items():
                array: Any = group[name]
                array[rows] = part

    def commit(self) -> None:
        """Consolidate the metadata, flush to disk and rename to the final path."""
        import zarr

        table, _ = self._begun()
        table.finish()
        folder = temporary(self.path)
        with output_errors(self.path), warnings.catch_warnings():
            # zarr warns that the specification does not have this yet: who cannot read it opens the arrays one by one
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(folder, zarr_format=3)
            replace_folder(folder, self.path)
        self._table = self._group = None

    def abort(self) -> None:
        """Remove everything written."""
        if self._table is not None:
            remove_unfinished(temporary(self.path))
        self._table = self._group = None

    def _begun(self) -> tuple[Table, zarr.Group]:
        if self._table is None or self._group is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._table, self._group
