"""Features as GeoParquet 1.1: a table of one slide's objects, for DuckDB, pandas, GeoPandas and QGIS.

One row per feature, the same ones as in the GeoJSON of the run, on the same grid of 0.01 px:

==================  ===============================================================================================
``id``              UUID text: the feature's id in the GeoJSON
``slide``           the slide's id, as in summary.csv
``patient``         from the manifest; null without one
``class``           null for no class
``object_type``     detection, cell, annotation or tile
``name``            only where features have names
(measurements)      one column each, under its own name; null where not measured. One whose name is another column's,
                    in upper or lower case, is called ``measurement.<name>``
``geometry``        WKB, (x, y) in level-0 pixels of the full plane: unlike in GeoJSON, no bounds offset is taken off
``nucleus``         WKB of cells' nuclei, same frame; only where cells have them
``bbox``            struct xmin, ymin, xmax, ymax of the geometry: what readers skip row groups by
==================  ===============================================================================================

Rows come from the merge band by band, so by place. ``ROW_GROUP`` of them at a time are sorted along a Hilbert curve
over the slide and written as one row group: memory does not grow with the slide, and what lies together is read
together.

The file's metadata holds ``geo`` as the specification asks (``"crs": null``: pixels lie nowhere on earth) and
``wsikit``, JSON with what is known of the whole slide.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations.geojson_text import DECIMALS, identified, snapped
from wsikit.atomic import output_errors, sync, temporary
from wsikit.errors import ConfigError, OutputError, PredictionError
from wsikit.features import Features
from wsikit.sinks import SinkContext

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP = 16_384
"""Rows sorted and written together: 3 mm^2 of dense tissue, and about 10 MB of outlines in memory."""
CHUNK = 4096
"""Features made ready at once; bounds the memory of ``write`` whatever it is given."""
GEOPARQUET = "1.1.0"
"""Version of the specification, github.com/opengeospatial/geoparquet."""
CURVE_BITS = 16
"""The Hilbert curve goes over 2**16 cells a side."""
_REPEATED = ("slide", "patient", "class", "object_type")
"""Columns of few values."""
_FIXED = ("id", *_REPEATED, "name", "geometry", "nucleus", "bbox")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Geometries = NDArray[np.object_]


class ParquetSink:
    """Writes features to a GeoParquet file.

    Args:
        path: the final file, ``*.parquet`` by custom. One that exists is replaced at commit.

    Attributes:
        written: features written so far; those of which nothing is left on the grid of 0.01 px are not.

    Raises:
        ConfigError: pyarrow is not installed.
        OutputError: from begin, write and commit, where the disk refuses.
        PredictionError: from write, where features break their contract, or carry other columns than the first did.
    """

    takes: ClassVar[Literal["features"]] = "features"
    filename: ClassVar[str] = "objects.parquet"
    names_patient: ClassVar[bool] = True
    """A slide whose patient changes in the manifest is written again."""

    def __init__(self, path: str | Path) -> None:
        self.check_installed()
        self.path = Path(path)
        self.written = 0
        self._context: SinkContext | None = None
        self._file: IO[bytes] | None = None
        self._table: _Table | None = None

    @staticmethod
    def check_installed() -> None:
        """Raise ConfigError where pyarrow, which nothing else needs, is missing."""
        if find_spec("pyarrow") is None:
            raise ConfigError(
                "the format parquet is written with pyarrow, which is not installed",
                remedy="pip install 'wsikit[parquet]', or leave parquet out of --format",
            )

    def begin(self, context: SinkContext) -> None:
        """Open the temporary output."""
        self.abort()
        with output_errors(self.path):
            self._file = temporary(self.path).open("wb")
        self._context, self._table, self.written = context, None, 0

    def write(self, features: Features) -> None:
        """Append features; whenever a row group is full it is written."""
        context, file = self._begun()
        features.check(len(context.labels))
        if self._table is None:
            self._table = _Table(Layout.of(features), context, file)
        for start in range(0, len(features), CHUNK):
            with output_errors(self.path):
                self.written += self._table.add(features[start : start + CHUNK])

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path."""
        context, file = self._begun()
        with output_errors(self.path):
            (self._table or _Table(Layout(), context, file)).finish()
            file.close()
            sync(temporary(self.path))
            temporary(self.path).replace(self.path)
            sync(self.path.parent)
        self._context = self._file = self._table = None

    def abort(self) -> None:
        """Remove everything written."""
        if self._file is not None:
            if self._table is not None:
                self._table.discard()
            # a full disk refuses the last flush too, which no longer matters
            with suppress(OSError):
                self._file.close()
            temporary(self.path).unlink(missing_ok=True)
        self._context = self._file = self._table = None

    def _begun(self) -> tuple[SinkContext, IO[bytes]]:
        if self._context is None or self._file is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._context, self._file


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns a file has; all features of a slide have the same."""

    measurements: tuple[str, ...] = ()
    named: bool = False
    nuclei: bool = False

    @classmethod
    def of(cls, features: Features) -> Layout:
        """The layout that these features need."""
        return cls(tuple(features.measurements), features.names is not None, features.nuclei is not None)

    def measured(self) -> dict[str, str]:
        """Measurement -> its column. SQL takes upper and lower case for the same."""
        columns: dict[str, str] = {}
        taken = set(_FIXED)
        for name in self.measurements:
            column = name
            while column.casefold() in taken:
                column = f"measurement.{column}"
            taken.add(column.casefold())
            columns[name] = column
        return columns

    def geometries(self) -> tuple[str, ...]:
        """The columns of WKB, the primary one first."""
        return ("geometry", "nucleus") if self.nuclei else ("geometry",)

    def schema(self) -> pa.Schema:
        """Columns and their types."""
        import pyarrow as pa

        repeated = pa.dictionary(pa.int32(), pa.string())
        return pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                *(pa.field(name, repeated) for name in _REPEATED),
                *([pa.field("name", pa.string())] if self.named else []),
                *(pa.field(column, pa.float64()) for column in self.measured().values()),
                *(pa.field(name, pa.binary()) for name in self.geometries()),
                pa.field("bbox", pa.struct([pa.field(corner, pa.float64()) for corner in _CORNERS])),
            ]
        )


@dataclass(slots=True)
class _Extent:
    """What ``geo`` says of a column of geometries."""

    kinds: set[str] = field(default_factory=set)
    least: NDArray[np.float64] = field(default_factory=lambda: np.full(2, np.inf))
    most: NDArray[np.float64] = field(default_factory=lambda: np.full(2, -np.inf))

    def add(self, geometries: Geometries) -> None:
        present = geometries[~shapely.is_missing(geometries)]
        if not len(present):
            return
        self.kinds |= {_KINDS[kind] for kind in np.unique(shapely.get_type_id(present)).tolist()}
        bounds = shapely.total_bounds(present)
        self.least, self.most = np.minimum(self.least, bounds[:2]), np.maximum(self.most, bounds[2:])

    def described(self) -> dict[str, Any]:
        box = {"bbox": [*self.least.tolist(), *self.most.tolist()]} if self.kinds else {}
        return {"encoding": "WKB", "geometry_types": sorted(self.kinds), "crs": None, **box}


_KINDS = {0: "Point", 1: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}
"""Type ids of shapely -> names of the specification."""


class _Table:
    """The rows on their way: a row group that fills, and a writer for those that are full."""

    def __init__(self, layout: Layout, context: SinkContext, file: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        self._layout, self._context, self._schema = layout, context, layout.schema()
        self._waiting: list[pa.RecordBatch] = []
        self._extents = {name: _Extent() for name in layout.geometries()}
        numbers = [*layout.measured().values(), *(f"bbox.{corner}" for corner in _CORNERS)]
        self._writer: pq.ParquetWriter = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=list(_REPEATED),
            use_byte_stream_split=numbers,
            # none of outlines and ids, whose order means nothing
            write_statistics=[*_REPEATED, *numbers],
            write_page_index=True,
        )

    def add(self, features: Features) -> int:
        """Take features; returns how many of them are left on the grid."""
        if Layout.of(features) != self._layout:
            raise PredictionError(
                f"features must all have the columns of the first, {self._layout}, got {Layout.of(features)}"
            )
        rows = self._rows(features)
        self._waiting.append(rows)
        if sum(len(part) for part in self._waiting) >= ROW_GROUP:
            self._flush(ROW_GROUP)
        return len(rows)

    def finish(self) -> None:
        """Write what is left, and what is known now that all is there."""
        self._flush(1)
        self._writer.add_key_value_metadata({"geo": json.dumps(self._geo()), "wsikit": json.dumps(self._slide())})
        self._writer.close()

    def discard(self) -> None:
        """Let go of the file. Closing writes to it, which a full disk refuses."""
        with suppress(OSError):
            self._writer.close()
        self._writer.is_open = False

    def _rows(self, features: Features) -> pa.RecordBatch:
        import pyarrow as pa

        context, offset = self._context, self._context.bounds_offset
        geometries, ids = identified(features, context.labels, slide_id=context.slide_id, offset=offset)
        kept = np.flatnonzero(~shapely.is_missing(geometries))
        features = features[kept]
        shapes = {"geometry": _moved(geometries[kept], offset)}
        if features.nuclei is not None:
            shapes["nucleus"] = _moved(snapped(features.nuclei, offset, single=True)[0], offset)
        for name, column in shapes.items():
            self._extents[name].add(column)
        corners = [pa.array(values) for values in shapely.bounds(shapes["geometry"]).reshape(-1, 4).T]
        count = len(kept)
        columns = [
            pa.array([ids[i].decode() for i in kept.tolist()], pa.string()),
            _constant(context.slide_id, count),
            _constant(context.patient, count),
            _repeated(features.labels, [label.name for label in context.labels]),
            _constant(features.kind, count),
            *([pa.array([name or None for name in features.names], pa.string())] if features.names is not None else []),
            *(pa.array(values, mask=np.isnan(values)) for values in features.measurements.values()),
            *(pa.array(shapely.to_wkb(column), pa.binary()) for column in shapes.values()),
            pa.StructArray.from_arrays(corners, names=list(_CORNERS)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _flush(self, least: int) -> None:
        """Write row groups while at least so many rows wait."""
        import pyarrow as pa

        table = pa.Table.from_batches(self._waiting, self._schema)
        while len(table) >= least:
            group = table.slice(0, ROW_GROUP)
            corners = np.stack([group["bbox"].combine_chunks().field(name).to_numpy() for name in _CORNERS])
            order = np.argsort(self._places((corners[:2] + corners[2:]).T / 2), kind="stable")
            self._writer.write_table(group.take(order), row_group_size=ROW_GROUP)
            table = table.slice(ROW_GROUP)
        self._waiting = table.to_batches()

    def _places(self, xy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Along the curve over the square that holds the slide."""
        side = max(_plane(self._context))
        cells = np.clip(xy * (2**CURVE_BITS / side), 0, 2**CURVE_BITS - 1)
        return hilbert(*cells.astype(np.int64).T, bits=CURVE_BITS)

    def _geo(self) -> dict[str, Any]:
        columns = {name: extent.described() for name, extent in self._extents.items()}
        columns["geometry"]["covering"] = {"bbox": {corner: ["bbox", corner] for corner in _CORNERS}}
        return {"version": GEOPARQUET, "primary_column": "geometry", "columns": columns}

    def _slide(self) -> dict[str, Any]:
        context = self._context
        return {
            "slide": context.slide_id,
            "patient": context.patient,
            "model": context.model,
            "labels": [label.name for label in context.labels],
            "mpp": context.slide_mpp,
            "size": list(_plane(context)),
            "tissue_um2": context.tissue_um2,
        }


