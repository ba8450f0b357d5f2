"""Features as GeoJSON that QuPath 0.4 and newer opens: one FeatureCollection, written feature by feature.

What QuPath asks for and is kept here: ``objectType`` inside ``properties``, ids that are UUIDs, a colour with every
classification, finite measurements, rings that stay valid on QuPath's grid of 0.01 px, one Polygon per detection or
cell, ``nucleusGeometry`` beside ``geometry``, and no null, NaN, ``crs``, GeometryCollection or indentation.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsikit.errors import ConfigError, OutputError, PredictionError
from wsikit.features import Features
from wsikit.predictions import Label
from wsikit.sinks import SinkContext

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "wsikit/features")
"""Namespace of feature ids: ``uuid5(NAMESPACE, "slide_id\\nkind\\nlabel name\\ncoordinates as written")``."""

DECIMALS = 2
"""Decimals of coordinates: QuPath itself writes two, and since 0.6 reduces what it reads to 0.01 px."""
SIGNIFICANT = 6
"""Significant digits of measurements: more than any of them carries."""
GZIP_LEVEL = 4
"""Almost twice as fast as 5 on coordinates, for 4 % more bytes."""
CHUNK = 4096
"""Features turned to text at once; bounds the memory of ``write`` whatever it is given."""

_POINT, _POLYGON, _MULTIPOLYGON = 0, 3, 6
_TYPE_NAMES = {_POINT: b"Point", _POLYGON: b"Polygon", _MULTIPOLYGON: b"MultiPolygon"}
_HEAD = b'{"type":"FeatureCollection","features":[\n'
_TAIL = b"\n]}\n"

Geometries = NDArray[np.object_]


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing ``path`` into an OutputError, code no_space or io_error, chained."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            code="no_space" if full else "io_error",
            remedy="free some space and run again" if full else "give a folder that exists and can be written to",
        ) from error


def temporary(path: Path) -> Path:
    """The hidden name, in the same folder, under which ``path`` is written until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class GeoJSONSink:
    """Writes features to ``.geojson`` or, gzipped, ``.geojson.gz``.

    Coordinates are (x, y) in level-0 pixels of the full plane less ``context.bounds_offset`` (QuPath crops to the
    bounds), rounded to 0.01 px. Outlines that rounding makes invalid are repaired on that grid; a detection, cell or
    tile stays one Polygon (the largest part), only annotations may be MultiPolygons. The bytes, compressed too, depend
    only on the features and their order.

    Args:
        path: the final path.
        split: with more features than this, write ``<stem>-001``, ``-002``, ... of at most so many features each
            instead of the one file. The sink then owns these names and removes those that an earlier run left.

    Attributes:
        written: features written so far.
        repaired: of these, the ones whose outline had to be mended or cut to its largest part.
        dropped: features not written, since nothing is left of them on the grid of 0.01 px.
        paths: the files, after commit.

    Raises:
        ConfigError: another suffix, or a split below 1.
        OutputError: from begin, write and commit, where the disk refuses.
        PredictionError: from write, where features break their contract.
    """

    takes: ClassVar[Literal["features"]] = "features"
    filename: ClassVar[str] = "objects.geojson.gz"

    def __init__(self, path: str | Path, *, split: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.name.endswith((".geojson", ".geojson.gz")):
            raise ConfigError(f"a GeoJSON path must end in .geojson or .geojson.gz, got {str(path)!r}")
        if split is not None and split < 1:
            raise ConfigError(f"split is a number of features per file, at least 1, got {split}")
        self.split = split
        self._context: SinkContext | None = None
        self._parts: list[_Part] = []
        self.written = self.repaired = self.dropped = 0
        self.paths: tuple[Path, ...] = ()

    def begin(self, context: SinkContext) -> None:
        """Open the temporary output."""
        self.abort()
        self.written = self.repaired = self.dropped = 0
        self.paths = ()
        with output_errors(self.path):
            for left in self._numbered(".", f".{os.getpid()}.tmp"):  # by a process that died and had our id
                left.unlink()
        self._open_part()
        self._context = context

    def write(self, features: Features) -> None:
        """Append features."""
        context = self._begun()
        _check(features, len(context.labels))
        for start in range(0, len(features), CHUNK):
            self._append(self._texts(_cut(features, start, start + CHUNK), context))

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path or paths."""
        self._begun()
        finals = (self.path,) if len(self._parts) == 1 else tuple(map(self._part_path, range(1, len(self._parts) + 1)))
        with output_errors(self.path):
            for part in self._parts:
                part.finish()
            for part, final in zip(self._parts, finals, strict=True):
                part.path.replace(final)
            for stale in self._stale(finals):
                stale.unlink()
            sync(self.path.parent)
        self._parts, self._context, self.paths = [], None, finals

    def abort(self) -> None:
        """Remove everything written."""
        for part in self._parts:
            part.discard()
        self._parts, self._context = [], None

    def _begun(self) -> SinkContext:
        if self._context is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._context

    def _open_part(self) -> None:
        with output_errors(self.path):
            self._parts.append(_Part(temporary(self._part_path(len(self._parts) + 1))))

    def _part_path(self, number: int) -> Path:
        stem, suffix = self._stem()
        return self.path.with_name(f"{stem}-{number:03d}{suffix}")

    def _stem(self) -> tuple[str, str]:
        cut = self.path.name.rindex(".geojson")
        return self.path.name[:cut], self.path.name[cut:]

    def _stale(self, finals: Sequence[Path]) -> list[Path]:
        """What an earlier run left. Numbered names are ours only where split is used or the file name is wsikit's own:
        elsewhere ``case-001.geojson`` beside ``case.geojson`` may be another slide's."""
        stale = [self.path] if self.path not in finals and self.path.exists() else []
        if self.split is not None or self.path.name == self.filename:
            stale += [path for path in self._numbered() if path not in finals]
        return stale

    def _numbered(self, before: str = "", after: str = "") -> list[Path]:
        """The files in the folder that have the name of a part, between ``before`` and ``after``."""
        stem, suffix = self._stem()
        name = re.compile(rf"{re.escape(before + stem)}-\d{{3,}}{re.escape(suffix + after)}")
        return [path for path in self.path.parent.iterdir() if name.fullmatch(path.name)]

    def _append(self, texts: list[bytes]) -> None:
        with output_errors(self.path):
            while texts:
                room = len(texts) if self.split is None else self.split - self._parts[-1].count
                if room == 0:
                    self._parts[-1].finish()
                    self._open_part()
                    continue
                self._parts[-1].append(texts[:room])
                self.written += len(texts[:room])
                texts = texts[room:]

    def _texts(self, features: Features, context: SinkContext) -> list[bytes]:
        """The features of one chunk as JSON texts, the dropped ones left out."""
        single = features.kind != "annotation"
        geometries, repaired = snapped(features.geometries, context.bounds_offset, single=single)
        kept = ~shapely.is_missing(geometries)
        self.repaired += int((repaired & kept).sum())
        self.dropped += int((~kept).sum())
        coordinates = _coordinate_texts(geometries)
        shapes = _geometry_texts(geometries, coordinates)
        ids = _ids(features, context, coordinates)
        nuclei = _nucleus_texts(features, context.bounds_offset)
        properties = _property_texts(features, context.labels)
        return [
            b'{"type":"Feature","id":"%b","geometry":%b%b,"properties":%b}'
            % (ids[i], shapes[i], nuclei[i], properties[i])
            for i in np.flatnonzero(kept).tolist()
        ]


class _Part:
    """One FeatureCollection on its way, under a temporary name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._raw: IO[bytes] = path.open("wb")
        self._out: IO[bytes] | gzip.GzipFile = self._raw
        if ".geojson.gz." in path.name:
            # without name and time in the header: the same bytes every time
            self._out = gzip.GzipFile("", "wb", GZIP_LEVEL, self._raw, mtime=0)
        self._out.write(_HEAD)

    def append(self, texts: list[bytes]) -> None:
        """Add features; at least one."""
        self._out.write((b",\n" if self.count else b"") + b",\n".join(texts))
        self.count += len(texts)

    def finish(self) -> None:
        """Close the collection and flush it to disk; a second call does nothing."""
        if self._raw.closed:
            return
        self._out.write(_TAIL)
        if self._out is not self._raw:
            self._out.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()

    def discard(self) -> None:
        """Remove the file. A disk that is full refuses the last flush too, which no longer matters."""
        try:
            self._raw.close()
        except OSError:
            # close() releases the descriptor even where its flush fails
            pass
        finally:
            self.path.unlink(missing_ok=True)


def _check(features: Features, labels: int) -> None:
    count = len(features)
    columns = {"labels": features.labels, **features.measurements}
    for name, values in columns.items():
        if values.shape != (count,):
            raise PredictionError(f"features need {count} values of {name!r}, got an array of {values.shape}")
    if count and not -1 <= features.labels.min() <= features.labels.max() < labels:
        raise PredictionError(f"feature labels must be -1 (none) or an index below {labels}")
    if features.nuclei is not None and (features.kind != "cell" or len(features.nuclei) != count):
        raise PredictionError(
            f"nuclei go with cells, one each; got {len(features.nuclei)} with {count} {features.kind}s"
        )
    if features.names is not None and len(features.names) != count:
        raise PredictionError(f"features need {count} names, got {len(features.names)}")


def _cut(features: Features, start: int, stop: int) -> Features:
    part = slice(start, stop)
    return Features(
        features.kind,
        features.geometries[part],
        features.labels[part],
        {name: values[part] for name, values in features.measurements.items()},
        None if features.nuclei is None else features.nuclei[part],
        None if features.names is None else features.names[part],
    )


def snapped(
    geometries: Geometries, offset: tuple[float, float], *, single: bool
) -> tuple[Geometries, NDArray[np.bool_]]:
    """Move by -``offset``, round to 0.01 px and keep valid.

    Args:
        geometries: (N,) Points, Polygons or MultiPolygons; None and empty ones come back as None.
        offset: (x, y) in pixels of the geometries' frame, taken off.
        single: keep only the largest part of what has several.

    Returns:
        (N,) geometries, each valid or None where nothing is left, and (N,) whether it was mended.

    Raises:
        PredictionError: another kind of geometry, or coordinates that are not finite.
    """
    result = np.full(len(geometries), None, object)
    mended = np.zeros(len(geometries), bool)
    present = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    types = shapely.get_type_id(geometries)
    unknown = present & ~np.isin(types, list(_TYPE_NAMES))
    if unknown.any():
        raise PredictionError(f"features are Points, Polygons or MultiPolygons, got {geometries[unknown][0].geom_type}")
    for kind in _TYPE_NAMES:
        chosen = np.flatnonzero(present & (types == kind))
        if len(chosen):
            result[chosen] = _rounded(geometries[chosen], offset)
    bad = present & (~shapely.is_valid(result) | (single & (types == _MULTIPOLYGON)))
    for i in np.flatnonzero(bad).tolist():
        result[i] = _mended(shapely.transform(geometries[i], lambda xy: xy - offset), single)
        mended[i] = shapely.get_num_geometries(geometries[i]) > 1 or types[i] == _POLYGON
    return result, mended


def _rounded(geometries: Geometries, offset: tuple[float, float]) -> Geometries:
    kind, xy, offsets = shapely.to_ragged_array(geometries, include_z=False)
    if not np.isfinite(xy).all():
        raise PredictionError("feature coordinates must be finite, got NaN or infinity")
    # adding 0.0 turns -0.0 into 0.0
    rounded: Geometries = shapely.from_ragged_array(kind, np.round(xy - offset, DECIMALS) + 0.0, offsets)
    return rounded


def _mended(geometry: Any, single: bool) -> Any:
    """The polygonal part of an outline on the grid of 0.01 px: its largest Polygon where ``single``; None if empty."""
    valid = geometry if shapely.is_valid(geometry) else shapely.make_valid(geometry)
    # GEOS divides by lengths that are zero where an outline collapses, and copes with it
    with np.errstate(divide="ignore", invalid="ignore"):
        on_grid = shapely.set_precision(valid, 10.0**-DECIMALS)
    # twice: a GeometryCollection may hold MultiPolygons
    parts = shapely.get_parts(shapely.get_parts(on_grid))
    parts = parts[(shapely.get_type_id(parts) == _POLYGON) & ~shapely.is_empty(parts)]
    if len(parts) == 0:
        return None
    parts = _rounded(parts, (0.0, 0.0))  # on the grid already, but for -0.0
    parts = parts[shapely.is_valid(parts)]
    if single or len(parts) < 2:
        return parts[np.argmax(shapely.area(parts))] if len(parts) else None
    whole = shapely.multipolygons(parts)
    return whole if shapely.is_valid(whole) else parts[np.argmax(shapely.area(parts))]


def _coordinate_texts(geometries: Geometries) -> list[bytes]:
    """(N,) the "coordinates" of each geometry; empty where it is None."""
    types = shapely.get_type_id(geometries)
    texts = [b""] * len(geometries)
    for kind, write in _COORDINATES.items():
        chosen = np.flatnonzero(types == kind)
        if len(chosen):
            for i, text in zip(chosen.tolist(), write(geometries[chosen]), strict=True):
                texts[i] = text
    return texts


def _pairs(xy: NDArray[np.float64]) -> tuple[bytes, list[int]]:
    """Coordinates as one text "[[x,y],[x,y],..." and where in it the comma (or bracket) after each pair stands.

    One call for all of them: orjson spends more on entering a small array than on formatting its numbers.
    """
    text = orjson.dumps(np.ascontiguousarray(xy), option=orjson.OPT_SERIALIZE_NUMPY)
    closing = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("]")) + 1
    return text, [0, *closing[:-1].tolist()]


def _point_texts(points: Geometries) -> list[bytes]:
    text, ends = _pairs(shapely.get_coordinates(points))
    return [text[start + 1 : stop] for start, stop in pairwise(ends)]


def _polygon_texts(polygons: Geometries) -> list[bytes]:
    _, xy, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons, include_z=False)
    text, ends = _pairs(xy)
    starts = ring_starts.tolist()
    rings = [b"[%b]" % text[ends[a] + 1 : ends[b]] for a, b in pairwise(starts)]
    bounds = polygon_starts.tolist()
    return [b"[%b]" % b",".join(rings[a:b]) for a, b in pairwise(bounds)]


def _multipolygon_texts(multipolygons: Geometries) -> list[bytes]:
    parts = _polygon_texts(shapely.get_parts(multipolygons))
    bounds = [0, *np.cumsum(shapely.get_num_geometries(multipolygons)).tolist()]
    return [b"[%b]" % b",".join(parts[a:b]) for a, b in pairwise(bounds)]


_COORDINATES: Mapping[int, Callable[[Geometries], list[bytes]]] = {
    _POINT: _point_texts,
    _POLYGON: _polygon_texts,
    _MULTIPOLYGON: _multipolygon_texts,
}


def _geometry_texts(geometries: Geometries, coordinates: list[bytes]) -> list[bytes]:
    kinds = shapely.get_type_id(geometries).tolist()
    return [
        b'{"type":"%b","coordinates":%b}' % (_TYPE_NAMES[kind], text) if text else b""
        for kind, text in zip(kinds, coordinates, strict=True)
    ]


def _nucleus_texts(features: Features, offset: tuple[int, int]) -> list[bytes]:
    """(N,) the member ``nucleusGeometry`` with its leading comma; empty where there is no nucleus."""
    if features.nuclei is None:
        return [b""] * len(features)
    nuclei, _ = snapped(features.nuclei, offset, single=True)
    texts = _geometry_texts(nuclei, _coordinate_texts(nuclei))
    return [b',"nucleusGeometry":' + text if text else b"" for text in texts]


def _ids(features: Features, context: SinkContext, coordinates: list[bytes]) -> list[bytes]:
    """(N,) uuid5 texts; ``uuid.uuid5`` itself, feature by feature, takes five times as long."""
    names = [*(label.name for label in context.labels), ""]  # label -1 is the last
    heads = [NAMESPACE.bytes + f"{context.slide_id}\n{features.kind}\n{name}\n".encode() for name in names]
    labels = features.labels.tolist()
    digests = [hashlib.sha1(heads[k] + text).digest() for k, text in zip(labels, coordinates, strict=True)]
    octets = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)[:, :16].copy()
    # RFC 9562: version 5 in the seventh octet, the variant in the ninth
    octets[:, 6] = octets[:, 6] & 0x0F | 0x50
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = octets.tobytes().hex()
    ids = (digits[i : i + 32] for i in range(0, len(digits), 32))
    return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}".encode() for d in ids]


def _property_texts(features: Features, labels: tuple[Label, ...]) -> list[bytes]:
    tail = b',"isLocked":true' if features.kind == "annotation" else b""
    heads = [_property_head(features, label) + tail for label in (*labels, None)]
    names = [b',"name":' + orjson.dumps(n) for n in features.names] if features.names else [b""] * len(features)
    rows = zip(features.labels.tolist(), names, _measurement_texts(features), strict=True)
    return [b"{%b%b%b}" % (heads[label], name, measured) for label, name, measured in rows]


def _property_head(features: Features, label: Label | None) -> bytes:
    head: dict[str, Any] = {"objectType": features.kind}
    if label is not None:
        head["classification"] = {"name": label.name, "color": list(label.color)}
    return orjson.dumps(head)[1:-1]


def _measurement_texts(features: Features) -> list[bytes]:
    """(N,) the member ``measurements`` with its leading comma, NaN left out; empty where nothing was measured."""
    if not features.measurements:
        return [b""] * len(features)
    columns = [_column_texts(name, values) for name, values in features.measurements.items()]
    rows = (b",".join(filter(None, row)) for row in zip(*columns, strict=True))
    return [b',"measurements":{%b}' % row if row else b"" for row in rows]


def _column_texts(name: str, values: NDArray[np.float64]) -> list[bytes]:
    if np.isinf(values).any():
        raise PredictionError(f"measurement {name!r} holds infinity; give NaN for what was not measured")
    key = orjson.dumps(name) + b":"
    numbers = orjson.dumps(_significant(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return [b"" if number == b"null" else key + number for number in numbers]


def _significant(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to SIGNIFICANT digits, whole numbers kept whole. n / 10**k is the nearest double, and so short, for
    k up to 22."""
    size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
    scale = 10.0 ** np.clip(SIGNIFICANT - 1 - np.floor(np.log10(size)), 0, 22)
    rounded: NDArray[np.float64] = np.round(values * scale) / scale + 0.0
    return rounded
