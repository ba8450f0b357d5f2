"""Slides through OpenSlide: every scanner format that it knows."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from openslide import OpenSlideError
from PIL import Image

from wsikit.errors import PixelReadError, SlideOpenError
from wsikit.slides.colour import over_background, tiff_colour_fault
from wsikit.slides.ifd import TIFF_MAGIC
from wsikit.slides.resolution import Stated, from_resolution, number
from wsikit.slides.slide import DEFAULT_TILE, Pixels

MIN_BLOCK = 128
"""Least side, px, of the blocks in which a level with a fractional downsample is read: whole tiles of the file. Larger
blocks do not read a whole level faster, and cost patches more: 64 patches of 256 px take 1.1 s with blocks of 256 px,
1.8 s with 512, 3.8 s with 1024."""
STRIP_PIXELS = 4_000_000
"""Larger reads go in strips of whole tile rows: OpenSlide's own buffers take 11 bytes a pixel on the way to RGB."""
WHITE = (255, 255, 255)


class OpenSlideReader:
    """A slide through OpenSlide. Safe to call from several threads.

    OpenSlide takes positions in level-0 pixels and resamples where that position is not a whole pixel of the level
    read. Levels whose downsample is a whole number are read directly; the others in fixed blocks, each always from
    the same level-0 position, so that a pixel has one value however reads are cut.

    Pixels come contiguous and may be read-only.

    Args:
        path: the slide's own file.

    Raises:
        SlideOpenError: unreadable, or unsupported_pixels for a TIFF that is not 8-bit RGB or YCbCr (OpenSlide would
            show grey, 16-bit and CMYK as RGB).
    """

    name = "openslide"
    is_field = False

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._closed = False
        try:
            handle = openslide.OpenSlide(self.path)
            self.properties: Mapping[str, str] = dict(handle.properties)
            self.sizes = tuple((int(w), int(h)) for w, h in handle.level_dimensions)
            self.downsamples = tuple(float(d) for d in handle.level_downsamples)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideOpenError("OpenSlide does not know the format, or the file is damaged") from error
        except Exception as error:  # any error means that it cannot
            raise SlideOpenError(str(error)) from error
        self._handle: openslide.OpenSlide | None = handle
        self.vendor = self.properties.get("openslide.vendor", "unknown")
        self._check_colour()
        self.mpp, self.mpp_source = stated_mpp(self.properties)
        self.bounds = _bounds(self.properties)
        self.background = _background(self.properties)
        self._exact = tuple(d == int(d) for d in self.downsamples)

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height): the file's tiles, or the blocks in which a level with a fractional downsample is read."""
        sides = []
        for side in ("width", "height"):
            stated = self.properties.get(f"openslide.level[{level}].tile-{side}", "")
            tile = int(stated) if stated.isdecimal() and int(stated) > 0 else DEFAULT_TILE
            sides.append(tile if self._exact[level] else tile * max(1, -(-MIN_BLOCK // tile)))
        return sides[0], sides[1]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See ``Reader.read``. After an error the dead handle is replaced, so later reads work."""
        if not self._exact[level]:
            return self._read_blocks(level, x, y, width, height)
        scale = int(self.downsamples[level])
        if width * height <= STRIP_PIXELS:
            return self._read_at(level, x * scale, y * scale, width, height)
        tile = self.tile_size(level)[1]
        rows = tile * max(1, STRIP_PIXELS // (width * tile))
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(y - y % tile, y + height, rows):
            y0, y1 = max(top, y), min(top + rows, y + height)
            pixels[y0 - y : y1 - y] = self._read_at(level, x * scale, y0 * scale, width, y1 - y0)
        return pixels

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """Names and (width, height) of label, macro and thumbnail, without decoding them."""
        found = {}
        for key, value in self.properties.items():
            match = re.fullmatch(r"openslide\.associated\.(.+)\.width", key)
            if match:
                name = match.group(1)
                found[name] = (int(value), int(self.properties[f"openslide.associated.{name}.height"]))
        return found

    def close(self) -> None:
        """Release the file; a read that is under way in another thread finishes first."""
        with self._lock:
            self._closed = True
            self._handle = None

    def _check_colour(self) -> None:
        with self.path.open("rb") as file:
            if file.read(4) not in TIFF_MAGIC:
                return
        import tifffile

        try:
            with tifffile.TiffFile(self.path) as tiff:
                fault = tiff_colour_fault(tiff.pages[0], samples=(3, 4))
        except Exception:  # noqa: BLE001 - tifffile does not parse it, OpenSlide does: OpenSlide's word stands
            return
        if fault:
            raise SlideOpenError(
                f"only 8-bit RGB or YCbCr colour is a slide; this TIFF holds {fault}", code="unsupported_pixels"
            )

    def _read_blocks(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        scale = self.downsamples[level]
        block_width, block_height = self.tile_size(level)
        right, bottom = self.sizes[level]
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(y - y % block_height, y + height, block_height):
            for left in range(x - x % block_width, x + width, block_width):
                # always the whole block: its corner decides how OpenSlide resamples, its extent what can fail
                block_size = min(block_width, right - left), min(block_height, bottom - top)
                block = self._read_at(level, round(left * scale), round(top * scale), *block_size)
                x0, y0 = max(left, x), max(top, y)
                x1, y1 = min(left + block_width, x + width), min(top + block_height, y + height)
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = block[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def _read_at(self, level: int, x0: int, y0: int, width: int, height: int) -> Pixels:
        """Pixels of ``level`` from a position in level-0 pixels."""
        handle = self._live()
        try:
            image = handle.read_region((x0, y0), level, (width, height))
        except OpenSlideError:
            image = self._read_again(handle, level, x0, y0, width, height)
        return _flatten(image, self.background)

    def _live(self) -> openslide.OpenSlide:
        with self._lock:
            if self._closed:
                raise SlideOpenError(f"{self.path.name} was closed")
            if self._handle is None:
                self._handle = self._reopen()
            return self._handle

    def _read_again(
        self, dead: openslide.OpenSlide, level: int, x0: int, y0: int, width: int, height: int
    ) -> Image.Image:
        """Once more on a handle of its own: the error may be another thread's, since OpenSlide's errors latch."""
        fresh = self._reopen()
        try:
            image = fresh.read_region((x0, y0), level, (width, height))
        except OpenSlideError as error:
            self._replace(dead, None)
            raise PixelReadError(
                f"{self.path.name}: OpenSlide cannot decode {width}x{height} px of level {level} at level-0 "
                f"({x0}, {y0}): {error}"
            ) from error
        self._replace(dead, fresh)
        return image

    def _reopen(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self.path)
        except OpenSlideError as error:
            raise SlideOpenError(f"{self.path} cannot be opened again after an error: {error}") from error

    def _replace(self, dead: openslide.OpenSlide, fresh: openslide.OpenSlide | None) -> None:
        """Put ``fresh`` in the dead handle's place; whoever still holds the dead one lets it go when done."""
        with self._lock:
            if self._handle is dead and not self._closed:
                self._handle = fresh


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Pixels:
    rgba = np.asarray(image)
    # alpha is 255 everywhere if and only if the bitwise and of all pixels keeps its byte
    if (int(np.bitwise_and.reduce(rgba.view("<u4"), axis=None)) >> 24) == 255:
        return np.frombuffer(image.tobytes("raw", "RGB"), np.uint8).reshape(image.height, image.width, 3)
    return over_background(rgba, background)


def stated_mpp(properties: Mapping[str, str]) -> Stated:
    """((mpp x, mpp y) or None, source) of OpenSlide's properties.

    A generic TIFF's mpp comes from its resolution tags, which may hold a print setting: that is no mpp.
    """
    texts = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    if None in texts:
        # what the vendor's own field says, so that the user sees what OpenSlide could not use
        rest = {k: v for k, v in properties.items() if re.search(r"mpp|resolution", k, re.IGNORECASE)}
        listed = ", ".join(f"{key}={value!r}" for key, value in sorted(rest.items()))
        return None, f"OpenSlide gives no mpp; the file holds {listed or 'no resolution at all'}"
    x, y = (number(text) for text in texts)
    if x is None or y is None:
        return None, f"openslide.mpp-x, mpp-y are {texts[0]!r}, {texts[1]!r}, not numbers"
    if properties.get("openslide.vendor") == "generic-tiff":
        return from_resolution(x, y, "TIFF XResolution")
    return (x, y), "openslide.mpp-x"


def _bounds(properties: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    texts = [properties.get(f"openslide.bounds-{name}", "") for name in ("x", "y", "width", "height")]
    if not all(re.fullmatch(r"-?\d+", text) for text in texts):
        return None
    x, y, width, height = map(int, texts)
    return x, y, width, height


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get("openslide.background-color", "")
    if not re.fullmatch(r"[0-9a-fA-F]{6}", text):
        return WHITE
    red, green, blue = bytes.fromhex(text)
    return red, green, blue
