"""Objects and points: who owns them, who wins at a seam, and in which order they come out.

1. Cores tile the plane. An object belongs to the core that holds its centroid, decided in integers:
   ``x0 * n <= sum_x < x1 * n`` over its n pixels. Every window drops what it does not own, so an object that several
   windows see is kept once.
2. A network may draw one nucleus differently in two windows, so that both own a version. Where objects of different
   cores overlap by more than half of the smaller (points: lie closer than the radius), the higher score stays, then
   the smaller (y, x). Best first, as in non-maximum suppression. Of such a pair one leaves its core, by no more than
   the halo that its window sees: what leaves is compared with what lies within a halo of its own core's edge.
3. Order: by band, then centroid y, x. A band is ``BAND`` neighbouring cores of one row; bands follow each other row by
   row, left to right. They are fixed by the predictor's lattice, so nothing here depends on how many windows a task
   read.

Memory: one band, whatever the size of the slide; while seams are compared, the objects within a halo of those of two
rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.errors import PredictionError
from wsikit.geometry import Box, Region, TileSpec
from wsikit.predictions import Objects, Points
from wsikit.stitching import spool as spools

BAND = 8
"""Cores in a band: about 8192 px of the usual cores."""
Band = tuple[int, int]
"""Row of cores, and which run of ``BAND`` cores in it."""
Place = tuple[Band, int]
"""A record: its band, and its place in the band's order."""
NEAR, LEAVES = 1, 2
"""Where an object lies beside the seams of its core: windows of others draw there, or it reaches over. Else 0."""
_COLUMNS = ("centroids", "cores", "labels", "scores", "seam")
"""Fields of Records that are plain arrays, in the order of the class."""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """N objects on the slide's lattice: (x, y) in lattice pixels, pixel-corner convention."""

    geometries: NDArray[np.object_]
    """(N,) Polygons or Points."""
    nuclei: NDArray[np.object_] | None
    """(N,) Polygons of cells' nuclei."""
    centroids: NDArray[np.float64]
    """(N, 2) x, y in pixel-corner convention."""
    cores: NDArray[np.int64]
    """(N, 2) column, row of the owning core."""
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    seam: NDArray[np.uint8]
    """(N,) 0, ``NEAR`` or ``LEAVES``."""
    measurements: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.geometries)

    def __getitem__(self, index: Any) -> Records:
        return Records(
            self.geometries[index],
            None if self.nuclei is None else self.nuclei[index],
            self.centroids[index],
            self.cores[index],
            self.labels[index],
            self.scores[index],
            self.seam[index],
            {name: values[index] for name, values in self.measurements.items()},
        )

    @staticmethod
    def concatenate(parts: list[Records]) -> Records:
        """One after another. Raises PredictionError unless all carry the same measurements, and nuclei all or none."""
        first = parts[0]
        for part in parts[1:]:
            first.check_like(part)
        join = np.concatenate
        nuclei = [part.nuclei for part in parts if part.nuclei is not None]
        return Records(
            join([p.geometries for p in parts]),
            join(nuclei) if nuclei else None,
            join([p.centroids for p in parts]),
            join([p.cores for p in parts]),
            join([p.labels for p in parts]),
            join([p.scores for p in parts]),
            join([p.seam for p in parts]),
            {name: join([p.measurements[name] for p in parts]) for name in first.measurements},
        )

    def check_like(self, other: Records) -> None:
        """Raise PredictionError unless ``other`` carries the same measurements, and nuclei where this does."""
        names, others = tuple(self.measurements), tuple(other.measurements)
        if names != others:
            raise PredictionError(f"measurements differ between patches: {names} and {others}; give NaN where unknown")
        if (self.nuclei is None) != (other.nuclei is None):
            raise PredictionError("some patches have nuclei and some have none; give them for all objects or for none")

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for a spool file."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _COLUMNS}
        for prefix, shapes in (("outline", self.geometries), ("nucleus", self.nuclei)):
            if shapes is not None:
                kind, coordinates, offsets = shapely.to_ragged_array(shapes)
                arrays |= {f"{prefix}.kind": np.array(int(kind)), f"{prefix}.xy": coordinates}
                arrays |= {f"{prefix}.offsets{i}": values for i, values in enumerate(offsets)}
        return arrays | {f"measurement.{name}": values for name, values in self.measurements.items()}

    @staticmethod
    def from_arrays(arrays: dict[str, NDArray[Any]]) -> Records:
        """The inverse of ``to_arrays``."""
        outlines = _shapes(arrays, "outline")
        assert outlines is not None  # every spool has them
        measured = {
            name.removeprefix("measurement."): values
            for name, values in arrays.items()
            if name.startswith("measurement.")
        }
        columns = {name: arrays[name] for name in _COLUMNS}
        return Records(outlines, _shapes(arrays, "nucleus"), **columns, measurements=measured)


