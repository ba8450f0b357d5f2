"""``Slide``: a continuous pyramid of resolutions over the discrete levels of a ``Reader``."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PixelReadError, ResolutionError
from wsikit.geometry import Box, Level, Region
from wsikit.slides.levels import true_downsamples
from wsikit.slides.resample import area_average, source_box

Pixels = NDArray[np.uint8]

LEVEL_TOLERANCE = 0.02
"""A wanted mpp this close (relative) to a level's reads the level unresampled."""
FINEST_TOLERANCE = 0.10
"""A wanted mpp finer than level 0 by at most this reads level 0; the true mpp is recorded. Finer is refused."""
MPP_RANGE = (0.02, 100.0)
"""Micrometres per level-0 pixel that a light microscope slide or field can have."""
ANISOTROPY = 0.02
"""Largest relative difference of mpp in x and y that counts as square pixels."""
DEFAULT_TILE = 256
MAX_READ_PIXELS = 48_000_000
"""Source pixels held at once while a region is resampled (about 150 MB)."""
STRIP_TILES = 8
"""Rows of tiles that a strip of such a read is high, where these are fewer pixels: less memory, which is also faster to
touch, against one row of tiles at each seam that is decoded twice."""


class Reader(Protocol):
    """One file format library behind a fixed face: discrete levels, RGB out, errors raised and never painted over.

    A reader gives every pixel of a level one value, however the reads are cut: two overlapping reads agree on their
    overlap (the conformance suite checks it). Safe to call from several threads. A reader of another package may say
    with a class attribute ``suffixes`` which files of a folder are slides (".abc", lower case).
    """

    name: str
    """The registry name."""
    path: Path
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each level, finest first."""
    downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level, as the library says; 1.0 first. ``true_downsamples`` corrects them."""
    mpp: tuple[float, float] | None
    """Micrometres per level-0 pixel in x and y, as the file says, or None."""
    mpp_source: str
    """Where the file says so ("openslide.mpp-x", "TIFF XResolution"), or what was found instead of an mpp."""
    vendor: str
    """What made the file: "aperio", "hamamatsu", "generic-tiff", "png"."""
    properties: Mapping[str, str]
    """Everything else that the file says of itself."""
    bounds: tuple[int, int, int, int] | None
    """x, y, width, height of the scanned area in level-0 pixels where the file records one (QuPath crops to it)."""
    background: tuple[int, int, int]
    """RGB of what was not scanned."""
    is_field: bool
    """True for plain images (a microscope field, a dataset tile): all of it is tissue unless detection is asked for."""

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height) of the file's own tiles at ``level``: the unit in which pixels can be unreadable."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width, 3) pixels of ``level``; x, y in pixels of that level, the box wholly inside it.

        Transparent pixels come as ``background``. The array may be read-only: a copy costs as much as a fifth of the
        decoding. Raises PixelReadError where any pixel cannot be decoded; the reader stays usable after that.
        Raises SlideOpenError where the reader was closed or the file is gone: that is no bad tile.
        """
        ...

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """Names and (width, height) of the label, macro and thumbnail images."""
        ...

    def close(self) -> None:
        """Release the file. Closing twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class BadTile:
    """A tile of the file whose pixels cannot be decoded."""

    level: int
    """Pyramid level on which it was met."""
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels of that level."""
    downsample: float
    """Level-0 pixels per pixel of that level."""

    def level0(self) -> Box:
        """x0, y0, x1, y1 in level-0 pixels."""
        return self.lattice(1.0)

    def lattice(self, scale: float) -> Box:
        """x0, y0, x1, y1 on a lattice with ``scale`` pixels per level-0 pixel."""
        x, y, w, h = (v * self.downsample * scale for v in self.box)
        return x, y, x + w, y + h


@dataclass(frozen=True, slots=True, eq=False)
class PartialRead:
    """Pixels with the unreadable tiles set to the background colour, and the list of those tiles."""

    pixels: Pixels
    bad: tuple[BadTile, ...] = ()


@dataclass(slots=True)
class _BadTiles:
    """Which tiles of each level are known to be unreadable, so that they are tried once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    known: dict[int, set[tuple[int, int]]] = field(default_factory=dict)


