"""Recipes for hostile TIFFs: a sound seed, a small mutation, and what every reader makes of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from broken import APERIO, MPP_HALF, RGB, set_tag, tile_bytes, tiled

HALF = np.ascontiguousarray(RGB[::2, ::2])
THIRD = np.ascontiguousarray(RGB[1::3, 1::3])


def sound(path: Path) -> Path:
    """The seed: two levels of JPEG tiles of 128 x 128 px, 4 x 3 of them at level 0."""
    return tiled(path, [RGB, HALF])


def svs(path: Path, mpp: str = "0.4990") -> Path:
    """The seed as an Aperio file."""
    return tiled(path, [RGB, HALF], description=APERIO.format(mpp=mpp))


def put(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def set_tile(path: Path, name: str, tile: int, value: int, page: int = 0) -> Path:
    """Change one entry of TileOffsets or TileByteCounts."""
    with tifffile.TiffFile(path) as tiff:
        values = list(tiff.pages[page].tags[name].value)
    values[tile] = value
    return set_tag(path, name, tuple(values), page)


def replace_tile(path: Path, tile: int, data: bytes, page: int = 0) -> Path:
    """Put other data in a tile's place, at the end of the file."""
    end = path.stat().st_size
    put(path, end, data)
    set_tile(path, "TileOffsets", tile, end, page)
    return set_tile(path, "TileByteCounts", tile, len(data), page)


def jpeg(width: int, height: int, channels: int = 3, **options: object) -> bytes:
    """A JPEG of its own, RGB without a colour transform."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = (100 + (x + y) % 100).astype(np.uint8)
    if channels > 1:
        pixels = np.repeat(pixels[..., None], channels, 2)
    if channels == 3:
        options = {"colorspace": "rgb", "outcolorspace": "rgb", **options}
    return imagecodecs.jpeg8_encode(pixels, **options)


def short_tile(path: Path, tile: int, share: float = 0.5) -> Path:
    """Let the table say that a tile is shorter than it is."""
    return set_tile(path, "TileByteCounts", tile, int(tile_bytes(path, tile)[1] * share))


def noise(path: Path, tile: int, skip: int = 0) -> Path:
    """Overwrite a tile with random bytes, after its first ``skip``."""
    offset, length = tile_bytes(path, tile)
    return put(path, offset + skip, np.random.default_rng(5).bytes(length - skip))


def after_scan_header(path: Path, tile: int) -> int:
    """Length of a tile's JPEG headers."""
    offset, length = tile_bytes(path, tile)
    data = path.read_bytes()[offset : offset + length]
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def ifd_offsets(path: Path) -> list[int]:
    """Position of each IFD of a classic little-endian TIFF."""
    data = path.read_bytes()
    found, at = [], struct.unpack_from("<I", data, 4)[0]
    while at:
        found.append(at)
        count = struct.unpack_from("<H", data, at)[0]
        at = struct.unpack_from("<I", data, at + 2 + 12 * count)[0]
    return found


def link(path: Path, target: Callable[[list[int]], int]) -> Path:
    """Let the last IFD name another as the next."""
    offsets = ifd_offsets(path)
    count = struct.unpack_from("<H", path.read_bytes(), offsets[-1])[0]
    return put(path, offsets[-1] + 2 + 12 * count, struct.pack("<I", target(offsets)))


def many_ifds(path: Path, count: int = 1_000_000) -> Path:
    """A sound slide followed by a chain of IFDs of one entry each."""
    link(sound(path), lambda _: path.stat().st_size)
    start = path.stat().st_size
    ifds = np.zeros(count, np.dtype([("n", "<u2"), ("entry", "<u2", 2), ("c", "<u4"), ("v", "<u4"), ("next", "<u4")]))
    ifds["n"], ifds["entry"], ifds["c"], ifds["v"] = 1, (256, 4), 1, 16
    ifds["next"][:-1] = start + ifds.itemsize * np.arange(1, count)
    return put(path, start, ifds.tobytes())


def resolution(path: Path, x: tuple[int, int], y: tuple[int, int] | None = None, unit: int = 3) -> Path:
    """The seed with these resolution tags."""
    set_tag(sound(path), "XResolution", x)
    set_tag(path, "YResolution", y or x)
    return set_tag(path, "ResolutionUnit", unit)


def far_tile(path: Path) -> Path:
    """A BigTIFF with one tile beyond 4 GB, in a hole of the file."""
    tiled(path, [RGB], bigtiff=True) if False else None
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(RGB, metadata=None, tile=(128, 128), compression="jpeg", photometric="rgb", **MPP_HALF)
    offset, length = tile_bytes(path, 5)
    data = path.read_bytes()[offset : offset + length]
    put(path, 5 << 30, data)
    return set_tile(path, "TileOffsets", 5, 5 << 30)
