"""Recipes for files that are broken, odd or not slides: a seed, a small mutation, and the code it must end in.

``code`` is what opening the slide and then reading all of level 0 ends in; None means that it works.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

APERIO = "Aperio Image Library v11\n400x300 (128x128) JPEG/RGB Q=70|AppMag = 20|MPP = {mpp}"
MPP_HALF = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


def picture(width: int = 400, height: int = 300, seed: int = 0) -> np.ndarray:
    """(H, W, 3) smooth blobs plus noise: JPEG keeps it well, and no two tiles are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (9 + c)) * np.cos(y / (13 - c)) for c in range(3)], -1)
    return np.clip(150 + 60 * waves + rng.integers(-9, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def tiled(path: Path, levels: list[np.ndarray], **options: object) -> Path:
    """A tiled JPEG TIFF at 0.5 um per pixel, one page per level."""
    options = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", **MPP_HALF, **options}
    with tifffile.TiffWriter(path) as writer:
        for i, pixels in enumerate(levels):
            writer.write(pixels, metadata=None, subfiletype=int(i > 0), **options)
    return path


def tile_bytes(path: Path, tile: int, page: int = 0) -> tuple[int, int]:
    """(offset, length) of one tile."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile]


def scramble(path: Path, tile: int, page: int = 0) -> Path:
    """Overwrite a tile with bytes that are no JPEG."""
    offset, length = tile_bytes(path, tile, page)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(range(1, 252)) * (length // 251) + b"\1" * (length % 251))
    return path


def set_tag(path: Path, name: str, value: object, page: int = 0) -> Path:
    """Overwrite the value of a TIFF tag."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[page].tags[name].overwrite(value)
    return path


def empty_tile(path: Path, tile: int) -> Path:
    """Leave a tile out the legal way: length and offset zero."""
    for name in ("TileByteCounts", "TileOffsets"):
        with tifffile.TiffFile(path) as tiff:
            values = list(tiff.pages[0].tags[name].value)
        values[tile] = 0
        set_tag(path, name, tuple(values))
    return path


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    os.truncate(path, int(path.stat().st_size * share))
    return path


def wrote(path: Path, data: bytes) -> Path:
    """A file of these bytes."""
    path.write_bytes(data)
    return path


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    """An image through Pillow."""
    image.save(path, **options)
    return path


def huge_png(path: Path) -> Path:
    """A PNG whose header says 30000 x 30000 px."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return wrote(path, b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 100) + b"IDAT" + bytes(104))


def png16(path: Path) -> Path:
    """A PNG of 16-bit RGB, which Pillow would quietly reduce to 8."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(4)))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (ihdr, idat, b"IEND")]
    return wrote(path, b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def fifo(path: Path) -> Path:
    """A named pipe."""
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    """A directory with a slide's suffix."""
    path.mkdir()
    return path


def flat(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """A TIFF in strips."""
    tifffile.imwrite(path, pixels, **{"photometric": "rgb", "metadata": None, **options})
    return path


def pages(path: Path) -> Path:
    """Two flat pictures of different sizes in one TIFF."""
    with tifffile.TiffWriter(path) as writer:
        for size in (40, 60):
            writer.write(picture(size, size), photometric="rgb", metadata=None)
    return path


@dataclass(frozen=True)
class Recipe:
    """How to make one file, and what becomes of it."""

    name: str
    """File name, suffix included."""
    make: Callable[[Path], Path]
    code: str | None
    mentions: str = ""
    """What the message must contain."""


RGB = picture()
GREY = RGB[..., 0]
RECIPES = [
    Recipe("missing.svs", lambda p: p, "not_a_file"),
    Recipe("folder.svs", folder, "not_a_file"),
    Recipe("pipe.svs", fifo, "not_a_file"),
    Recipe("empty.svs", lambda p: wrote(p, b""), "unreadable"),
    Recipe("text.svs", lambda p: wrote(p, b"this is no slide\n" * 99), "unreadable"),
    Recipe("magic-only.tif", lambda p: wrote(p, b"II*\0"), "unreadable"),
    Recipe("ifd-nowhere.tif", lambda p: wrote(p, b"II*\0\xff\xff\xff\x7f"), "unreadable"),
    Recipe("sound.tif", lambda p: tiled(p, [RGB]), None),
    Recipe("sound.svs", lambda p: tiled(p, [RGB], description=APERIO.format(mpp="0.4990")), None),
    Recipe("cut.tif", lambda p: cut(tiled(p, [RGB]), 0.6), "unreadable_pixels"),
    Recipe("scrambled-tile.tif", lambda p: scramble(tiled(p, [RGB]), 5), "unreadable_pixels", "x=128 y=128 128x128"),
    Recipe("left-out-tile.tif", lambda p: empty_tile(tiled(p, [RGB]), 5), None),
    Recipe("unknown-codec.tif", lambda p: set_tag(tiled(p, [RGB]), "Compression", 52479), "unreadable", "52479"),
    Recipe("grey8.tif", lambda p: tiled(p, [GREY], photometric="minisblack"), "unsupported_pixels", "MINISBLACK"),
    Recipe(
        "grey16.tif",
        lambda p: tiled(p, [GREY.astype(np.uint16)], photometric="minisblack", compression="zlib"),
        "unsupported_pixels",
        "16-bit",
    ),
    Recipe(
        "float.tif",
        lambda p: tiled(p, [GREY.astype(np.float32)], photometric="minisblack", compression="zlib"),
        "unsupported_pixels",
        "32-bit",
    ),
    Recipe(
        "rgb16.tif",
        lambda p: tiled(p, [RGB.astype(np.uint16)], compression="zlib"),
        "unsupported_pixels",
        "3 x 16-bit",
    ),
    Recipe(
        "cmyk.tif",
        lambda p: tiled(p, [np.dstack([RGB, GREY])], photometric="separated", compression="zlib"),
        "unsupported_pixels",
        "SEPARATED",
    ),
    Recipe("flat-grey.tif", lambda p: flat(p, GREY, photometric="minisblack"), "unsupported_pixels"),
    Recipe("flat-no-mpp.tif", lambda p: flat(p, RGB), "missing_mpp"),
    Recipe("flat.tif", lambda p: flat(p, RGB, **MPP_HALF), None),
    Recipe("flat-cut.tif", lambda p: cut(flat(p, RGB, **MPP_HALF), 0.6), "unreadable", "cut short"),
    Recipe("flat-pages.tif", pages, "unreadable", "2 images"),
    Recipe("zero-mpp.svs", lambda p: tiled(p, [RGB], description=APERIO.format(mpp="0")), "absurd_mpp"),
    Recipe("nan-mpp.svs", lambda p: tiled(p, [RGB], description=APERIO.format(mpp="nan")), "missing_mpp", "'nan'"),
    Recipe(
        "word-mpp.svs", lambda p: tiled(p, [RGB], description=APERIO.format(mpp="unknown")), "missing_mpp", "'unknown'"
    ),
    Recipe("comma-mpp.svs", lambda p: tiled(p, [RGB], description=APERIO.format(mpp="0,499")), None),
    Recipe(
        "72-dpi.tif", lambda p: tiled(p, [RGB], resolution=(72, 72), resolutionunit="INCH"), "absurd_mpp", "352.778"
    ),
    Recipe(
        "300-dpi.tif",
        lambda p: tiled(p, [RGB], resolution=(300, 300), resolutionunit="INCH"),
        "missing_mpp",
        "300 dots per inch, a print setting",
    ),
    Recipe("oblong.tif", lambda p: tiled(p, [RGB], resolution=(20_000, 10_000)), "anisotropic_mpp", "0.5 x 1"),
    Recipe("no-mpp.png", lambda p: saved(p, Image.fromarray(RGB), dpi=(300, 300)), "missing_mpp", "300 dots per inch"),
    Recipe("no-mpp.jpg", lambda p: saved(p, Image.fromarray(RGB), dpi=(96, 96)), "missing_mpp", "96 dots per inch"),
    Recipe("no-mpp.bmp", lambda p: saved(p, Image.fromarray(RGB)), "missing_mpp"),
    Recipe("no-mpp.jp2", lambda p: saved(p, Image.fromarray(RGB)), "missing_mpp"),
    Recipe("grey.png", lambda p: saved(p, Image.fromarray(GREY)), "unsupported_pixels", "mode L"),
    Recipe("16-bit.png", png16, "unsupported_pixels", "16 bits"),
    Recipe("cmyk.jpg", lambda p: saved(p, Image.fromarray(RGB).convert("CMYK")), "unsupported_pixels", "CMYK"),
    Recipe("huge.png", huge_png, "too_large", "30000x30000"),
    Recipe(
        "animated.png",
        lambda p: saved(
            p, Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(RGB[::-1])], duration=100
        ),
        "unreadable",
        "2 pictures",
    ),
]
