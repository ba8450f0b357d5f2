"""Streaming a slide's patches: each of the file's tiles is decoded once per strip, whatever the patches' overlap.

1. A *strip* is as many rows of windows as fit into ``STRIP`` px. Its windows are ordered by column, then row.
2. The file's tiles that any window of the strip needs are decoded in the same order, by column, then row, and each is
   copied at once into every window that it is a part of: one decode and one copy, with no picture in between. A tile
   that is exactly one window is decoded in its place.
3. Windows are complete in their own order as the tiles go by, so the batches in work hold a few columns of windows,
   never a strip. Tiles are decoded in groups by a pool of threads; decoding and copying release Python's lock.
4. Where the pixels are not a level's own, or the reader has no tiles to hand out, super-tiles are read and cut instead,
   in the same threads.

The order of batches, and every pixel, is the same for any number of threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.buffers import BufferPool
from wsikit.errors import ConfigError, PixelReadError
from wsikit.geometry import Level, Region
from wsikit.predictions import Batch
from wsikit.slides import BadTile, Pixels, Slide
from wsikit.slides.tiles import TileReader
from wsikit.tiling import TileGrid, cut

STRIP = 8192
"""Height in px of a strip. Tiles at its seams are decoded twice where windows cross them: 3 % of tiles of 256 px."""
GROUP_PIXELS = 1 << 19
"""Pixels of the tiles that one task decodes: 2 to 4 ms, against 0.1 ms that handing a task to a thread costs. With
four times as many, what is under way falls out of the processor's cache: a tenth slower with two threads."""
BATCH_PIXELS = 1 << 20
"""Pixels in a batch of the default size: few enough to be in the cache still when the caller looks at them."""
SUPERTILE = 2048
"""Side in px of what is read at once where there are no tiles to decode one by one."""


