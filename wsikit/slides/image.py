"""Plain images as slides of one level: PNG, JPEG, BMP, JPEG 2000 through Pillow, flat TIFF through tifffile.

EXIF orientation is ignored: pixels come as they are stored, so that coordinates mean the same to every program that
does not turn the picture. Resolution is taken from TIFF and OME tags only: what PNG, JPEG and BMP call dots per inch
is a print setting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, ImageFile, Jpeg2KImagePlugin, JpegImagePlugin, PngImagePlugin

from wsikit.errors import PixelReadError, SlideOpenError
from wsikit.slides.colour import PHOTOMETRIC_YCBCR, over_background, tiff_colour_fault
from wsikit.slides.ifd import TIFF_MAGIC, check_if_tiff
from wsikit.slides.resolution import Stated, from_ome, from_tiff_tags
from wsikit.slides.slide import Pixels

MAX_IMAGE_PIXELS = 400_000_000
"""Most pixels of a plain image, which is held whole in memory (1.2 GB)."""
WHITE = (255, 255, 255)
JPEG = (6, 7)
"""TIFF compressions whose decoder turns YCbCr into RGB."""
ALPHA = (1, 2)
"""TIFF ExtraSamples values (tag 338): premultiplied and straight alpha."""
HEADER_BYTES = 4096
"""Enough of a file to hold a PNG header or the first marker segment of a JPEG 2000 codestream."""

# The plug-ins' own classes, not Image.open: that one guesses the format and applies a pixel limit of the whole process.
PLUGINS: tuple[tuple[str, bytes, Callable[[str], ImageFile.ImageFile]], ...] = (
    ("png", b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    ("jpeg", b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    ("bmp", b"BM", BmpImagePlugin.BmpImageFile),
    ("jp2", b"\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile),
    ("jp2", b"\xff\x4f\xff\x51", Jpeg2KImagePlugin.Jpeg2KImageFile),
)
"""Format, first bytes, Pillow class."""


class ImageReader:
    """A plain image: one level, decoded on first use and kept. Safe to call from several threads.

    Args:
        path: the image file.

    Raises:
        SlideOpenError: unreadable (also: tiled, pyramidal or multi-page TIFFs, which are not plain images),
            unsupported_pixels (not 8-bit RGB, RGB with alpha or a palette), too_large.
    """

    name = "image"
    is_field = True
    bounds = None
    background = WHITE
    downsamples = (1.0,)

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._pixels: Pixels | None = None
        self._closed = False
        self.properties: Mapping[str, str] = {}
        self.mpp: tuple[float, float] | None = None
        self._decode: Callable[[Path], Pixels]
        try:
            with self.path.open("rb") as file:
                header = file.read(HEADER_BYTES)
            self._inspect(header)
        except SlideOpenError:
            raise
        except Exception as error:  # Pillow and tifffile raise what the bad bytes lead to
            raise SlideOpenError(f"the image cannot be read: {type(error).__name__}: {error}") from error

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height) of the image: it is decoded whole, so it fails whole."""
        return self.sizes[level]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See ``Reader.read``."""
        if level != 0:
            raise PixelReadError(f"{self.path.name} is a plain image with level 0 only, level {level} was asked for")
        return self._decoded()[y : y + height, x : x + width].copy()

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """None: a plain image is all there is."""
        return {}

    def close(self) -> None:
        """Let the pixels go."""
        with self._lock:
            self._closed = True
            self._pixels = None

    def _inspect(self, header: bytes) -> None:
        if header[:4] in TIFF_MAGIC:
            self.vendor, self._decode = "tiff", _decode_tiff
            self._inspect_tiff()
            return
        for vendor, magic, plugin in PLUGINS:
            if header.startswith(magic):
                self.vendor, self._decode = vendor, partial(_decode_pillow, plugin)
                self._inspect_pillow(plugin, header)
                return
        raise SlideOpenError("neither a PNG, a JPEG, a BMP, a JPEG 2000 nor a TIFF image")

    def _inspect_pillow(self, plugin: Callable[[str], ImageFile.ImageFile], header: bytes) -> None:
        with plugin(str(self.path)) as image:
            self._set_size(*image.size)
            mode, frames = image.mode, getattr(image, "n_frames", 1)
            density = image.info.get("dpi")
        if frames != 1:
            raise SlideOpenError(f"{frames} pictures in one file: which of them is meant is not clear")
        bits = _bits(self.vendor, header)
        if mode not in ("RGB", "RGBA", "P", "PA") or bits > 8:
            raise SlideOpenError(
                f"only 8-bit RGB colour is an image of tissue; this {self.vendor} has mode {mode}, {bits} bits",
                code="unsupported_pixels",
            )
        self.properties = {"mode": mode}
        said = f" ({float(density[0]):.0f} dots per inch is a print setting)" if density else ""
        self.mpp_source = f"a {self.vendor} image does not hold one{said}"

    def _inspect_tiff(self) -> None:
        import tifffile

        check_if_tiff(self.path)
        with tifffile.TiffFile(self.path) as tiff:
            page: Any = tiff.pages[0]
            self._set_size(int(page.imagewidth), int(page.imagelength))
            _check_tiff(tiff, page, self.path.stat().st_size)
            self.mpp, self.mpp_source = _tiff_mpp(tiff, page)
            self.properties = {"compression": str(page.compression), "description": str(page.description)[:2000]}

    def _set_size(self, width: int, height: int) -> None:
        if width * height > MAX_IMAGE_PIXELS:
            raise SlideOpenError(
                f"a plain image of {width}x{height} px is held whole in memory; the most is {MAX_IMAGE_PIXELS} px",
                code="too_large",
                remedy="convert it to a tiled pyramidal TIFF, for example with `vips tiffsave --tile --pyramid`",
            )
        self.sizes = ((width, height),)

    def _decoded(self) -> Pixels:
        with self._lock:
            if self._closed:
                raise SlideOpenError(f"{self.path.name} was closed")
            if self._pixels is None:
                try:
                    pixels = self._decode(self.path)
                except Exception as error:  # every codec has exceptions of its own
                    raise PixelReadError(f"{self.path.name} cannot be decoded: {error}") from error
                width, height = self.sizes[0]
                if pixels.shape != (height, width, 3):
                    raise PixelReadError(f"{self.path.name} decodes to {pixels.shape}, its header says {height, width}")
                self._pixels = pixels
            return self._pixels


def _bits(vendor: str, header: bytes) -> int:
    """Bits per sample, where Pillow would quietly reduce more than 8 to 8."""
    if vendor == "png":
        return header[24]  # PNG specification 11.2.2: IHDR's bit depth
    siz = header.find(b"\xff\x51") if vendor == "jp2" else -1
    # ISO 15444-1 A.5.1: Ssiz of the first component follows 38 bytes of marker and sizes; bit 7 is the sign
    return (header[siz + 40] & 0x7F) + 1 if 0 <= siz < len(header) - 40 else 8


def _decode_pillow(plugin: Callable[[str], ImageFile.ImageFile], path: Path) -> Pixels:
    with plugin(str(path)) as image:
        image.load()
        if image.mode == "RGB" and "transparency" not in image.info:
            return np.array(image, np.uint8)
        return over_background(np.asarray(image.convert("RGBA"), np.uint8), WHITE)


def _check_tiff(tiff: Any, page: Any, file_size: int) -> None:
    count = len(tiff.pages)
    if page.is_tiled or page.subifds or tiff.is_svs or tiff.is_ndpi or tiff.is_scn or tiff.is_bif:
        raise SlideOpenError("a tiled, pyramidal or scanner's TIFF is no plain image; only a slide reader may read it")
    fault = tiff_colour_fault(page, samples=(3, 4))
    if fault is None and page.photometric == PHOTOMETRIC_YCBCR and page.compression not in JPEG:
        fault = "YCbCr samples that are not JPEG"
    if fault is None and page.samplesperpixel == 4 and (not page.extrasamples or page.extrasamples[0] not in ALPHA):
        fault = "a fourth sample that is not transparency"
    if fault:
        pages = f" in the first of {count} images" if count > 1 else ""
        raise SlideOpenError(
            f"only 8-bit RGB or YCbCr colour is an image of tissue; this TIFF holds {fault}{pages}",
            code="unsupported_pixels",
        )
    if count != 1:
        raise SlideOpenError(f"{count} images in one TIFF: which of them is meant is not clear")
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if size <= 0 or offset <= 0 or offset + size > file_size:
            raise SlideOpenError("the TIFF was cut short: a strip of pixels is not in the file")
    page.decode(None, 0)  # raises where the compression is not known


def _tiff_mpp(tiff: Any, page: Any) -> Stated:
    return from_ome(tiff.ome_metadata) or from_tiff_tags({tag.name: tag for tag in page.tags})


def _decode_tiff(path: Path) -> Pixels:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        pixels = page.asarray()
        if page.planarconfig == 2:  # TIFF 6.0, tag 284: one plane after the other
            pixels = np.moveaxis(pixels, 0, -1)
        if page.samplesperpixel == 3:
            return np.ascontiguousarray(pixels)
        if page.extrasamples[0] == 1:
            return _premultiplied_over_white(pixels)
        return over_background(pixels, WHITE)


def _premultiplied_over_white(rgba: Pixels) -> Pixels:
    """Colour already multiplied by alpha only lacks the background's share."""
    pixels: Pixels = np.minimum(rgba[..., :3].astype(np.uint16) + (255 - rgba[..., 3:]), 255).astype(np.uint8)
    return pixels
