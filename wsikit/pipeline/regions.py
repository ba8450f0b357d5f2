"""What lies in each region of a slide: the areas that were drawn for it, or else the pieces of its tissue.

``regions.csv`` has a row for each, with the same numbers as a slide has in ``summary.csv``. Pieces of tissue share
nothing, so theirs add up to the slide's. Drawn areas may overlap: what lies in several counts in each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.atomic import replace_file
from wsikit.features import MaskBlock
from wsikit.geometry import Region
from wsikit.limits import Area, Limits
from wsikit.outlines import pixels
from wsikit.pipeline.lettering import printable
from wsikit.predictions import Label
from wsikit.slides import Slide
from wsikit.stitching.density import UNITS, Counts
from wsikit.tissue import TissueMask

REGIONS = "regions.csv"
PLACE_COLUMNS = ("slide_id", "region", "name", "class", "x0", "y0", "x1", "y1", "area_mm2")
COLUMNS = (*PLACE_COLUMNS, "objects", "objects_per_mm2")
Found = Iterator[tuple[int, NDArray[np.intp]]]
"""Number of a region, from 0, and which of some points lie in it; only regions that hold any."""


class _Regions(Protocol):
    """Regions of one slide."""

    titles: Sequence[tuple[str, str]]
    """Name and class of each."""
    boxes: NDArray[np.float64]
    """(N, 4) x0, y0, x1, y1 in level-0 pixels of the full plane."""
    areas_um2: NDArray[np.float64]
    """(N,) of their tissue."""

    def holding(self, x: NDArray[np.float64], y: NDArray[np.float64], mpp: float) -> Found:
        """Which points, in pixels of the lattice of ``mpp`` and on tissue inside the limits, each region holds.

        There is at least one.
        """
        ...

    def values(self, region: Region, classes: NDArray[np.unsignedinteger]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Number of a region, from 0, and how many pixels of it have each value, (at least the largest + 1,).

        ``classes`` are those of the pixels of ``region``, 0 off the tissue and outside the limits.
        """
        ...


