"""Tiled TIFFs that OpenSlide does not know: tiffslide for what the file says, tifffile for its tiles."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiffslide
from numpy.typing import NDArray

from wsikit.errors import PixelReadError, SlideOpenError
from wsikit.slides.colour import PHOTOMETRIC_YCBCR, tiff_colour_fault
from wsikit.slides.resolution import Stated, from_ome, from_resolution, number
from wsikit.slides.slide import Pixels

MAX_SEGMENT = 64_000_000
"""Most pixels of one tile or strip (192 MB decoded); what is larger cannot be read piece by piece."""
JPEG = (6, 7)
"""TIFF compressions whose decoder turns YCbCr into RGB."""
WHITE = (255, 255, 255)


class TiffSlideReader:
    """A tiled TIFF. Safe to call from several threads.

    tiffslide finds the levels, the resolution and the vendor; tiles are decoded one by one through tifffile, since its
    array store gives zeros, which is black, for a tile that is not there. A tile that the file legally leaves out
    (offset and length zero) is background.

    Args:
        path: the slide's own file.

    Raises:
        SlideOpenError: unreadable, unsupported_pixels (not interleaved 8-bit RGB or YCbCr), too_large (tiles of more
            than ``MAX_SEGMENT`` pixels). Flat TIFFs without tiles are refused: the plain-image reader takes them.
    """

    name = "tiffslide"
    is_field = False
    bounds = None
    background = WHITE

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._slide = tiffslide.TiffSlide(self.path)
        except Exception as error:  # tifffile raises what the bad bytes lead to
            raise SlideOpenError(_reason(error)) from error
        try:
            self._describe()
        except SlideOpenError:
            self._slide.close()
            raise
        except Exception as error:  # as above
            self._slide.close()
            raise SlideOpenError(_reason(error)) from error

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height) of the tiles, or of the strips of a level without tiles."""
        page = self.pages[level]
        if page.is_tiled:
            return int(page.tilewidth), int(page.tilelength)
        return int(page.imagewidth), int(page.rowsperstrip)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See ``Reader.read``."""
        pixels = np.empty((height, width, 3), np.uint8)
        for index, left, top in self._segments(level, x, y, width, height):
            x0, y0 = max(left, x), max(top, y)
            tile_width, tile_height = self.tile_size(level)
            x1, y1 = min(left + tile_width, x + width), min(top + tile_height, y + height)
            target = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
            tile = self._decode(level, index, left, top)
            if tile is None:
                target[:] = self.background
            else:
                target[:] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """Names and (width, height) of the file's other images."""
        return self._associated

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._slide.close()

    def _describe(self) -> None:
        properties = self._slide.properties
        if properties.get("tiffslide.series-composition"):
            raise SlideOpenError("several scanned areas in one file; tiffslide would paint the gaps black")
        tiff = self._slide.ts_tifffile
        index = properties["tiffslide.series-index"]
        series = tiff.series[index]
        _check_series(tiff, index, properties["tiffslide.series-axes"])
        self._file = tiff.filehandle
        self._file_size = self.path.stat().st_size
        self.pages: list[Any] = [level.pages[0] for level in series.levels]
        """The tifffile page of each level."""
        self.sizes = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        self.downsamples = tuple(float(d) for d in self._slide.level_downsamples)
        for level, page in enumerate(self.pages):
            _check_page(page, level)
        self.vendor = str(properties.get("tiffslide.vendor") or "generic-tiff")
        self.properties: Mapping[str, str] = {k: str(v) for k, v in properties.items() if v is not None}
        self.mpp, self.mpp_source = _stated_mpp(self.properties, tiff.ome_metadata)
        self._associated = {
            s.name.lower() or f"image-{i}": (int(s.keyframe.imagewidth), int(s.keyframe.imagelength))
            for i, s in enumerate(tiff.series)
            if i != index
        }

    def _segments(self, level: int, x: int, y: int, width: int, height: int) -> Iterator[tuple[int, int, int]]:
        """(index, left, top) of the tiles that a box touches, in pixels of the level."""
        tile_width, tile_height = self.tile_size(level)
        across = -(-self.sizes[level][0] // tile_width)
        for row in range(y // tile_height, -(-(y + height) // tile_height)):
            for column in range(x // tile_width, -(-(x + width) // tile_width)):
                yield row * across + column, column * tile_width, row * tile_height

    def _decode(self, level: int, index: int, left: int, top: int) -> NDArray[np.uint8] | None:
        """(H, W, 3) of a tile, or None where the file legally leaves it out."""
        page = self.pages[level]
        where = f"{self.path.name}: the tile of level {level} at ({left}, {top})"
        data = self._bytes(page, index, where)
        if data is None:
            return None
        tables: dict[str, Any] = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        try:
            decoded = page.decode(data, index, **{k: v for k, v in tables.items() if v is not None})[0]
        except Exception as error:  # every codec of imagecodecs has an exception of its own
            raise PixelReadError(f"{where} cannot be decoded: {_reason(error)}") from error
        width, height = self.sizes[level]
        wanted = (min(page.chunks[0], height - top), min(page.chunks[1], width - left), 3)
        if decoded is None or decoded.ndim != 4 or any(h < w for h, w in zip(decoded.shape[1:], wanted, strict=True)):
            shape = None if decoded is None else decoded.shape
            raise PixelReadError(f"{where} decodes to shape {shape}, at least {wanted} was expected")
        tile: NDArray[np.uint8] = decoded[0]
        return tile

    def _bytes(self, page: Any, index: int, where: str) -> bytes | None:
        if index >= len(page.dataoffsets) or index >= len(page.databytecounts):
            raise PixelReadError(f"{where} is not in the file's table of {len(page.dataoffsets)} tiles")
        offset, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
        if count == 0:
            return None
        if offset <= 0 or count < 0 or offset + count > self._file_size:
            raise PixelReadError(
                f"{where} should lie at bytes {offset} to {offset + count} of a file of {self._file_size} bytes: "
                "the file was cut short or its table is damaged"
            )
        with self._lock:
            if self._closed:
                raise SlideOpenError(f"{self.path.name} was closed")
            self._file.seek(offset)
            data: bytes = self._file.read(count)
        if len(data) != count:
            raise PixelReadError(f"{where}: {len(data)} of {count} bytes could be read")
        return data


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check_series(tiff: Any, index: int, axes: str) -> None:
    series = tiff.series[index]
    fault = tiff_colour_fault(series.keyframe)
    if fault or axes != "YXS":
        raise SlideOpenError(
            f"only 8-bit RGB or YCbCr colour is a slide; this TIFF holds {fault or 'separate planes'} "
            f"({axes} = {' x '.join(map(str, series.shape))})",
            code="unsupported_pixels",
        )
    if not series.keyframe.is_tiled:
        raise SlideOpenError("a flat TIFF without tiles is a plain image, not a slide")
    if any(_area(other) > _area(series) for other in tiff.series):
        raise SlideOpenError("the first image is not the largest: which of the images is the slide is not clear")


def _area(series: Any) -> int:
    return int(series.keyframe.imagewidth) * int(series.keyframe.imagelength)


def _check_page(page: Any, level: int) -> None:
    # an empty segment decodes to None, and raises where the compression or the sample type is not known
    page.decode(None, 0)
    if page.compression not in JPEG and page.photometric == PHOTOMETRIC_YCBCR:
        raise SlideOpenError(
            f"level {level} is YCbCr without JPEG (compression {page.compression}), which is not turned into RGB",
            code="unsupported_pixels",
        )
    fault = tiff_colour_fault(page)
    if fault:
        raise SlideOpenError(f"level {level} holds {fault}", code="unsupported_pixels")
    if page.chunks[0] * page.chunks[1] > MAX_SEGMENT:
        raise SlideOpenError(
            f"level {level} has tiles of {page.chunks[1]}x{page.chunks[0]} px, the most is {MAX_SEGMENT} px",
            code="too_large",
            remedy="convert the file to a tiled pyramid",
        )


def _stated_mpp(properties: Mapping[str, str], ome: str | None) -> Stated:
    texts = [properties.get(f"tiffslide.mpp-{axis}") for axis in "xy"]
    stated = from_ome(ome)
    if stated:
        return stated
    if None in texts:
        found = {k: v for k, v in properties.items() if "resolution" in k.lower() or "mpp" in k.lower()}
        listed = ", ".join(f"{key}={value}" for key, value in sorted(found.items()))
        return None, f"the TIFF holds {listed or 'no resolution at all'}"
    x, y = (number(text) for text in texts)
    if x is None or y is None:
        return None, f"tiffslide.mpp-x, mpp-y are {texts[0]!r}, {texts[1]!r}, not numbers"
    if "tiff.XResolution" in properties:
        return from_resolution(x, y, "TIFF XResolution")
    return (x, y), "tiffslide.mpp-x"
