"""Tiled TIFF slides read directly: places of the tiles from the file's table, bytes by ``pread``, pixels by a codec."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PixelReadError, SlideOpenError
from wsikit.slides.colour import PHOTOMETRIC_RGB, tiff_colour_fault
from wsikit.slides.jpeg import JpegTiles
from wsikit.slides.openslide import TIFF_MAGIC, OpenSlideReader
from wsikit.slides.slide import Pixels, Reader

VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's names of the formats whose levels are plain grids of tiles. The others shift, overlap or leave out tiles
(ventana, trestle, philips, leica) or keep a whole level as one JPEG (hamamatsu): OpenSlide knows how to put those
together."""
JPEG = 7
"""TIFF compression (tag 259): JPEG, TIFF Technical Note 2."""
CONTIGUOUS, UPRIGHT = 1, 1
"""TIFF planar configuration (tag 284) RGBRGB..., and orientation (tag 274) with the first pixel at the top left."""
MAX_TILE = 64_000_000
"""Most pixels of a tile (192 MB decoded)."""
MAX_COMPRESSED = 4
"""Most bytes of a tile for each byte of its pixels, over ``SPARE``: no encoder writes more, and a damaged table that
says so must not make anyone read gigabytes."""
SPARE = 1 << 20
"""Bytes that a small tile may have on top, for embedded profiles and the like."""


class Codec(Protocol):
    """How the tiles of one level are decoded. Raises ValueError where a tile is not what the level promises."""

    name: str

    def decode(self, data: bytes, out: Pixels) -> None:
        """Decode one tile into (height, width, 3) uint8, C-contiguous."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """The tiles of one level as the file lists them."""

    size: tuple[int, int]
    """(width, height) of a tile in px."""
    offsets: NDArray[np.int64]
    """(rows, columns) position of each tile in the file, bytes."""
    counts: NDArray[np.int64]
    """(rows, columns) compressed size of each tile, bytes; 0 where the file leaves it out."""
    codec: Codec


class TiffReader:
    """A tiled TIFF, its tiles decoded one by one. Safe to call from several threads, which share no lock.

    What the file is (levels, resolution, vendor, associated images) is what OpenSlide says of it, or tiffslide where
    OpenSlide does not know it, so that a slide is the same through either reader. Pixels are the stored ones: equal to
    OpenSlide's, except where that resamples (levels whose downsample is no whole number). A tile that the file legally
    leaves out (byte count zero) is background.

    Args:
        path: the slide's own file.

    Raises:
        SlideOpenError: not a TIFF whose levels are grids of tiles of a known compression, or unsupported_pixels.
    """

    name = "tiff"
    is_field = False

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: _File | None = None
        with self.path.open("rb") as file:
            if file.read(4) not in TIFF_MAGIC:
                raise SlideOpenError("not a TIFF")
        described, pages = _describe(self.path)
        self.sizes, self.downsamples = described.sizes, described.downsamples
        self.mpp, self.mpp_source = described.mpp, described.mpp_source
        self.vendor, self.properties = described.vendor, described.properties
        self.bounds, self.background = described.bounds, described.background
        self._associated = described.associated()
        self._tables = tuple(
            _table(page, level, size) for level, (page, size) in enumerate(zip(pages, self.sizes, strict=True))
        )
        self._refuse_holes()
        self._scratch = threading.local()
        self._file = _File(self.path)

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height) of the file's tiles."""
        return self._tables[level].size

    def codec(self, level: int) -> str:
        """See ``TileReader.codec``."""
        return self._tables[level].codec.name

    def tile_bytes(self, level: int) -> NDArray[np.int64]:
        """See ``TileReader.tile_bytes``."""
        return self._tables[level].counts

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See ``Reader.read``."""
        tile_width, tile_height = self._tables[level].size
        pixels = np.empty((height, width, 3), np.uint8)
        for row in range(y // tile_height, -(-(y + height) // tile_height)):
            top = row * tile_height
            y0, y1 = max(top, y), min(top + tile_height, y + height)
            for column in range(x // tile_width, -(-(x + width) // tile_width)):
                left = column * tile_width
                x0, x1 = max(left, x), min(left + tile_width, x + width)
                target = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
                if x1 - x0 == width == tile_width and y1 - y0 == tile_height:
                    self.read_tile(level, column, row, target)
                else:
                    tile = self._tile_buffer(tile_width, tile_height)
                    self.read_tile(level, column, row, tile)
                    target[:] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def read_tile(self, level: int, column: int, row: int, out: Pixels) -> None:
        """See ``TileReader.read_tile``."""
        data = self._compressed(level, column, row)
        if data is None:
            out[:] = self.background
            return
        try:
            self._tables[level].codec.decode(data, out)
        except ValueError as error:
            raise PixelReadError(f"{self._tile_name(level, column, row)} cannot be decoded: {error}") from error

    def tile_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """See ``TileReader.tile_jpeg``."""
        codec = self._tables[level].codec
        if not isinstance(codec, JpegTiles):
            raise ValueError(f"level {level} of {self.path.name} holds no JPEG but {codec.name}")
        data = self._compressed(level, column, row)
        try:
            return None if data is None else codec.standalone(data)
        except ValueError as error:
            raise PixelReadError(f"{self._tile_name(level, column, row)} is no sound JPEG: {error}") from error

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """Names and (width, height) of label, macro and thumbnail."""
        return self._associated

    def close(self) -> None:
        """Release the file; a read that is under way in another thread finishes first."""
        self._file = None

    def _compressed(self, level: int, column: int, row: int) -> bytes | None:
        """The bytes of a tile; None where the file leaves it out."""
        file = self._file
        if file is None:
            raise SlideOpenError(f"{self.path.name} was closed")
        table = self._tables[level]
        count = int(table.counts[row, column])
        if count == 0:
            return None
        offset = int(table.offsets[row, column])
        if offset <= 0 or offset + count > file.size:
            raise PixelReadError(
                f"{self._tile_name(level, column, row)} should lie at bytes {offset} to {offset + count} of a file of "
                f"{file.size} bytes: the file was cut short or its table is damaged"
            )
        if count > MAX_COMPRESSED * 3 * table.size[0] * table.size[1] + SPARE:
            raise PixelReadError(f"{self._tile_name(level, column, row)} takes {count} bytes, more than it can need")
        try:
            data = os.pread(file.descriptor, count, offset)
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise SlideOpenError(f"{self.path} is gone: {error.strerror}", code="not_a_file") from error
            raise PixelReadError(f"{self._tile_name(level, column, row)} cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise PixelReadError(f"{self._tile_name(level, column, row)}: {len(data)} of {count} bytes could be read")
        return data

    def _tile_name(self, level: int, column: int, row: int) -> str:
        width, height = self._tables[level].size
        return f"{self.path.name}: the tile of level {level} at ({column * width}, {row * height})"

    def _tile_buffer(self, width: int, height: int) -> Pixels:
        """This thread's own tile: a fresh array costs more in page faults than the copy out of this one."""
        tile: Pixels | None = getattr(self._scratch, "tile", None)
        if tile is None or tile.shape != (height, width, 3):
            tile = self._scratch.tile = np.empty((height, width, 3), np.uint8)
        return tile

    def _refuse_holes(self) -> None:
        """OpenSlide paints the tiles that an Aperio file leaves out of a lower level from the level above."""
        holes = [level for level, table in enumerate(self._tables) if level and not table.counts.all()]
        if self.vendor == "aperio" and holes:
            raise SlideOpenError(f"level {holes[0]} leaves out tiles, which OpenSlide makes from the level above")


