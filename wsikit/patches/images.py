"""Patches as encoded images: JPEG for small data sets, PNG for lossless ones. Everything here releases the GIL.

How patches are encoded was measured on 39 tissue patches of CMU-1-Small-Region (docs/measured.md):

* JPEG without chroma subsampling (4:4:4). Stains are told apart by colour: at quality 90 it is 41 dB at 4.3 bits per
  px, while 4:2:0 stays at 31 dB whatever the quality (3.9 bits at 95), and 4:2:2 at 32 dB (4.6 bits at 95). That is a
  slide with colours as fine as its brightness; see ``pipeline.encode.own_subsampling`` for the others.
* PNG at level 1 with the run-length strategy and Paeth's filter: 15.2 bits per px, as small as level 6 and 3 times as
  fast, since no filter is tried out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wsikit.errors import ConfigError, PixelReadError
from wsikit.patches import Encoding, Subsampling
from wsikit.slides import Pixels

QUALITY = 90
"""JPEG quality where none is asked for: 41 dB."""
SUFFIXES: dict[Encoding, str] = {"jpeg": ".jpg", "png": ".png"}
JPEG_START, JPEG_END, PNG_START = b"\xff\xd8\xff", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
TAIL = 64
"""The end marker of a JPEG is looked for in this many last bytes: writers may pad."""


def encode(pixels: Pixels, encoding: Encoding, quality: int = QUALITY, subsampling: Subsampling = "444") -> bytes:
    """Encode one patch.

    Args:
        pixels: (H, W, 3) uint8 RGB; a slice of a larger array is fine.
        encoding: "jpeg" (YCbCr) or "png" (lossless).
        quality: 1 to 100, of JPEG only.
        subsampling: of JPEG only.

    Raises ConfigError for an unknown encoding or a quality outside 1 to 100.
    """
    import imagecodecs

    pixels = np.ascontiguousarray(pixels)
    if encoding == "png":
        # strategy 3: run lengths; filter 128: Paeth
        data = imagecodecs.png_encode(pixels, level=1, strategy=3, filter=128)
    elif encoding == "jpeg":
        if not 1 <= quality <= 100:
            raise ConfigError(f"a JPEG quality is 1 to 100, got {quality}")
        data = imagecodecs.jpeg8_encode(pixels, level=quality, subsampling=subsampling)
    else:
        raise ConfigError(f"patches are encoded as jpeg or png, got {encoding!r}")
    return bytes(data)


def decode(data: bytes | memoryview, out: Pixels | None = None, *, side: int | None = None) -> Pixels:
    """Decode a JPEG or PNG, whichever the bytes are.

    Args:
        data: one whole image.
        out: (H, W, 3) uint8 to decode into; of the image's own size. Its content is undefined after an error.
        side: side in px that the image must have where ``out`` is not given.

    Raises:
        PixelReadError: cut short, damaged, of another kind or size than was promised. The size is compared before
            anything is decoded or allocated.
    """
    if out is None and side is not None:
        out = np.empty((side, side, 3), np.uint8)
    if out is None:
        return _decoded(data, None)
    if out.flags.c_contiguous and out.flags.writeable:
        return _decoded(data, out)
    out[...] = _decoded(data, np.empty(out.shape, np.uint8))
    return out


def _decoded(data: bytes | memoryview, out: Pixels | None) -> Pixels:
    import imagecodecs

    decoder: Any
    if data[:3] == JPEG_START:
        # libjpeg paints what is missing grey, with a warning that nobody hears
        if JPEG_END not in bytes(data[-TAIL:]):
            raise PixelReadError("the JPEG is cut short")
        decoder = imagecodecs.jpeg8_decode
    elif data[:8] == PNG_START:
        decoder = imagecodecs.png_decode
    else:
        raise PixelReadError(f"neither a JPEG nor a PNG: {len(data)} bytes that begin with {bytes(data[:4])!r}")
    try:
        pixels: Pixels = decoder(data, out=out)
    except (ValueError, RuntimeError) as error:  # the base of imagecodecs' own errors
        raise PixelReadError(f"it cannot be decoded: {error}") from error
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise PixelReadError(f"it is {pixels.dtype} {pixels.shape}, patches are uint8 RGB")
    return pixels
