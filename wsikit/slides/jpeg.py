"""JPEG tiles of TIFF files: their headers checked before anything is decoded, shared tables and colour put in."""

from __future__ import annotations

from collections.abc import Iterator

import simplejpeg

from wsikit.slides.slide import Pixels

SOI, EOI, SOS, DQT, DHT, APP0, APP14 = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xE0, 0xEE
"""Markers (ITU T.81, table B.1): start and end of image, start of scan, tables, JFIF's and Adobe's segments."""
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
"""Start of a Huffman-coded frame (ITU T.81, table B.1), which is what whole-slide files hold."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Every start of frame."""
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length: TEM and RST0 to RST7."""
SAMPLING = {b"\x11\x11\x11": "444", b"\x21\x11\x11": "422", b"\x22\x11\x11": "420"}
"""Sampling factors of the three components (ITU T.81, B.2.2), across and down in four bits each, by usual name."""
ADOBE_RGB, ADOBE_YCBCR = 0, 1
"""The transform byte of Adobe's segment for three components."""


class JpegTiles:
    """The JPEG tiles of one level: all of one size, 3 x 8 bits, with the tables that they share.

    TIFF says in its own tag whether the numbers are RGB or YCbCr, while JPEG decoders go by JFIF's and Adobe's segments
    and the components' names. Where these would mislead, the header is written anew; the compressed data never is.

    Args:
        size: (width, height) in px that every tile must have.
        rgb: whether the components are RGB; YCbCr otherwise.
        tables: the TIFF's JPEGTables, a JPEG stream of tables only, or empty.

    Raises:
        ValueError: the tables are damaged.
    """

    name = "jpeg"
    scalable = True

    def __init__(self, size: tuple[int, int], *, rgb: bool, tables: bytes = b"") -> None:
        self.size = size
        self.rgb = rgb
        # what a decoder keeps of a tables-only stream: DRI and the like are reset at the next start of image
        self._tables = b"".join(part for marker, part in _segments(tables) if marker in (DQT, DHT)) if tables else b""
        self._last: tuple[bytes, bytes | None] = (b"no tile yet", None)

    def decode(self, data: bytes, out: Pixels, scale: int = 1) -> None:
        """Decode a tile into (height / scale, width / scale, 3) uint8 ``out``; a warning of libjpeg is an error.

        Raises:
            ValueError: the header is not what the level promises, or the data are damaged or cut short.
        """
        data = self.standalone(data)
        width, height = (0, 0) if scale == 1 else (side // scale for side in self.size)
        simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, buffer=out, strict=True)

    def standalone(self, data: bytes) -> bytes:
        """The tile as a JPEG that every decoder shows in the right colours.

        Raises:
            ValueError: the header is not what the level promises.
        """
        # the tiles of a level nearly always have the same header, which is then read once
        header, replacement = self._last
        if not data.startswith(header):
            header, replacement = self._last = self._read_header(data)
        return data if replacement is None else replacement + data[len(header) :]

    def _read_header(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The header up to the first scan's data, and what replaces it, None where it can stay."""
        parts = list(_segments(data))
        if not parts or parts[-1][0] != SOS:
            raise ValueError("the JPEG holds no scan")
        self._check_frame([(marker, part) for marker, part in parts if marker in FRAMES])
        header = data[: 2 + sum(len(part) for _, part in parts)]
        if self._shown_as_rgb(parts) == self.rgb:
            return header, header[:2] + self._tables + header[2:] if self._tables else None
        kept = b"".join(part for marker, part in parts if marker not in (APP0, APP14))
        return header, header[:2] + _adobe(self.rgb) + self._tables + kept

    def _check_frame(self, frames: list[tuple[int, bytes]]) -> None:
        if len(frames) != 1 or len(frames[0][1]) < 10:
            raise ValueError(f"the JPEG has {len(frames)} frame headers before its first scan")
        marker, frame = frames[0]
        if marker not in SEQUENTIAL + PROGRESSIVE:
            raise ValueError(f"the JPEG is of a kind (SOF{marker - 0xC0}) that slides do not use")
        bits, height, width, components = (
            frame[4], int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[7:9], "big"), frame[9]
        )  # fmt: skip
        if (width, height) != self.size or components != 3 or bits != 8:
            raise ValueError(
                f"the JPEG is {width}x{height} px, {components} x {bits} bits; "
                f"the file promises {self.size[0]}x{self.size[1]} px, 3 x 8 bits"
            )

    def _shown_as_rgb(self, parts: list[tuple[int, bytes]]) -> bool:
        """Whether decoders take the components for RGB: libjpeg's rule (jdapimin.c, default_decompress_parms)."""
        if any(marker == APP0 and part[4:9] == b"JFIF\0" for marker, part in parts):
            return False
        adobe = [part for marker, part in parts if marker == APP14 and part[4:9] == b"Adobe" and len(part) >= 16]
        if adobe:
            return adobe[-1][15] == ADOBE_RGB
        frame = next(part for marker, part in parts if marker in FRAMES)
        return frame[10:19:3] == b"RGB"


def subsampling(data: bytes) -> str | None:
    """How much coarser a JPEG's colours are than its brightness: "444", "422" or "420"; None where it is none of these.

    Raises:
        ValueError: the header is damaged.
    """
    frames = [part for marker, part in _segments(data) if marker in FRAMES]
    return SAMPLING.get(frames[0][11:20:3]) if frames else None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, the segment with its marker) from after the start of image to the first scan's header or the end."""
    if data[:2] != bytes((0xFF, SOI)):
        raise ValueError("no JPEG: it does not begin with FF D8")
    at = 2
    while True:
        if len(data) < at + 4 and data[at : at + 2] != bytes((0xFF, EOI)):
            raise ValueError("the JPEG's header is cut short")
        if data[at] != 0xFF:
            raise ValueError(f"byte {at} of the JPEG's header is {data[at]:#04x} instead of a marker")
        marker = data[at + 1]
        if marker == EOI:
            return
        if marker in ALONE or marker in (0xFF, SOI):
            raise ValueError(f"marker {marker:#04x} is out of place in the JPEG's header")
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(data):
            raise ValueError(f"segment {marker:#04x} of the JPEG's header is cut short")
        yield marker, data[at:end]
        if marker == SOS:
            return
        at = end


def _adobe(rgb: bool) -> bytes:
    """Adobe's segment (Adobe TN 5116): length 14, "Adobe", version 100, two flag words, the transform."""
    transform = ADOBE_RGB if rgb else ADOBE_YCBCR
    return bytes((0xFF, APP14, 0, 14)) + b"Adobe" + bytes((0, 100, 0, 0, 0, 0, transform))