def _shapes(arrays: dict[str, NDArray[Any]], prefix: str) -> NDArray[np.object_] | None:
    if f"{prefix}.kind" not in arrays:
        return None
    offsets = tuple(arrays[key] for key in sorted(k for k in arrays if k.startswith(f"{prefix}.offsets")))
    kind = shapely.GeometryType(int(arrays[f"{prefix}.kind"]))
    made: NDArray[np.object_] = shapely.from_ragged_array(kind, arrays[f"{prefix}.xy"], offsets or None)
    return made


def owned(prediction: Objects | Points, core: Region) -> NDArray[np.bool_]:
    """(N,) which of a patch's objects the core holds. Half-open, exact in integers for objects."""
    region = prediction.region
    if isinstance(prediction, Points):
        x, y = prediction.xy[:, 0] + region.x, prediction.xy[:, 1] + region.y
        inside: NDArray[np.bool_] = (core.x <= x) & (x < core.x1) & (core.y <= y) & (y < core.y1)
        return inside
    sum_x, sum_y, n = prediction.moments.T
    sum_x, sum_y = sum_x + n * region.x, sum_y + n * region.y
    held = (core.x * n <= sum_x) & (sum_x < core.x1 * n) & (core.y * n <= sum_y) & (sum_y < core.y1 * n)
    return np.asarray(held)


class ObjectCollector:
    """Keeps what a super-tile's windows own and spools it, one file per band.

    Args: see ``wsikit.stitching.collector``.
    """

    def __init__(self, spec: TileSpec, bad: list[Box], spool: Path, index: int) -> None:
        self._spec = spec
        self._bad = shapely.union_all(shapely.box(*np.array(bad).T)) if bad else None
        self._spool = spool
        self._index = index
        self._parts: dict[Band, list[Records]] = {}
        self._radii: dict[Band, float] = {}

    def add(self, prediction: Objects | Points, core: Region) -> None:
        """Take the prediction of the window with this core."""
        keep = owned(prediction, core)
        if not keep.any():
            return
        records = _records(prediction, core, self._spec)[keep]
        if self._bad is not None:
            # only as far as the window sees: which tiles the super-tile met beyond it must not matter
            patch = prediction.region
            bad = shapely.intersection(self._bad, shapely.box(patch.x, patch.y, patch.x1, patch.y1))
            records = records[~shapely.intersects(records.geometries, bad)]
        if len(records):
            column, row = (int(v) for v in records.cores[0])
            band = row, column // BAND
            self._parts.setdefault(band, []).append(records)
            if isinstance(prediction, Points):
                self._radii[band] = max(self._radii.get(band, 0.0), prediction.radius)

    def save(self) -> list[Path]:
        """Write the spool files; returns them."""
        saved = []
        for (row, run), parts in self._parts.items():
            path = self._spool / f"o{row}_{run}_{self._index}.npz"
            radius = np.array(self._radii.get((row, run), 0.0))
            spools.save(path, radius=radius, **Records.concatenate(parts).to_arrays())
            saved.append(path)
        return saved