class TissuePieces:
    """The connected pieces of a tissue mask (4-connected), row by row of their first pixels."""

    def __init__(self, tissue: TissueMask, slide: Slide) -> None:
        from scipy import ndimage

        self._pieces, count = ndimage.label(tissue.array)
        self._mpp = tissue.mpp
        self.titles: Sequence[tuple[str, str]] = [(f"Tissue {k}", "") for k in range(1, count + 1)]
        pixels = np.bincount(self._pieces.ravel(), minlength=count + 1)[1:]
        self.areas_um2 = pixels.astype(np.float64) * tissue.mpp**2
        found = ndimage.find_objects(self._pieces)
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in found], np.float64).reshape(count, 4)
        # the mask's last pixels may reach past the slide
        plane = (slide.width, slide.height) * 2
        self.boxes = np.minimum(boxes * (tissue.mpp / slide.mpp), plane)

    def holding(self, x: NDArray[np.float64], y: NDArray[np.float64], mpp: float) -> Found:
        """See ``_Regions``."""
        scale = mpp / self._mpp
        pieces = self._pieces[np.floor(y * scale).astype(np.int64), np.floor(x * scale).astype(np.int64)]
        order = np.argsort(pieces, kind="stable")
        numbers, starts = np.unique(pieces[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            yield number - 1, rows

    def values(self, region: Region, classes: NDArray[np.unsignedinteger]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """See ``_Regions``."""
        scale = region.mpp / self._mpp
        # what lies beyond the mask is no tissue, so that its piece does not matter
        columns, rows = (
            np.minimum(np.floor((np.arange(start, stop) + 0.5) * scale).astype(np.int64), size - 1)
            for start, stop, size in zip(
                (region.x, region.y), (region.x1, region.y1), self._pieces.shape[::-1], strict=True
            )
        )
        pieces = self._pieces[rows[:, None], columns]
        kinds = int(classes.max()) + 1
        counts = np.bincount((pieces * kinds + classes).ravel(), minlength=kinds)
        table = np.append(counts, np.zeros(-len(counts) % kinds, np.int64)).reshape(-1, kinds)
        for piece in np.flatnonzero(table[:, 1:].any(axis=1)).tolist():
            yield piece - 1, table[piece]


class DrawnAreas:
    """The areas of a region of interest, in the order of their file."""

    def __init__(self, tissue: TissueMask, slide: Slide, areas: Sequence[Area]) -> None:
        self._shapes, self._mpp = [area.shape for area in areas], slide.mpp
        self.titles: Sequence[tuple[str, str]] = [(area.name, area.label) for area in areas]
        self.boxes = shapely.bounds(self._shapes).reshape(len(areas), 4)
        self.areas_um2 = np.array([_tissue_um2(tissue, slide, shape) for shape in self._shapes], np.float64)
        shapely.prepare(self._shapes)

    def holding(self, x: NDArray[np.float64], y: NDArray[np.float64], mpp: float) -> Found:
        """See ``_Regions``; a point on an edge lies inside, as it does for ``Limits``."""
        scale = mpp / self._mpp
        x, y = x * scale, y * scale
        x0, y0, x1, y1 = self.boxes.T
        near = (x0 <= x.max()) & (x1 >= x.min()) & (y0 <= y.max()) & (y1 >= y.min())
        for number in np.flatnonzero(near).tolist():
            left, top, right, bottom = self.boxes[number]
            rows = np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
            rows = rows[shapely.intersects_xy(self._shapes[number], x[rows], y[rows])]
            if len(rows):
                yield number, rows

    def values(self, region: Region, classes: NDArray[np.unsignedinteger]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """See ``_Regions``; a pixel lies where its centre does."""
        scale = self._mpp / region.mpp
        x0, y0, x1, y1 = (self.boxes * scale).T
        near = (x0 < region.x1) & (x1 > region.x) & (y0 < region.y1) & (y1 > region.y)
        for number in np.flatnonzero(near).tolist():
            parts = shapely.get_parts(np.array([self._shapes[number]], object))
            rows, columns, _ = pixels(shapely.transform(parts, lambda xy: xy * scale), region)
            if len(rows):
                yield number, np.bincount(classes[rows, columns])


def _tissue_um2(tissue: TissueMask, slide: Slide, shape: shapely.Geometry) -> float:
    """Of what of the tissue lies inside a shape: of each pixel of the mask the share that does."""
    scale = slide.mpp / tissue.mpp
    x0, y0, x1, y1 = (np.array(shape.bounds) * scale).tolist()
    height, width = tissue.array.shape
    box = Region(int(x0) - 1, int(y0) - 1, int(x1 - int(x0)) + 3, int(y1 - int(y0)) + 3, tissue.mpp)
    inside = box.intersection(Region(0, 0, width, height, tissue.mpp))
    if inside is None:
        return 0.0
    shares = Limits(shapely.get_parts(np.array([shape], object)), slide.mpp).shares(inside)
    return float(shares[tissue.array[inside.y : inside.y1, inside.x : inside.x1]].sum()) * tissue.mpp**2


@dataclass(slots=True)
class RegionTable:
    """Counts of each region, added up while results stream by."""

    regions: _Regions
    labels: Sequence[Label]
    has_density: bool
    objects: NDArray[np.int64] = field(init=False)
    """(N, K) of each region and class."""
    units: NDArray[np.int64] = field(init=False)
    """(N,) what the density map counts, in ``1 / UNITS`` objects."""
    total_units: int = 0
    """On the whole slide."""

    def __post_init__(self) -> None:
        count = len(self.regions.titles)
        self.objects, self.units = np.zeros((count, len(self.labels)), np.int64), np.zeros(count, np.int64)

    @classmethod
    def of(cls, tissue: TissueMask, slide: Slide, labels: Sequence[Label], *, has_density: bool) -> RegionTable:
        """Nothing counted yet, in the regions of a slide."""
        return cls(_regions(tissue, slide), labels, has_density)

    def add_objects(self, xy: NDArray[np.float64], labels: NDArray[np.int64], mpp: float) -> None:
        """Take (N, 2) centroids in pixels of the lattice of ``mpp``, all on tissue inside the limits."""
        for number, rows in self.regions.holding(xy[:, 0], xy[:, 1], mpp):
            self.objects[number] += np.bincount(labels[rows], minlength=len(self.labels))

    def add_density(self, counts: Counts, mpp: float) -> None:
        """Take cells of a density map whose places are on the lattice of ``mpp``."""
        self.total_units += int(counts.units.sum())
        for number, rows in self.regions.holding(counts.x, counts.y, mpp):
            self.units[number] += counts.units[rows].sum()

    @property
    def density_count(self) -> float | None:
        """Objects on the whole slide by its density map; None where there is none."""
        return self.total_units / UNITS if self.has_density else None

    def write(self, path: Path, slide_id: str) -> None:
        """Write ``regions.csv``: UTF-8, comma, a line per region; see ``rows``.

        Raises OutputError where it cannot be written.
        """
        write_rows(path, self._columns(), self._rows(slide_id))

    def _columns(self) -> list[str]:
        names = [label.name for label in self.labels]
        density = ["density_count", "density_per_mm2"] if self.has_density else []
        return [*COLUMNS, *(f"objects:{n}" for n in names), *(f"objects_per_mm2:{n}" for n in names), *density]

    def _rows(self, slide_id: str) -> Iterator[list[Any]]:
        for k in range(len(self.regions.titles)):
            mm2, objects = float(self.regions.areas_um2[k]) / 1e6, self.objects[k].tolist()
            counted = float(self.units[k]) / UNITS
            yield [
                *_place(self.regions, k, slide_id),
                *(sum(objects), _per_mm2(sum(objects), mm2)),
                *objects,
                *(_per_mm2(n, mm2) for n in objects),
                *([f"{counted:.3f}", _per_mm2(counted, mm2)] if self.has_density else []),
            ]


@dataclass(slots=True)
class MapRegions:
    """Areas of the classes of each region, added up while blocks of a class map stream by."""

    regions: _Regions
    labels: Sequence[Label]
    pixels: NDArray[np.int64] = field(init=False)
    """(N, K) of each region and class."""
    mpp: float = 0.0
    """Of the pixels, once a block has come."""

    def __post_init__(self) -> None:
        self.pixels = np.zeros((len(self.regions.titles), len(self.labels)), np.int64)

    @classmethod
    def of(cls, tissue: TissueMask, slide: Slide, labels: Sequence[Label]) -> MapRegions:
        """Nothing counted yet, in the regions of a slide."""
        return cls(_regions(tissue, slide), labels)

    def add(self, block: MaskBlock) -> None:
        """Take the next block of a class map."""
        self.mpp = block.region.mpp
        for number, counts in self.regions.values(block.region, block.layers["classes"]):
            self.pixels[number, : len(counts) - 1] += counts[1:]

    def write(self, path: Path, slide_id: str) -> None:
        """Write ``regions.csv``: UTF-8, comma, a line per region.

        Raises OutputError where it cannot be written.
        """
        names = [label.name for label in self.labels]
        columns = [*PLACE_COLUMNS, *(f"area_mm2:{n}" for n in names), *(f"fraction:{n}" for n in names)]
        write_rows(path, columns, self._rows(slide_id))

    def _rows(self, slide_id: str) -> Iterator[list[Any]]:
        for k, counts in enumerate(self.pixels.tolist()):
            total = sum(counts)
            yield [
                *_place(self.regions, k, slide_id),
                *(f"{n * self.mpp**2 / 1e6:.6f}" for n in counts),
                *(f"{n / total:.6f}" if total else "" for n in counts),
            ]


def _regions(tissue: TissueMask, slide: Slide) -> _Regions:
    """Drawn areas where the tissue has limits, else its pieces."""
    limits = tissue.limits
    return TissuePieces(tissue, slide) if limits is None else DrawnAreas(tissue, slide, limits.areas)


def _place(regions: _Regions, number: int, slide_id: str) -> list[Any]:
    """What ``PLACE_COLUMNS`` say of a region."""
    name, label = regions.titles[number]
    box = (f"{edge:.2f}" for edge in regions.boxes[number].tolist())
    return [slide_id, number + 1, name, label, *box, f"{float(regions.areas_um2[number]) / 1e6:.6f}"]


def _per_mm2(count: float, mm2: float) -> str:
    return f"{count / mm2:.2f}" if mm2 else ""


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with a head line; control characters of names are escaped, so a row is a line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow([printable(cell) for cell in row])
    replace_file(path, text.getvalue().encode())
