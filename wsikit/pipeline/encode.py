"""A slide's windows to encoded patches, in the order of the grid.

A window that is exactly one JPEG tile of the file is *passed through*: the tile's own bytes, no decoding. All others
are decoded and encoded once. Decoding (``streaming.batches``) and encoding go on in threads beside each other; what
comes out, and its order, is the same for any number of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PixelReadError
from wsikit.geometry import Level
from wsikit.patches import Encoding, Subsampling
from wsikit.patches.images import encode
from wsikit.predictions import Batch
from wsikit.quality import ANY_QUALITY, Quality, QualityFilter
from wsikit.slides import SCALED, BadTile, Pixels, Slide
from wsikit.slides.jpeg import subsampling
from wsikit.slides.tiles import TileReader
from wsikit.streaming import STRIP, batches
from wsikit.tiling import TileGrid

BLOCK = 16
"""Side in px of the largest blocks that JPEG puts together: 4:2:0's."""
AHEAD = 2
"""Batches in work for each thread that encodes: memory for them, 12 MB each, against idle threads."""
Places = dict[tuple[int, ...], int]
"""(x, y) of a window's corner -> its index, for the windows of a band."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def own_level(slide: Slide, mpp: float) -> Level | None:
    """The stored level whose own pixels a lattice is; None where pixels are resampled or decoded at a reduced size."""
    if slide.reader.name == SCALED:
        return None
    return next((level for level in slide.levels if level.mpp == mpp), None)


def can_pass(slide: Slide, grid: TileGrid, step: int) -> NDArray[np.bool_]:
    """(N,) which windows are one JPEG tile of the file, there and wholly on the slide.

    None are where windows overlap (``step`` is less than a patch): neighbours would differ in how often they were
    compressed.
    """
    level, reader, patch = own_level(slide, grid.spec.mpp), slide.reader, grid.spec.patch
    none = np.zeros(len(grid), np.bool_)
    if level is None or not isinstance(reader, TileReader) or reader.codec(level.index) != "jpeg":
        return none
    if reader.tile_size(level.index) != (patch, patch) or step < patch:
        return none
    corners = grid.corners
    inside = ((corners >= 0) & (corners % patch == 0) & (corners + patch <= grid.size)).all(axis=1)
    columns, rows = corners[inside].T // patch
    none[inside] = reader.tile_bytes(level.index)[rows, columns] > 0
    return none


def own_subsampling(slide: Slide, grid: TileGrid) -> Subsampling:
    """That of the file's own tiles where patches lie on their blocks, else "444", none.

    On the blocks of a 4:2:0 slide 4:2:0 takes a sixth less room and a third less time, and comes nearer to the slide's
    pixels than as much 4:4:4. 8 px beside them it loses 5 dB, and up to 11 where the slide's colours are fine
    (docs/measured.md).
    """
    level, reader = own_level(slide, grid.spec.mpp), slide.reader
    if level is None or not isinstance(reader, TileReader) or reader.codec(level.index) != "jpeg":
        return "444"
    present = np.argwhere(reader.tile_bytes(level.index) > 0)
    sides = (*reader.tile_size(level.index), grid.spec.patch)
    if not len(present) or any(side % BLOCK for side in sides) or (grid.corners % BLOCK).any():
        return "444"
    row, column = present[0].tolist()
    with suppress(PixelReadError):
        found = subsampling(reader.tile_jpeg(level.index, column, row) or b"")
        return cast(Subsampling, found or "444")
    return "444"


@dataclass(slots=True)
class _OwnTiles:
    """The compressed tiles of the file that windows of a grid are."""

    reader: TileReader
    level: Level
    side: int
    places: list[list[int]]
    """Column and row of each window's tile."""

    @classmethod
    def of(cls, slide: Slide, grid: TileGrid) -> _OwnTiles:
        """For windows that ``can_pass``: looked up once, since asking whether a reader has tiles takes 40 us."""
        level = own_level(slide, grid.spec.mpp)
        assert isinstance(slide.reader, TileReader)
        assert level is not None
        return cls(slide.reader, level, grid.spec.patch, (grid.corners // grid.spec.patch).tolist())

    def read(self, index: int) -> bytes:
        """Raises PixelReadError where its header tells that it is damaged."""
        data = self.reader.tile_jpeg(self.level.index, *self.places[index])
        assert data is not None, "can_pass leaves out tiles that are not there"
        return data

    def bad_tile(self, index: int) -> BadTile:
        """The tile, as one that cannot be used."""
        x, y = (place * self.side for place in self.places[index])
        return BadTile(self.level.index, (x, y, self.side, self.side), self.level.downsample)


@dataclass
class PatchEncoder:
    """Iterates over (index of the window, encoded patch) by index; afterwards says what was left out.

    Raises PixelReadError never: patches with pixels that cannot be decoded are left out, the tiles listed in ``bad``.
    """

    slide: Slide
    grid: TileGrid
    passed: NDArray[np.bool_]
    """(N,) windows whose tile is taken as it is; from ``can_pass``."""
    encoding: Encoding | None = "jpeg"
    """None: nothing is encoded, and without ``qc`` or ``verify`` nothing is read."""
    quality: int = 90
    subsampling: Subsampling = "444"
    threads: int = 1
    qc: QualityFilter = ANY_QUALITY
    """Patches that are not good enough are left out. To look at them, those passed through are decoded, too."""
    verify: bool = False
    """Decode what is passed through, so that a damaged tile is found now and not by who reads the patch."""
    bad: list[BadTile] = field(default_factory=list)
    measures: list[Quality] = field(default_factory=list)
    """Of all patches looked at; none without ``qc``."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        untouched = self.passed if self.encoding else np.ones(len(self.grid), np.bool_)
        decoded = ~untouched if not (self.verify or self.qc.limits) else np.ones(len(self.grid), np.bool_)
        with _pool(self.threads) as pool:
            yield from heapq.merge(self._as_they_are(~decoded), self._encoded(decoded, pool))

    @cached_property
    def _tiles(self) -> _OwnTiles:
        return _OwnTiles.of(self.slide, self.grid)

    def _as_they_are(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, bytes]]:
        for index in np.flatnonzero(wanted).tolist():
            try:
                yield index, self._tiles.read(index) if self.encoding else b""
            except PixelReadError:
                self.bad.append(self._tiles.bad_tile(index))

    def _encoded(self, wanted: NDArray[np.bool_], pool: ThreadPoolExecutor | None) -> Iterator[tuple[int, bytes]]:
        """Band by band; the next one is being read while one is handed on."""
        done: list[tuple[int, bytes]] = []
        current: Places = {}
        for places, kept, measures in _mapped(pool, self._encode, self._batches(wanted), AHEAD * self.threads):
            if places is not current:
                yield from sorted(done)
                done, current = [], places
            done += kept
            self.measures += measures
        yield from sorted(done)

    def _batches(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[Places, Batch]]:
        for band in _bands(self.grid, np.flatnonzero(wanted)):
            part = TileGrid(self.grid.spec, self.grid.cells[band], self.grid.size)
            places = {tuple(corner): index for corner, index in zip(part.corners.tolist(), band.tolist(), strict=True)}
            for batch in batches(self.slide, part, threads=self.threads, bad=self.bad):
                yield places, batch

    def _encode(self, item: tuple[Places, Batch]) -> tuple[Places, list[tuple[int, bytes]], list[Quality]]:
        places, batch = item
        indices = [places[region.x, region.y] for region in batch.regions]
        measured = [Quality.of(batch.images, self.grid.spec.mpp)] if self.qc.limits else []
        good = self.qc.passes(measured[0]) if measured else np.ones(len(indices), np.bool_)
        chosen = zip(indices, batch.images, good, strict=True)
        return places, [(index, self._data(index, image)) for index, image, fine in chosen if fine], measured

    def _data(self, index: int, image: Pixels) -> bytes:
        if self.encoding is None:
            return b""
        if self.passed[index]:
            return self._tiles.read(index)
        return encode(image, self.encoding, self.quality, self.subsampling)


def _bands(grid: TileGrid, indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The windows in bands of rows as high as those that ``batches`` streams, so that each comes in order of its own.

    What is kept to be put in order are the encoded patches of one band.
    """
    rows = grid.cells[indices, 1]
    band = (rows - rows.min(initial=0)) // max(1, STRIP // grid.spec.step)
    return (part for part in np.split(indices, np.flatnonzero(np.diff(band)) + 1) if len(part))


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    if threads == 1:
        yield None
        return
    pool = ThreadPoolExecutor(threads, "wsikit-encode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _mapped(
    pool: ThreadPoolExecutor | None, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Results in the order of the items, a bounded number in work."""
    running: deque[Future[Result]] = deque()
    for item in items:
        if pool is None:
            yield work(item)
        else:
            running.append(pool.submit(work, item))
        # a batch that nobody holds gives its memory back
        del item
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