def hilbert(x: NDArray[np.int64], y: NDArray[np.int64], *, bits: int) -> NDArray[np.int64]:
    """(N,) place along the Hilbert curve of cells (x, y), each below 2**bits, of a square.

    Quadrant by quadrant from the largest: its number along the curve, then the cell in that quadrant's own frame,
    which is turned and mirrored so that the curve in it begins where the last one ended.
    """
    place = np.zeros(len(x), np.int64)
    for bit in reversed(range(bits)):
        right, below = x >> bit & 1, y >> bit & 1
        place += (3 * right ^ below) << 2 * bit
        mirrored = (below == 0) & (right == 1)
        x, y = (np.where(mirrored, 2**bits - 1 - v, v) for v in (x, y))
        x, y = np.where(below == 0, y, x), np.where(below == 0, x, y)
    return place


def _plane(context: SinkContext) -> tuple[int, int]:
    """(width, height) of the slide in level-0 pixels."""
    if context.levels:
        return context.levels[0].width, context.levels[0].height
    scale = context.mpp / context.slide_mpp
    return round(context.size[0] * scale), round(context.size[1] * scale)


def _moved(geometries: Geometries, offset: tuple[int, int]) -> Geometries:
    """Back into the full plane, on the grid."""
    if offset == (0, 0):
        return geometries
    moved: Geometries = shapely.transform(geometries, lambda xy: np.round(xy + offset, DECIMALS))
    return moved


def _constant(value: str | None, count: int) -> pa.DictionaryArray:
    return _repeated(np.full(count, -1 if value is None else 0), [] if value is None else [value])


def _repeated(indices: NDArray[np.int64], values: list[str]) -> pa.DictionaryArray:
    """Values by index; -1 is null."""
    import pyarrow as pa

    chosen = pa.array(indices.astype(np.int32), mask=indices < 0)
    return pa.DictionaryArray.from_arrays(chosen, pa.array(values, pa.string()))