def batches(
    slide: Slide,
    grid: TileGrid,
    *,
    batch_size: int | None = None,
    threads: int = 1,
    bad: list[BadTile] | None = None,
) -> Iterator[Batch]:
    """Stream a slide's patches.

    Args:
        slide: an open slide.
        grid: the windows, as ``TileGrid.cover`` gives them.
        batch_size: largest number of patches in a batch; by default as many as make 1 megapixel.
        threads: how many decode at once. With 1 everything happens in the caller's thread when a batch is asked for;
            with more, the next batches are read while the caller works on this one.
        bad: where a list is given, patches with pixels that cannot be decoded are left out, and the tiles of the file
            to blame are appended to it, each once.

    Yields:
        Batches in a fixed order that ``Batch.regions`` tells: strip by strip, within a strip by column. Their arrays
        are memory that is used again as soon as nobody holds them or a part of them: drop a batch before asking for
        the next one and no new memory is needed.

    Raises:
        ConfigError: a batch size or number of threads below 1.
        PixelReadError: some pixels cannot be decoded and ``bad`` was not given.
    """
    if threads < 1:
        raise ConfigError(f"threads is a positive number, got {threads}")
    if batch_size is None:
        batch_size = max(1, BATCH_PIXELS // grid.spec.patch**2)
    if batch_size < 1:
        raise ConfigError(f"batch_size is a positive number of patches, got {batch_size}")
    level = next((level for level in slide.levels if level.mpp == grid.spec.mpp), None)
    faults = _Faults(bad)
    if level is not None and isinstance(slide.reader, TileReader):
        source = _Source(slide.reader, level, slide.reader.background, *slide.reader.tile_size(level.index))
        steps = _by_tiles(source, grid, batch_size, faults)
    else:
        steps = (_SuperTile(slide, part, batch_size, faults) for part in grid.supertiles(SUPERTILE))
    with _pool(threads) as pool:
        yield from _in_order(steps, pool, 2 * threads)


class _Step(Protocol):
    """A piece of work on the way to batches."""

    def work(self) -> None:
        """Read pixels; called in any thread, in any order."""
        ...

    def finish(self) -> Iterator[Batch]:
        """The batches that are complete now; called in the caller's thread, in the order of the steps."""
        ...


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    if threads == 1:
        yield None
        return
    pool = ThreadPoolExecutor(threads, "wsikit-decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(steps: Iterable[_Step], pool: ThreadPoolExecutor | None, ahead: int) -> Iterator[Batch]:
    running: deque[tuple[_Step, Future[None]]] = deque()
    for step in steps:
        if pool is None:
            step.work()
            yield from step.finish()
            continue
        running.append((step, pool.submit(step.work)))
        if len(running) > ahead:
            yield from _finished(*running.popleft())
    while running:
        yield from _finished(*running.popleft())


def _finished(step: _Step, future: Future[None]) -> Iterator[Batch]:
    future.result()
    return step.finish()


class _Faults:
    """Where tiles that cannot be decoded are noted; without a list the error goes on its way."""

    def __init__(self, bad: list[BadTile] | None) -> None:
        self._bad = bad

    @property
    def tolerated(self) -> bool:
        return self._bad is not None

    def note(self, tiles: Iterable[BadTile]) -> None:
        if self._bad is not None:
            self._bad += [tile for tile in tiles if tile not in self._bad]


@dataclass(slots=True)
class _SuperTile:
    """A square of the slide that is read at once and cut."""

    slide: Slide
    grid: TileGrid
    batch_size: int
    faults: _Faults
    _bad: tuple[BadTile, ...] = ()
    _batches: list[Batch] = field(default_factory=list)

    def work(self) -> None:
        region = self.grid.extent()
        if not self.faults.tolerated:
            self._batches = list(cut(self.slide.read(region), region, self.grid, self.batch_size))
            return
        part = self.slide.read_partial(region)
        boxes = [tile.lattice(self.slide.mpp / region.mpp) for tile in part.bad]
        hit = [[patch.overlap(box) > 0 for box in boxes] for patch in self.grid]
        good = np.array([not any(row) for row in hit], np.bool_)
        # a tile between the windows is no window's loss
        self._bad = tuple(tile for k, tile in enumerate(part.bad) if any(row[k] for row in hit))
        self._batches = list(cut(part.pixels, region, self.grid.where(good), self.batch_size))

    def finish(self) -> Iterator[Batch]:
        self.faults.note(self._bad)
        while self._batches:
            yield self._batches.pop(0)


@dataclass(frozen=True, slots=True)
class _Source:
    """The tiles of one level."""

    reader: TileReader
    level: Level
    background: tuple[int, int, int]
    tile_width: int
    tile_height: int

    def bad_tile(self, column: int, row: int) -> BadTile:
        x, y = column * self.tile_width, row * self.tile_height
        width, height = min(self.tile_width, self.level.width - x), min(self.tile_height, self.level.height - y)
        return BadTile(self.level.index, (x, y, width, height), self.level.downsample)


def _by_tiles(source: _Source, grid: TileGrid, batch_size: int, faults: _Faults) -> Iterator[_Step]:
    pool = BufferPool()
    per_strip = max(1, STRIP // grid.spec.step)
    columns, rows = grid.cells.T
    strip_of = (rows - rows.min(initial=0)) // per_strip
    order = np.lexsort((rows, columns, strip_of))
    starts = np.flatnonzero(np.diff(strip_of[order])) + 1
    group = max(1, GROUP_PIXELS // (source.tile_width * source.tile_height))
    for cells in np.split(grid.cells[order], starts):
        if len(cells):
            strip = _Strip(source, TileGrid(grid.spec, cells, grid.size), batch_size, pool, faults)
            yield from strip.groups(group)


class _Strip:
    """Windows by column, then row; the tiles that they need in the same order; the batches that are being filled."""

    def __init__(self, source: _Source, grid: TileGrid, batch_size: int, pool: BufferPool, faults: _Faults) -> None:
        self.source = source
        self.faults = faults
        self._grid, self._batch_size, self._pool = grid, batch_size, pool
        self._arrays: dict[int, Pixels] = {}
        self._blank = np.full((grid.spec.patch, grid.spec.patch, 3), source.background, np.uint8)
        self._lost: set[int] = set()
        self._emitted = 0
        corners = grid.corners
        # as Python's numbers: a window of the grid takes five times as long to ask for
        self._corners = corners.tolist()
        self._shares = _Shares.of(corners, grid.spec.patch, source)
        size = np.array([source.level.width, source.level.height])
        self._sticks_out = np.flatnonzero(((corners < 0) | (corners + grid.spec.patch > size)).any(axis=1))
        # windows are complete in order: each with its last tile, and not before the windows ahead of it
        self._complete_after = np.maximum.accumulate(self._shares.last_tile(len(grid)))

    def groups(self, size: int) -> Iterator[_Step]:
        """The tiles in groups, the windows' memory being laid out as far as a group reaches."""
        shares = self._shares
        for first in range(0, shares.tiles, size):
            last = min(first + size, shares.tiles)
            low, high = shares.starts[first], shares.starts[last]
            self._reserve(int(shares.window[low:high].max()))
            rows = shares.table[low:high].tolist()
            yield _TileGroup(self, [rows[a - low : b - low] for a, b in shares.spans(first, last)], last)

    def slot(self, window: int) -> Pixels:
        """(patch, patch, 3) place of a window in its batch."""
        batch, row = divmod(window, self._batch_size)
        slot: Pixels = self._arrays[batch][row]
        return slot

    def lose(self, windows: Iterable[int], tiles: Iterable[tuple[int, int]]) -> None:
        """Note tiles that cannot be decoded and the windows that need them."""
        self._lost.update(windows)
        self.faults.note(self.source.bad_tile(*tile) for tile in tiles)

    def complete(self, tiles: int) -> Iterator[Batch]:
        """The batches that are whole once the first ``tiles`` tiles have been decoded."""
        windows = int(np.searchsorted(self._complete_after, tiles, side="left"))
        full = windows // self._batch_size if windows < len(self._grid) else -(-windows // self._batch_size)
        for batch in range(self._emitted, full):
            self._emitted = batch + 1
            found = self._batch(batch)
            if len(found):
                yield found

    def _batch(self, batch: int) -> Batch:
        images, spec = self._arrays.pop(batch), self._grid.spec
        windows = range(batch * self._batch_size, batch * self._batch_size + len(images))
        kept = [window for window in windows if window not in self._lost]
        places = (self._corners[window] for window in kept)
        regions = tuple(Region(x, y, spec.patch, spec.patch, spec.mpp) for x, y in places)
        return Batch(images if len(kept) == len(images) else images[[k - windows.start for k in kept]], regions)

    def _reserve(self, window: int) -> None:
        patch = self._grid.spec.patch
        for batch in range(max(self._arrays, default=self._emitted - 1) + 1, window // self._batch_size + 1):
            first = batch * self._batch_size
            count = min(self._batch_size, len(self._grid) - first)
            images = self._arrays[batch] = self._pool.take((count, patch, patch, 3))
            low, high = np.searchsorted(self._sticks_out, (first, first + count))
            for place in (self._sticks_out[low:high] - first).tolist():
                # copied whole: numpy takes ten times as long to repeat three values
                images[place] = self._blank


@dataclass(slots=True)
class _TileGroup:
    """Some tiles of a strip and the windows that they go to."""

    strip: _Strip
    tiles: list[list[list[int]]]
    """For each tile the rows of ``_Shares.table`` that say where it goes."""
    done: int
    """Tiles of the strip that are decoded when this group and all before it are."""
    _bad: list[tuple[int, int]] = field(default_factory=list)
    _lost: list[int] = field(default_factory=list)

    def work(self) -> None:
        for goes in self.tiles:
            column, row = goes[0][1:3]
            try:
                self._decode(column, row, goes)
            except PixelReadError:
                if not self.strip.faults.tolerated:
                    raise
                self._bad.append((column, row))
                self._lost += [share[0] for share in goes]

    def _decode(self, column: int, row: int, goes: list[list[int]]) -> None:
        source = self.strip.source
        width, height = source.tile_width, source.tile_height
        if len(goes) == 1 and goes[0][3:] == [0, 0, 0, 0, width, height]:
            slot = self.strip.slot(goes[0][0])
            if slot.shape[:2] == (height, width):
                source.reader.read_tile(source.level.index, column, row, slot)
                return
        tile = _scratch(height, width)
        source.reader.read_tile(source.level.index, column, row, tile)
        for window, _, _, x, y, tx, ty, w, h in goes:
            self.strip.slot(window)[y : y + h, x : x + w] = tile[ty : ty + h, tx : tx + w]

    def finish(self) -> Iterator[Batch]:
        self.strip.lose(self._lost, self._bad)
        return self.strip.complete(self.done)


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """Which part of which tile is which part of which window."""

    table: NDArray[np.int64]
    """(N, 9) window, tile column, tile row, x and y in the window, x and y in the tile, width, height; by tile."""
    starts: NDArray[np.int64]
    """(tiles + 1,) first row of each tile, tiles being in the order of column, then row."""

    @classmethod
    def of(cls, corners: NDArray[np.int64], patch: int, source: _Source) -> _Shares:
        """All shares of square windows of ``patch`` px with their (N, 2) upper left corners in px of the level."""
        level = np.array([source.level.width, source.level.height])
        tile = np.array([source.tile_width, source.tile_height])
        low, high = np.maximum(corners, 0), np.minimum(corners + patch, level)
        first = low // tile
        across, down = (np.maximum(-(-high // tile) - first, 0)).T
        window = np.repeat(np.arange(len(corners)), across * down)
        nth = np.arange(len(window)) - np.repeat(np.cumsum(across * down) - across * down, across * down)
        tiles = first[window] + np.stack([nth // down[window], nth % down[window]], axis=1)
        start = np.maximum(low[window], tiles * tile)
        size = np.minimum(high[window], (tiles + 1) * tile) - start
        table = np.column_stack([window, tiles, start - corners[window], start - tiles * tile, size])
        table = table[np.lexsort((window, tiles[:, 1], tiles[:, 0]))]
        new = np.any(np.diff(table[:, 1:3], axis=0, prepend=-1), axis=1)
        return cls(table, np.append(np.flatnonzero(new), len(table)))

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self.starts) - 1

    @property
    def window(self) -> NDArray[np.int64]:
        """(N,) the window of each share."""
        return self.table[:, 0]

    def spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(first row, row past the last) of each of some tiles."""
        bounds = self.starts[first : last + 1].tolist()
        return pairwise(bounds)

    def last_tile(self, windows: int) -> NDArray[np.int64]:
        """(windows,) number of tiles to decode, in order, until a window is complete, counted from 0."""
        tile = np.repeat(np.arange(self.tiles), np.diff(self.starts))
        last = np.zeros(windows, np.int64)
        np.maximum.at(last, self.window, tile)
        return last


_local = threading.local()


def _scratch(height: int, width: int) -> Pixels:
    """A tile of this thread's own, whose content nobody needs any more."""
    tile: Pixels | None = getattr(_local, "tile", None)
    if tile is None or tile.shape != (height, width, 3):
        tile = _local.tile = np.empty((height, width, 3), np.uint8)
    return tile
