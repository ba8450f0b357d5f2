"""Tiled TIFF slides read directly: places of the tiles from the file's table, bytes by ``pread``, pixels by a codec."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PixelReadError, SlideOpenError
from wsikit.slides.codecs import Codec, Jpeg2000Tiles, PlainTiles, tile_codec
from wsikit.slides.colour import PHOTOMETRIC_YCBCR, tiff_colour_fault
from wsikit.slides.ifd import MAX_TILE, check_ifds
from wsikit.slides.jpeg import JpegTiles
from wsikit.slides.openslide import OpenSlideReader
from wsikit.slides.slide import Pixels

if TYPE_CHECKING:
    from wsikit.slides.tiffslide import TiffSlideReader

    Described = OpenSlideReader | TiffSlideReader

VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's names of the formats whose levels are plain grids of tiles. The others shift, overlap or leave out tiles
(ventana, trestle, philips, leica) or keep a whole level as one JPEG (hamamatsu): OpenSlide knows how to put those
together."""
EXPECTED = {"PlanarConfiguration": 1, "Orientation": 1, "FillOrder": 1}
"""TIFF 6.0: RGBRGB..., the first pixel at the top left, the first bit highest. These are also the tags' defaults."""
MIN_TILE = 16
"""Least side of a tile, px (TIFF 6.0: multiples of 16); smaller ones make tables of millions out of nothing."""
MAX_COMPRESSED = 4
"""Most bytes of a tile for each byte of its pixels, over ``SPARE``: no encoder writes more, and a damaged table that
says so must not make anyone read gigabytes."""
SPARE = 1 << 20
"""Bytes that a small tile may have on top, for embedded profiles and the like."""


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """The tiles of one level as the file lists them."""

    size: tuple[int, int]
    """(width, height) of a tile in px of this level."""
    offsets: NDArray[np.int64]
    """(rows, columns) position of each tile in the file, bytes."""
    counts: NDArray[np.int64]
    """(rows, columns) compressed size of each tile, bytes; 0 where the file leaves it out."""
    codec: Codec
    scale: int = 1
    """Pixels of the stored tile, in x and in y, for each pixel of this level."""

    @property
    def most_bytes(self) -> int:
        """The most that a sound tile can take in the file."""
        return MAX_COMPRESSED * 3 * self.size[0] * self.size[1] * self.scale**2 + SPARE


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
        described, self._tables = _describe(self.path)
        self.sizes, self.downsamples = described.sizes, described.downsamples
        self.mpp, self.mpp_source = described.mpp, described.mpp_source
        self.vendor, self.properties = described.vendor, described.properties
        self.bounds, self.background = described.bounds, described.background
        self._associated = described.associated()
        self._scratch = threading.local()
        self._file = _File(self.path)
        self._refuse_subsampled()

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height) of the file's tiles."""
        return self._tables[level].size

    def codec(self, level: int) -> str:
        """See ``TileReader.codec``."""
        return self._tables[level].codec.name

    def tile_bytes(self, level: int) -> NDArray[np.int64]:
        """See ``TileReader.tile_bytes``."""
        return self._tables[level].counts

    def tile_places(self, level: int) -> NDArray[np.int64]:
        """(rows, columns) position of every tile in the file, bytes, as its table says."""
        return self._tables[level].offsets

    def misplaced(self, level: int) -> NDArray[np.bool_]:
        """(rows, columns) tiles that cannot lie where the table says, within the file as long as it was when opened."""
        file, table = self._open_file(), self._tables[level]
        ends = table.offsets + np.minimum(table.counts, file.size + 1)
        # uint64: a damaged table's sum may be past 2^63
        outside = (table.offsets <= 0) | (ends.astype(np.uint64) > file.size)
        found: NDArray[np.bool_] = (table.counts != 0) & outside
        return found

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
        """See ``TileReader.read_tile``. Raises ValueError where ``out`` is not what it must be."""
        width, height = self._tables[level].size
        if out.shape != (height, width, 3) or not out.flags.c_contiguous:
            raise ValueError(f"out must be a C-contiguous array of {(height, width, 3)}, got {out.shape}")
        data = self._compressed(level, column, row)
        if data is None:
            out[:] = self.background
            return
        table = self._tables[level]
        try:
            table.codec.decode(data, out, table.scale)
        except (ValueError, RuntimeError) as error:  # imagecodecs raises RuntimeErrors
            raise PixelReadError(f"{self._tile_name(level, column, row)} cannot be decoded: {error}") from error

    def tile_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """See ``TileReader.tile_jpeg``."""
        codec = self._tables[level].codec
        if not isinstance(codec, JpegTiles) or self._tables[level].scale != 1:
            raise ValueError(f"level {level} of {self.path.name} is not stored as JPEG tiles")
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

    def _open_file(self) -> _File:
        file = self._file
        if file is None:
            raise SlideOpenError(f"{self.path.name} was closed")
        return file

    def _compressed(self, level: int, column: int, row: int) -> bytes | None:
        """The bytes of a tile; None where the file leaves it out."""
        file, table = self._open_file(), self._tables[level]
        count = int(table.counts[row, column])
        if count == 0:
            return None
        offset = int(table.offsets[row, column])
        if offset <= 0 or offset + count > file.size:
            raise PixelReadError(
                f"{self._tile_name(level, column, row)} should lie at bytes {offset} to {offset + count} of a file of "
                f"{file.size} bytes: the file was cut short or its table is damaged"
            )
        if count > table.most_bytes:
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

    def _refuse_subsampled(self) -> None:
        """The first tile of each level shows whether JPEG 2000 has coarser colours, which OpenSlide puts together."""
        for level, table in enumerate(self._tables):
            if not isinstance(table.codec, Jpeg2000Tiles):
                continue
            row, column = np.unravel_index(int(np.argmax(table.counts > 0)), table.counts.shape)
            with suppress(PixelReadError):
                data = self._compressed(level, int(column), int(row))
                if data is not None and table.codec.subsampled(data):
                    raise SlideOpenError(f"the JPEG 2000 tiles of level {level} have subsampled colours")