def checked_mpp(reader: Reader, override: float | None) -> float:
    """The one mpp of a slide. Raises ResolutionError where the file's is missing, absurd or anisotropic.

    Args:
        reader: an open reader.
        override: micrometres per level-0 pixel that the user vouches for, or None to trust the file.
    """
    low, high = MPP_RANGE
    remedy = "say the resolution with --mpp-override (micrometres per level-0 pixel) or a manifest column 'mpp'"
    if override is not None:
        if not (math.isfinite(override) and low <= override <= high):
            raise ResolutionError(
                f"an mpp override must be {low} to {high} um per level-0 pixel, got {override!r}", code="absurd_mpp"
            )
        return float(override)
    if reader.mpp is None:
        raise ResolutionError(
            f"{reader.path.name} does not say its resolution (mpp): {reader.mpp_source}",
            code="missing_mpp",
            remedy=remedy,
        )
    x, y = reader.mpp
    found = f"{reader.mpp_source} says {x:g} x {y:g} um per pixel"
    if not all(math.isfinite(v) and low <= v <= high for v in (x, y)):
        raise ResolutionError(
            f"{reader.path.name}: {found}, which is not between {low} and {high}", code="absurd_mpp", remedy=remedy
        )
    if abs(x - y) > ANISOTROPY * max(x, y):
        raise ResolutionError(
            f"{reader.path.name}: {found}; pixels that are not square are not supported",
            code="anisotropic_mpp",
            remedy=remedy + ", if the file is wrong",
        )
    return (x + y) / 2


def _blank(height: int, width: int, colour: tuple[int, int, int]) -> Pixels:
    pixels = np.empty((height, width, 3), np.uint8)
    # numpy takes ten times as long to repeat three values as to repeat one
    pixels[:] = colour[0] if len(set(colour)) == 1 else colour
    return pixels


