"""Codecs of TIFF tiles other than JPEG: JPEG 2000 as Aperio writes it, deflate, LZW and none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.slides.slide import Pixels

NONE, LZW, DEFLATE, OLD_DEFLATE = 1, 5, 8, 32946
"""TIFF compression (tag 259), TIFF 6.0 and Supplement 2."""
APERIO_YCBCR, APERIO_RGB = 33003, 33005
"""TIFF compression (tag 259) of Aperio's JPEG 2000 codestreams."""
MAX_PARTS = 64
"""Most parts ("tiles" of ITU T.800) of one codestream: slides have one, each takes a decoder's memory."""


class Codec(Protocol):
    """How the tiles of one level are decoded. Safe to call from several threads."""

    name: str
    """As ``TileReader.codec`` says it."""
    scalable: bool
    """Whether it decodes to 1/2, 1/4 and 1/8 at less cost than the whole."""

    def decode(self, data: bytes, out: Pixels, scale: int = 1) -> None:
        """Decode one tile into (height / scale, width / scale, 3) uint8, C-contiguous.

        Raises:
            ValueError: the tile is not what the level promises, or damaged, or cut short.
        """
        ...


class Jpeg2000Tiles:
    """Raw JPEG 2000 codestreams of one size, 3 x 8 bits, no component subsampled.

    Args:
        size: (width, height) in px that every tile must have.
        rgb: whether the components are RGB; YCbCr otherwise, which the codestream does not say.
    """

    name = "jpeg2000"
    scalable = False

    def __init__(self, size: tuple[int, int], *, rgb: bool) -> None:
        self.size = size
        self.rgb = rgb

    def decode(self, data: bytes, out: Pixels, scale: int = 1) -> None:
        """See ``Codec.decode``; only the whole tile."""
        import imagecodecs

        self.check(data)
        imagecodecs.jpeg2k_decode(data, out=out)
        if not self.rgb:
            out[:] = rgb_of_ycbcr(out)

    def check(self, data: bytes) -> None:
        """Raise ValueError unless the header (ITU T.800, A.5.1: SOC, then SIZ) is what the level promises."""
        if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 51:
            raise ValueError("no JPEG 2000 codestream: it does not begin with FF 4F FF 51")
        x1, y1, x0, y0, part_width, part_height = (int.from_bytes(data[i : i + 4], "big") for i in range(8, 32, 4))
        components = int.from_bytes(data[40:42], "big")
        if (x1, y1, x0, y0, components) != (*self.size, 0, 0, 3) or data[42:51:3] != b"\7\7\7":
            raise ValueError(
                f"the codestream is {x1 - x0}x{y1 - y0} px, {components} components of {data[42] + 1} bits; "
                f"the file promises {self.size[0]}x{self.size[1]} px, 3 x 8 bits"
            )
        if data[43:51:3] + data[44:51:3] != b"\1" * 6:
            raise ValueError("the codestream's colours are subsampled, which is not read here")
        if not part_width or not part_height or -(-x1 // part_width) * -(-y1 // part_height) > MAX_PARTS:
            raise ValueError(f"the codestream is cut into parts of {part_width}x{part_height} px")


class PlainTiles:
    """Deflate, LZW or uncompressed tiles of one size, 3 x 8 bits, RGB.

    Args:
        name: "deflate", "lzw" or "none".
        size: (width, height) in px.
        predictor: whether each number is the difference from the pixel to the left (TIFF 6.0, section 14).
    """

    scalable = False

    def __init__(self, name: str, size: tuple[int, int], *, predictor: bool) -> None:
        self.name = name
        self.predictor = predictor
        self._bytes = size[0] * size[1] * 3

    def decode(self, data: bytes, out: Pixels, scale: int = 1) -> None:
        """See ``Codec.decode``; only the whole tile."""
        import imagecodecs

        decoders: dict[str, Callable[..., Any]] = {
            "deflate": imagecodecs.zlib_decode,
            "lzw": imagecodecs.lzw_decode,
            "none": _copied,
        }
        decoded = decoders[self.name](data, out=out.reshape(-1))
        if decoded.size != self._bytes:
            raise ValueError(f"it holds {decoded.size} bytes of pixels, the file promises {self._bytes}")
        if self.predictor:
            imagecodecs.delta_decode(out, axis=1, out=out)


def plain_codec(page: Any, size: tuple[int, int]) -> Codec | None:
    """The codec of a ``tifffile`` page's tiles of ``size``, None where it is not one of this module's.

    Raises:
        ValueError: a predictor that is not known.
    """
    compression = int(page.compression)
    if compression in (APERIO_YCBCR, APERIO_RGB):
        return Jpeg2000Tiles(size, rgb=compression == APERIO_RGB)
    names = {NONE: "none", LZW: "lzw", DEFLATE: "deflate", OLD_DEFLATE: "deflate"}
    if compression not in names:
        return None
    # TIFF 6.0: a predictor goes with LZW and deflate; libtiff ignores it without compression
    predictor = 1 if compression == NONE else int(page.predictor)
    if predictor not in (1, 2):
        raise ValueError(f"predictor {predictor} is not one for 8-bit colour")
    return PlainTiles(names[compression], size, predictor=predictor == 2)


def rgb_of_ycbcr(pixels: Pixels) -> Pixels:
    """(H, W, 3) full-range YCbCr (ITU T.871) to RGB in libjpeg's 16-bit fixed point, as OpenSlide does it."""
    y, cb, cr = (pixels[..., i].astype(np.int32) - (128 if i else 0) for i in range(3))
    half = 1 << 15
    red = y + ((91_881 * cr + half) >> 16)
    green = y + ((-22_554 * cb - 46_802 * cr + half) >> 16)
    blue = y + ((116_130 * cb + half) >> 16)
    rgb: Pixels = np.clip(np.stack([red, green, blue], -1), 0, 255).astype(np.uint8)
    return rgb


def _copied(data: bytes, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = np.frombuffer(data, np.uint8, count=min(len(data), out.size))
    out[: found.size] = found
    return found