class _File:
    """A file descriptor that is closed when the last thread lets it go: a number closed under a read may be reused."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.descriptor)
        self.size = os.fstat(self.descriptor).st_size


def _describe(path: Path) -> tuple[Described, tuple[TileTable, ...]]:
    """What OpenSlide, or else tiffslide, says of the file, and each level's tiles."""
    import tifffile

    check_ifds(path)
    try:
        with tifffile.TiffFile(path) as tiff:
            listed: Any = tiff.pages
            pages = [page for page in listed if page.is_tiled]
            if not pages:
                raise SlideOpenError("no image of the TIFF is tiled")
            reader = None if pages[0].subifds else _by_openslide(path)
            if reader is not None:
                levels = [_page_of(pages, level, size) for level, size in enumerate(reader.sizes)]
                return reader, _tables(levels, reader)
    except SlideOpenError:
        raise
    except Exception as error:  # tifffile raises what the bad bytes lead to
        raise SlideOpenError(f"{type(error).__name__}: {error}") from error
    return _by_tiffslide(path)


def _by_openslide(path: Path) -> OpenSlideReader | None:
    """None where OpenSlide does not know the file. Raises SlideOpenError where it knows better than this module."""
    try:
        reader = OpenSlideReader(path)
    except SlideOpenError as error:
        if error.code == "unreadable":
            return None
        raise
    reader.close()
    if reader.vendor not in VENDORS:
        raise SlideOpenError(f"the levels of a {reader.vendor} file are not plain grids of tiles")
    return reader


def _by_tiffslide(path: Path) -> tuple[Described, tuple[TileTable, ...]]:
    from wsikit.slides.tiffslide import TiffSlideReader

    reader = TiffSlideReader(path)
    try:
        if reader.vendor not in VENDORS:
            raise SlideOpenError(f"the levels of a {reader.vendor} file are not plain grids of tiles")
        return reader, _tables(reader.pages, reader)
    finally:
        reader.close()


def _page_of(pages: list[Any], level: int, size: tuple[int, int]) -> Any:
    """The page of a level, by its size."""
    found = [page for page in pages if (page.imagewidth, page.imagelength) == size]
    if len(found) != 1:
        raise SlideOpenError(
            f"{len(found)} tiled images are {size[0]}x{size[1]} px: which is level {level} is not clear"
        )
    return found[0]


def _tables(pages: list[Any], reader: Described) -> tuple[TileTable, ...]:
    tables = tuple(
        _table(page, level, size) for level, (page, size) in enumerate(zip(pages, reader.sizes, strict=True))
    )
    holes = [level for level, table in enumerate(tables) if level and not table.counts.all()]
    if holes and (reader.name, reader.vendor) == ("openslide", "aperio"):
        raise SlideOpenError(f"level {holes[0]} leaves out tiles, which OpenSlide makes from the level above")
    return tables


def _table(page: Any, level: int, size: tuple[int, int]) -> TileTable:
    _check_page(page, level)
    tile = int(page.tilewidth), int(page.tilelength)
    columns, rows = (-(-side // t) for side, t in zip(size, tile, strict=True))
    if not len(page.dataoffsets) == len(page.databytecounts) == rows * columns:
        raise SlideOpenError(
            f"level {level} needs {columns}x{rows} tiles, the file lists {len(page.dataoffsets)} places and "
            f"{len(page.databytecounts)} sizes"
        )
    offsets, counts = (_int64(listed).reshape(rows, columns) for listed in (page.dataoffsets, page.databytecounts))
    return TileTable(tile, offsets, counts, _codec(page, level, tile))


def _int64(listed: Any) -> NDArray[np.int64]:
    """What does not fit (a place past 2^63) becomes -1, which is no place."""
    numbers = np.array(listed, np.uint64)
    return np.where(numbers >> np.uint64(63), np.uint64(2**64 - 1), numbers).astype(np.int64)


def _check_page(page: Any, level: int) -> None:
    if not page.is_tiled:
        raise SlideOpenError(f"level {level} is not tiled")
    fault = tiff_colour_fault(page)
    if fault:
        raise SlideOpenError(f"level {level} holds {fault}", code="unsupported_pixels")
    for tag, expected in EXPECTED.items():
        if page.tags.valueof(tag, expected) != expected:
            raise SlideOpenError(f"level {level} has {tag} {page.tags.valueof(tag)}, only {expected} is read here")
    width, height = int(page.tilewidth), int(page.tilelength)
    if min(width, height) < MIN_TILE or width * height > MAX_TILE:
        raise SlideOpenError(f"level {level} has tiles of {width}x{height} px")


def _codec(page: Any, level: int, tile: tuple[int, int]) -> Codec:
    try:
        codec = tile_codec(page, tile)
    except ValueError as error:
        raise SlideOpenError(f"the tiles of level {level} cannot be decoded: {error}") from error
    if codec is None or (page.photometric == PHOTOMETRIC_YCBCR and isinstance(codec, PlainTiles)):
        raise SlideOpenError(
            f"level {level} has TIFF compression {int(page.compression)}, photometric {int(page.photometric)}, which "
            "is not read here"
        )
    return codec