class Slide:
    """A slide: pixels at any resolution up to its finest, on fixed lattices.

    Pickles as (path, reader name, mpp override); a worker that unpickles it reopens the file. Context manager.

    Args:
        reader: an open reader; the slide owns it.
        mpp_override: micrometres per level-0 pixel, replacing what the file says.

    Raises:
        ResolutionError: mpp missing, absurd or anisotropic and no override given.
    """

    def __init__(self, reader: Reader, mpp_override: float | None = None) -> None:
        self.reader = reader
        self.mpp_override = mpp_override
        try:
            self.mpp = checked_mpp(reader, mpp_override)
        except ResolutionError:
            reader.close()
            raise
        self.mpp_source = "override" if mpp_override is not None else reader.mpp_source
        downsamples = true_downsamples(reader.sizes, reader.downsamples)
        self.levels = tuple(
            Level(i, w, h, d, self.mpp * d) for i, ((w, h), d) in enumerate(zip(reader.sizes, downsamples, strict=True))
        )
        self._bad = _BadTiles()

    def __reduce__(self) -> tuple[Any, ...]:
        from wsikit.slides import open_slide

        return open_slide, (self.path, self.mpp_override, self.reader.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Slide {self.path.name} {self.width}x{self.height} px at {self.mpp:.4g} um/px, {self.reader.name}>"

    @property
    def path(self) -> Path:
        """The file that was opened."""
        return self.reader.path

    @property
    def width(self) -> int:
        """Level-0 pixels of the full plane."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Level-0 pixels of the full plane."""
        return self.levels[0].height

    @property
    def bounds_offset(self) -> tuple[int, int]:
        """(x, y) in level-0 pixels that QuPath takes off: the corner of ``openslide.bounds``, or (0, 0)."""
        return self.reader.bounds[:2] if self.reader.bounds else (0, 0)

    def close(self) -> None:
        """Release the file."""
        self.reader.close()

    def resolve(self, mpp: float) -> float:
        """The mpp that a wish for ``mpp`` gets: a level's own where one is near, else the wish itself.

        Raises ResolutionError(resolution_unavailable) where the slide holds nothing as fine.
        """
        near = min(self.levels, key=lambda level: abs(level.mpp - mpp))
        if abs(near.mpp - mpp) <= LEVEL_TOLERANCE * mpp:
            return near.mpp
        if mpp >= self.mpp:
            return mpp
        if self.mpp <= mpp * (1 + FINEST_TOLERANCE):
            return self.mpp
        raise ResolutionError(
            f"{self.path.name} holds nothing finer than {self.mpp:.4g} um per pixel, {mpp:.4g} was asked for",
            code="resolution_unavailable",
            remedy=f"ask for --mpp {self.mpp:.3g} or coarser",
        )

    def size_at(self, mpp: float) -> tuple[int, int]:
        """(width, height) of the slide on the lattice of ``mpp``; the last pixel may lie partly outside."""
        for level in self.levels:
            if level.mpp == mpp:
                return level.width, level.height
        scale = self.mpp / mpp
        return max(1, math.ceil(self.width * scale - 1e-6)), max(1, math.ceil(self.height * scale - 1e-6))

    def plane(self, mpp: float) -> Region:
        """All of the slide as one region on the lattice of ``mpp``."""
        return Region(0, 0, *self.size_at(mpp), mpp)

    def read(self, region: Region) -> Pixels:
        """(region.height, region.width, 3) RGB of a region; what lies outside the slide is its background colour.

        The array may be read-only; copy it to change it.

        Raises:
            PixelReadError: some of it cannot be decoded; the message lists the tiles.
            ResolutionError: the slide holds nothing as fine as ``region.mpp``.
        """
        part = self.read_partial(region)
        if part.bad:
            boxes = ", ".join(f"x={b.box[0]} y={b.box[1]} {b.box[2]}x{b.box[3]}" for b in part.bad[:4])
            raise PixelReadError(
                f"{self.path.name}: {len(part.bad)} tile(s) of level {part.bad[0].level} cannot be decoded: {boxes}"
            )
        return part.pixels

    def read_partial(self, region: Region) -> PartialRead:
        """Like ``read``, but unreadable tiles come as background colour and are listed."""
        for level in self.levels:
            if level.mpp == region.mpp:
                return self._read_level(level, region.x, region.y, region.width, region.height)
        finer = [level for level in self.levels if level.mpp < region.mpp]
        if not finer:
            raise ResolutionError(
                f"{self.path.name} holds nothing finer than {self.mpp:.4g} um per pixel, {region.mpp:.4g} was asked "
                "for; pass the mpp that Slide.resolve gives",
                code="resolution_unavailable",
            )
        level = finer[-1]
        ratio = region.mpp / level.mpp
        height = min(MAX_READ_PIXELS / (region.width * ratio), STRIP_TILES * self.reader.tile_size(level.index)[1])
        rows = max(1, int(height / ratio))
        pixels = np.empty((region.height, region.width, 3), np.uint8)
        bad: dict[BadTile, None] = {}
        for y in range(region.y, region.y1, rows):
            box = (region.x, y, region.width, min(rows, region.y1 - y))
            x0, y0, x1, y1 = source_box(ratio, box)
            part = self._read_level(level, x0, y0, x1 - x0, y1 - y0)
            pixels[y - region.y :][:rows] = area_average(part.pixels, (x0, y0), ratio, box)
            bad |= dict.fromkeys(part.bad)
            # or the next strip is read while this one is still held
            del part
        return PartialRead(pixels, tuple(bad))

    def _read_level(self, level: Level, x: int, y: int, width: int, height: int) -> PartialRead:
        """A box in pixels of ``level``, which may reach outside."""
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, level.width), min(y + height, level.height)
        if (x0, y0, x1, y1) == (x, y, x + width, y + height):
            return self._read_inside(level, x, y, width, height)
        pixels = _blank(height, width, self.reader.background)
        if x0 >= x1 or y0 >= y1:
            return PartialRead(pixels)
        part = self._read_inside(level, x0, y0, x1 - x0, y1 - y0)
        pixels[y0 - y : y1 - y, x0 - x : x1 - x] = part.pixels
        return PartialRead(pixels, part.bad)

    def _read_inside(self, level: Level, x: int, y: int, width: int, height: int) -> PartialRead:
        if not self._known_bad(level, x, y, width, height):
            try:
                return PartialRead(self.reader.read(level.index, x, y, width, height))
            except PixelReadError:
                self._find_bad(level, x, y, width, height)
        return self._read_around(level, x, y, width, height)

    def _tiles(self, level: Level, x: int, y: int, width: int, height: int) -> list[tuple[int, int]]:
        tw, th = self.reader.tile_size(level.index)
        columns = range(x // tw, -(-(x + width) // tw))
        return [(i, j) for j in range(y // th, -(-(y + height) // th)) for i in columns]

    def _tile_box(self, level: Level, column: int, row: int) -> tuple[int, int, int, int]:
        tw, th = self.reader.tile_size(level.index)
        x, y = column * tw, row * th
        return x, y, min(tw, level.width - x), min(th, level.height - y)

    def _known_bad(self, level: Level, x: int, y: int, width: int, height: int) -> set[tuple[int, int]]:
        with self._bad.lock:
            known = self._bad.known.get(level.index)
            return known & set(self._tiles(level, x, y, width, height)) if known else set()

    def _find_bad(self, level: Level, x: int, y: int, width: int, height: int) -> None:
        """Halve the box until single tiles fail, always reading whole tiles so that the verdict is the tile's own."""
        tiles = self._tiles(level, x, y, width, height)
        (c0, r0), (c1, r1) = tiles[0], tiles[-1]
        bad: set[tuple[int, int]] = set()
        stack = [(c0, r0, c1, r1)]
        while stack:
            c0, r0, c1, r1 = stack.pop()
            bx, by, *_ = self._tile_box(level, c0, r0)
            ex, ey, ew, eh = self._tile_box(level, c1, r1)
            try:
                self.reader.read(level.index, bx, by, ex + ew - bx, ey + eh - by)
            except PixelReadError:
                if (c0, r0) == (c1, r1):
                    bad.add((c0, r0))
                elif c1 - c0 >= r1 - r0:
                    middle = (c0 + c1) // 2
                    stack += [(c0, r0, middle, r1), (middle + 1, r0, c1, r1)]
                else:
                    middle = (r0 + r1) // 2
                    stack += [(c0, r0, c1, middle), (c0, middle + 1, c1, r1)]
        with self._bad.lock:
            self._bad.known.setdefault(level.index, set()).update(bad)

    def _read_around(self, level: Level, x: int, y: int, width: int, height: int) -> PartialRead:
        """Read tile by tile, leaving the bad ones as background."""
        pixels = _blank(height, width, self.reader.background)
        for tile in self._tiles(level, x, y, width, height):
            tx, ty, tw, th = self._tile_box(level, *tile)
            x0, y0, x1, y1 = max(x, tx), max(y, ty), min(x + width, tx + tw), min(y + height, ty + th)
            found = None if self._is_bad(level, tile) else self._read_tile(level, tile, x0, y0, x1 - x0, y1 - y0)
            if found is not None:
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = found
        bad = self._known_bad(level, x, y, width, height)
        listed = tuple(BadTile(level.index, self._tile_box(level, *t), level.downsample) for t in sorted(bad))
        return PartialRead(pixels, listed)

    def _read_tile(self, level: Level, tile: tuple[int, int], x: int, y: int, width: int, height: int) -> Pixels | None:
        """A box inside one tile; None, and the tile is remembered, where it cannot be decoded."""
        try:
            return self.reader.read(level.index, x, y, width, height)
        except PixelReadError:
            with self._bad.lock:
                self._bad.known.setdefault(level.index, set()).add(tile)
            return None

    def _is_bad(self, level: Level, tile: tuple[int, int]) -> bool:
        with self._bad.lock:
            return tile in self._bad.known.get(level.index, ())