class _File:
    """A file descriptor that is closed when the last thread lets it go: a number closed under a read may be reused."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _describe(path: Path) -> tuple[Reader, list[Any]]:
    """What OpenSlide says of the file, and the ``tifffile`` page of each level."""
    import tifffile

    reader = OpenSlideReader(path)
    reader.close()
    if reader.vendor not in VENDORS:
        raise SlideOpenError(f"the levels of a {reader.vendor} file are not plain grids of tiles")
    try:
        with tifffile.TiffFile(path) as tiff:
            listed: Any = tiff.pages
            pages = [page for page in listed if page.is_tiled]
            return reader, [_page_of(pages, level, size) for level, size in enumerate(reader.sizes)]
    except SlideOpenError:
        raise
    except Exception as error:  # tifffile raises what the bad bytes lead to
        raise SlideOpenError(f"{type(error).__name__}: {error}") from error


def _page_of(pages: list[Any], level: int, size: tuple[int, int]) -> Any:
    found = [page for page in pages if (page.imagewidth, page.imagelength) == size]
    if len(found) != 1:
        raise SlideOpenError(
            f"{len(found)} tiled images are {size[0]}x{size[1]} px: which is level {level} is not clear"
        )
    return found[0]


def _table(page: Any, level: int, size: tuple[int, int]) -> TileTable:
    fault = tiff_colour_fault(page)
    if fault:
        raise SlideOpenError(f"level {level} holds {fault}", code="unsupported_pixels")
    if page.planarconfig != CONTIGUOUS or page.tags.valueof("Orientation", 1) != UPRIGHT:
        raise SlideOpenError(f"level {level} keeps its colours in separate planes, or is turned or mirrored")
    tile = int(page.tilewidth), int(page.tilelength)
    if not 0 < tile[0] * tile[1] <= MAX_TILE:
        raise SlideOpenError(f"level {level} has tiles of {tile[0]}x{tile[1]} px")
    columns, rows = (-(-side // t) for side, t in zip(size, tile, strict=True))
    offsets, counts = (np.array(listed, np.int64) for listed in (page.dataoffsets, page.databytecounts))
    if not len(offsets) == len(counts) == rows * columns:
        raise SlideOpenError(
            f"level {level} needs {columns}x{rows} tiles, the file lists {len(offsets)} places and {len(counts)} sizes"
        )
    return TileTable(tile, offsets.reshape(rows, columns), counts.reshape(rows, columns), _codec(page, level, tile))


def _codec(page: Any, level: int, tile: tuple[int, int]) -> Codec:
    if page.compression != JPEG:
        raise SlideOpenError(
            f"level {level} is compressed in a way (TIFF compression {page.compression}) not read here"
        )
    try:
        return JpegTiles(tile, rgb=page.photometric == PHOTOMETRIC_RGB, tables=page.jpegtables or b"")
    except ValueError as error:
        raise SlideOpenError(f"the tables that the tiles of level {level} share are damaged: {error}") from error