def _records(prediction: Objects | Points, core: Region, spec: TileSpec) -> Records:
    region = prediction.region
    shift = np.array([region.x, region.y], np.float64)
    nuclei = None
    if isinstance(prediction, Points):
        centroids = prediction.xy + shift
        geometries = shapely.points(centroids)
        boxes = np.hstack([centroids - prediction.radius, centroids + prediction.radius])
    else:
        centroids = prediction.moments[:, :2] / prediction.moments[:, 2:] + shift + 0.5
        geometries = shapely.transform(prediction.outlines, lambda xy: xy + shift)
        boxes = shapely.bounds(geometries)
        if prediction.nuclei is not None:
            nuclei = shapely.transform(prediction.nuclei, lambda xy: xy + shift)
    # a point is there for its radius, in whatever window
    near = _leaves(boxes, core, 0 if isinstance(prediction, Points) else spec.halo)
    cell = [(core.x - spec.phase[0]) // spec.core, (core.y - spec.phase[1]) // spec.core]
    return Records(
        geometries,
        nuclei,
        centroids,
        np.tile(np.array(cell, np.int64), (len(centroids), 1)),
        prediction.labels,
        prediction.scores,
        np.where(_leaves(boxes, core, 0), LEAVES, np.where(near, NEAR, 0)).astype(np.uint8),
        dict(prediction.measurements),
    )


def _leaves(boxes: NDArray[np.float64], core: Region, margin: int) -> NDArray[np.bool_]:
    """(N,) whether a box (x0, y0, x1, y1) reaches out of a core without so many of its outermost pixels."""
    x0, y0, x1, y1 = boxes.T
    within = (x0 >= core.x + margin) & (y0 >= core.y + margin) & (x1 <= core.x1 - margin) & (y1 <= core.y1 - margin)
    return np.asarray(~within)


class ObjectMerge:
    """All spools of a slide as one sequence in final order.

    Args:
        spool: folder that the collectors saved to.
    """

    def __init__(self, spool: Path) -> None:
        self._files: dict[Band, list[Path]] = {}
        for path in sorted(spool.glob("o*_*_*.npz")):
            row, run, _ = path.stem[1:].split("_")
            self._files.setdefault((int(row), int(run)), []).append(path)
        self._bands = sorted(self._files)
        # the largest that any spool names, known before the first pair is compared; points only
        self._radius = max((spools.value(path, "radius") for path in chain(*self._files.values())), default=0.0)
        self._example: Records | None = None
        self._dropped = self._resolve()

    @property
    def seam_conflicts(self) -> int:
        """Objects dropped because a better one of another core claims their place."""
        return sum(len(places) for places in self._dropped.values())

    def __iter__(self) -> Iterator[tuple[Records, Origin]]:
        """Band after band: the surviving records in final order, and where each was spooled."""
        for band in self._bands:
            records, origin = self._load(band)
            keep = np.ones(len(records), np.bool_)
            keep[list(self._dropped.get(band, ()))] = False
            yield records[keep], origin[keep]

    def _load(self, band: Band) -> tuple[Records, Origin]:
        loaded = [spools.load(path) for path in self._files[band]]
        parts = [Records.from_arrays(arrays) for arrays in loaded]
        if self._example is None:
            self._example = parts[0][:0]
        self._example.check_like(parts[0])
        origin = Origin.of(self._files[band], [len(part) for part in parts])
        records = Records.concatenate(parts)
        order = np.lexsort((records.labels, records.scores, records.centroids[:, 0], records.centroids[:, 1]))
        return records[order], origin[order]

    def _seam(self, row: int) -> tuple[list[Records], list[Place]]:
        """Objects of a row of cores near or over its seams, band by band, and where they stand."""
        parts: list[Records] = []
        places: list[Place] = []
        for band in self._bands:
            if band[0] != row:
                continue
            records, _ = self._load(band)
            found = np.flatnonzero(records.seam)
            if len(found):
                parts.append(records[found])
                places += [(band, int(place)) for place in found]
        return parts, places

    def _resolve(self) -> dict[Band, set[int]]:
        pairs: list[tuple[Place, Place]] = []
        rank: dict[Place, tuple[float, float, float]] = {}
        rows = sorted({row for row, _ in self._bands})
        current: tuple[list[Records], list[Place]] = ([], [])
        for i, row in enumerate(rows):
            current = current if i and rows[i - 1] == row - 1 else self._seam(row)
            below = self._seam(row + 1)
            self._compare(current, below, pairs, rank)
            current = below
        return _suppress(pairs, rank)

    def _compare(
        self,
        current: tuple[list[Records], list[Place]],
        below: tuple[list[Records], list[Place]],
        pairs: list[tuple[Place, Place]],
        rank: dict[Place, tuple[float, float, float]],
    ) -> None:
        """Add the conflicts within a row, and between it and the next, to ``pairs``."""
        if not current[1]:
            return
        records, places = Records.concatenate(current[0] + below[0]), current[1] + below[1]
        first, second = self._overlaps(records)
        # pairs within the row below are found when it is the current one
        new = first < len(current[1])
        for a, b in zip(first[new], second[new], strict=True):
            pairs.append((places[a], places[b]))
            for i in (a, b):
                x, y = records.centroids[i]
                rank[places[i]] = (-float(records.scores[i]), float(y), float(x))

    def _overlaps(self, records: Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of different cores that claim one place, the first before the second."""
        shapes, leaving = records.geometries, np.flatnonzero(records.seam == LEAVES)
        tree, points = shapely.STRtree(shapes), len(shapes) and isinstance(shapes[0], shapely.Point)
        near: dict[str, Any] = (
            {"predicate": "dwithin", "distance": self._radius} if points else {"predicate": "intersects"}
        )
        found = tree.query(shapes[leaving], **near)
        pairs = np.unique(np.sort(np.stack([leaving[found[0]], found[1]], axis=1), axis=1), axis=0)
        first, second = pairs[(records.cores[pairs[:, 0]] != records.cores[pairs[:, 1]]).any(axis=1)].T
        if points:
            return first, second
        smaller = np.minimum(shapely.area(shapes[first]), shapely.area(shapes[second]))
        much = shapely.area(shapely.intersection(shapes[first], shapes[second])) > 0.5 * smaller
        return first[much], second[much]


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Which spool file, and which place in it, each of N records came from."""

    files: tuple[Path, ...]
    file: NDArray[np.int64]
    place: NDArray[np.int64]

    @staticmethod
    def of(files: list[Path], counts: list[int]) -> Origin:
        """For files with so many records each, in file order."""
        file = np.repeat(np.arange(len(files)), counts)
        place = np.concatenate([np.arange(n) for n in counts]) if counts else np.zeros(0, np.int64)
        return Origin(tuple(files), file, place)

    def __getitem__(self, index: Any) -> Origin:
        return Origin(self.files, self.file[index], self.place[index])


def _suppress(pairs: list[tuple[Place, Place]], rank: dict[Place, tuple[float, float, float]]) -> dict[Band, set[int]]:
    """Best first: whoever stands drops all that conflict with it. Returns band -> places dropped."""
    rivals: dict[Place, list[Place]] = {}
    for a, b in pairs:
        rivals.setdefault(a, []).append(b)
        rivals.setdefault(b, []).append(a)
    gone: set[Place] = set()
    for key in sorted(rivals, key=rank.__getitem__):
        if key not in gone:
            gone.update(rivals[key])
    dropped: dict[Band, set[int]] = {}
    for band, place in gone:
        dropped.setdefault(band, set()).add(place)
    return dropped
