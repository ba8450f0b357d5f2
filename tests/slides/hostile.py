"""Recipes for hostile TIFFs: a sound seed, a small mutation, and what every reader makes of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from broken import APERIO, GREY, MPP_HALF, RGB, cut, empty_tile, scramble, set_tag, tile_bytes, tiled

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
    pixels = np.full((height, width), 120, np.uint8)
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


def table_type(path: Path, tag: int, kind: int) -> Path:
    """Give a tag of the first directory another field type."""
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[tag].offset
    return put(path, at + 2, struct.pack("<H", kind))


def far_tile(path: Path) -> Path:
    """A BigTIFF with one tile beyond 4 GB, behind a hole in the file."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(RGB, metadata=None, tile=(128, 128), compression="jpeg", photometric="rgb", **MPP_HALF)
    offset, length = tile_bytes(path, 5)
    data = path.read_bytes()[offset : offset + length]
    put(path, 5 << 30, data)
    return set_tile(path, "TileOffsets", 5, 5 << 30)


def sub_levels(path: Path) -> Path:
    """The lower level as a SubIFD, as OME-TIFF has it."""
    with tifffile.TiffWriter(path) as writer:
        options = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None, **MPP_HALF}
        writer.write(RGB, subifds=1, **options)
        writer.write(HALF, subfiletype=1, **options)
    return path


def sub_circle(path: Path) -> Path:
    """A SubIFD that names the first directory as the next after itself."""
    sub_levels(path)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        (at,) = tiff.pages[0].subifds
        first = tiff.pages[0].offset
    count = struct.unpack_from("<H", data, at)[0]
    return put(path, at + 2 + 12 * count, struct.pack("<I", first))


def coded(path: Path, compression: object, **options: object) -> Path:
    """The seed with another compression."""
    return tiled(path, [RGB, HALF], compression=compression, **options)


def aperio_jp2k(path: Path, compression: int) -> Path:
    """An Aperio file of JPEG 2000 codestreams."""
    return tiled(path, [RGB], compression=compression, description=APERIO.format(mpp="0.4990"))


def size_tags(path: Path, **tags: int) -> Path:
    """The seed with other sizes in its first directory."""
    sound(path)
    for name, value in tags.items():
        set_tag(path, name, value)
    return path


def square_tiles(path: Path, side: int) -> Path:
    """The seed with another size of tiles in its first directory."""
    return size_tags(path, TileWidth=side, TileLength=side)


def same_tile(path: Path, tile: int, other: int) -> Path:
    """Let the table give one tile's place twice."""
    offset, length = tile_bytes(sound(path), other)
    set_tile(path, "TileOffsets", tile, offset)
    return set_tile(path, "TileByteCounts", tile, length)


def trestle(path: Path) -> Path:
    """A file of a maker whose tiles overlap."""
    return tiled(
        path, [RGB], software="MedScan", description="Objective Power=20;OverlapsXY= 16 16;", resolution=(2, 2)
    )


TILE5 = (128, 128, 128, 128)
"""Box of tile 5 of level 0: the one that recipes damage."""


@dataclass(frozen=True)
class Hostile:
    """How to make one file, and what becomes of it: by the default order of the readers, and by each of them."""

    name: str
    make: Callable[[Path], Path]
    code: str | None = None
    """What opening it and reading all levels ends in by the default order; None means that all can be read."""
    mentions: str = ""
    """What the message must contain."""
    bad: tuple[tuple[int, int, int, int], ...] | None = None
    """Boxes of level 0 that must be listed; None is not said."""
    missing: tuple[int, int, int, int] | None = None
    """Box of level 0 that must be background."""
    shows: str = "seed"
    """"seed" where all other pixels are the seed's; "another" where only all readers must agree on them."""
    each: Mapping[str, str | None] = field(default_factory=dict)
    """Reader -> code, where it differs from ``code``: a format that it does not read ends in "unreadable"."""


def damaged(name: str, make: Callable[[Path], Path], **options: object) -> Hostile:
    """A recipe that makes tile 5 unreadable and leaves the others sound."""
    return Hostile(name, make, "unreadable_pixels", bad=(TILE5,), **options)


HOSTILE = [
    # 4: cut short
    # OpenSlide wants whole directories and tiles to hash; tiffslide reads the levels that are left
    *[
        Hostile(
            f"cut-{share}-{seed.__name__}.tif",
            lambda p, seed=seed, share=share: cut(seed(p), share / 100),
            "unreadable_pixels",
            each={"tiff": "unreadable", "openslide": "unreadable"},
        )
        for share in (10, 50)
        for seed in (sound, svs)
    ],
    Hostile("cut-99.tif", lambda p: cut(sound(p), 0.99), "unreadable_pixels", each={"openslide": "unreadable"}),
    Hostile("cut-99.svs", lambda p: cut(svs(p), 0.99), each={"openslide": "unreadable"}),
    # 5, 6: damaged tiles
    damaged("short-tile.tif", lambda p: short_tile(sound(p), 5)),
    damaged("short-tile.svs", lambda p: short_tile(svs(p), 5)),
    damaged("short-by-9-bytes.tif", lambda p: set_tile(sound(p), "TileByteCounts", 5, tile_bytes(p, 5)[1] - 9)),
    damaged("one-byte-tile.tif", lambda p: set_tile(sound(p), "TileByteCounts", 5, 1)),
    damaged("noise-tile.tif", lambda p: noise(sound(p), 5)),
    damaged("noise-scan.tif", lambda p: noise(sound(p), 5, after_scan_header(p, 5))),
    damaged("zero-tile.tif", lambda p: put(sound(p), tile_bytes(p, 5)[0], bytes(tile_bytes(p, 5)[1]))),
    damaged("png-tile.tif", lambda p: replace_tile(sound(p), 5, imagecodecs.png_encode(RGB[:128, :128]))),
    # 7, 8: sound JPEGs that are not what the slot promises
    damaged("bomb.tif", lambda p: replace_tile(sound(p), 5, jpeg(6000, 6000))),
    damaged("small.tif", lambda p: replace_tile(sound(p), 5, jpeg(64, 64))),
    damaged("large.tif", lambda p: replace_tile(sound(p), 5, jpeg(256, 256))),
    damaged("wide.tif", lambda p: replace_tile(sound(p), 5, jpeg(256, 64))),
    damaged("grey-tile.tif", lambda p: replace_tile(sound(p), 5, jpeg(128, 128, 1))),
    damaged("cmyk-tile.tif", lambda p: replace_tile(sound(p), 5, jpeg(128, 128, 4))),
    damaged(
        "12-bit-tile.tif",
        lambda p: replace_tile(
            sound(p),
            5,
            imagecodecs.jpeg8_encode(
                RGB[:128, :128].astype(np.uint16) * 8, bitspersample=12, colorspace="rgb", outcolorspace="rgb"
            ),
        ),
    ),
    # 9: left out
    Hostile("left-out.tif", lambda p: empty_tile(sound(p), 5), missing=TILE5, bad=()),
    Hostile("left-out.svs", lambda p: empty_tile(svs(p), 5), missing=TILE5, bad=()),
    Hostile("count-0.tif", lambda p: set_tile(sound(p), "TileByteCounts", 5, 0), missing=TILE5, bad=()),
    damaged("place-0.tif", lambda p: set_tile(sound(p), "TileOffsets", 5, 0)),
    # 10, 11: sizes that cannot be
    Hostile(
        "2^31.tif", lambda p: size_tags(p, ImageWidth=2**31 - 1, ImageLength=2**31 - 1), "bad_header", "2147483647"
    ),
    Hostile("4000-wide.tif", lambda p: size_tags(p, ImageWidth=4000), "bad_header", "table lists 12"),
    Hostile("0-wide.tif", lambda p: size_tags(p, ImageWidth=0), "bad_header", "0x300"),
    Hostile("tiles-0.tif", lambda p: square_tiles(p, 0), "bad_header", "0x0"),
    Hostile("tiles-1.tif", lambda p: square_tiles(p, 1), "bad_header", "120000 tiles"),
    Hostile("tiles-64.tif", lambda p: square_tiles(p, 64), "bad_header", "35 tiles"),
    Hostile("tiles-100.tif", lambda p: square_tiles(p, 100), "unreadable_pixels"),
    Hostile("tiles-256.tif", lambda p: square_tiles(p, 256), "unreadable_pixels", each={"tiff": "unreadable"}),
    Hostile("tiles-10^6.tif", lambda p: square_tiles(p, 10**6), "too_large", "1000000x1000000"),
    Hostile("tiles-2^32.tif", lambda p: square_tiles(p, 2**32 - 1), "too_large", "4294967295"),
    # 12, 13: directories
    Hostile("circle.tif", lambda p: link(sound(p), lambda at: at[0]), "bad_header", "circle"),
    Hostile("own-circle.tif", lambda p: link(sound(p), lambda at: at[-1]), "bad_header", "circle"),
    Hostile("circle.svs", lambda p: link(svs(p), lambda at: at[0]), "bad_header", "circle"),
    Hostile("sub-levels.tif", sub_levels),
    Hostile("sub-circle.tif", sub_circle),
    Hostile("million.tif", many_ifds, "bad_header", "1000 images"),
    Hostile(
        "next-past-end.tif",
        lambda p: link(sound(p), lambda _: 2**32 - 2),
        each={"tiff": "unreadable", "openslide": "unreadable"},
    ),
    # 14, 15, 16: places and sizes of tiles
    damaged("past-end.tif", lambda p: set_tile(sound(p), "TileOffsets", 5, 2**31)),
    damaged("place-max.tif", lambda p: set_tile(sound(p), "TileOffsets", 5, 2**32 - 1)),
    damaged("overlap.tif", lambda p: set_tile(sound(p), "TileOffsets", 5, tile_bytes(p, 5)[0] + 100)),
    damaged("in-header.tif", lambda p: set_tile(sound(p), "TileOffsets", 5, 4)),
    damaged("count-max.tif", lambda p: set_tile(sound(p), "TileByteCounts", 5, 2**32 - 1)),
    *[
        Hostile(
            f"type-{kind}-for-{tag}.tif",
            lambda p, tag=tag, kind=kind: table_type(sound(p), tag, kind),
            "bad_header",
            "whole numbers",
        )
        for tag in (324, 325)
        for kind in (1, 2, 7)
    ],
    Hostile("same-tile.tif", lambda p: same_tile(p, 5, 4), shows="another", bad=()),
    # 17, 18, 19: resolutions
    *[
        Hostile(f"mpp-{text}.svs", lambda p, text=text: svs(p, text), "absurd_mpp", "um per pixel")
        for text in ("-0.5", "0", "inf", "1e9", "1e-9")
    ],
    Hostile("mpp-nan.svs", lambda p: svs(p, "nan"), "missing_mpp"),
    Hostile("mpp-none.svs", lambda p: svs(p, ""), "missing_mpp"),
    Hostile("mpp-unit.svs", lambda p: svs(p, "0.5um"), "missing_mpp", "0.5um"),
    Hostile("mpp-comma.svs", lambda p: svs(p, "0,499")),
    Hostile("resolution-0.tif", lambda p: resolution(p, (0, 1)), "missing_mpp"),
    Hostile("resolution-0-0.tif", lambda p: resolution(p, (0, 0)), "missing_mpp", each={"tiffslide": "unreadable"}),
    Hostile(
        "resolution-n-0.tif", lambda p: resolution(p, (20_000, 0)), "missing_mpp", each={"tiffslide": "unreadable"}
    ),
    Hostile("resolution-max.tif", lambda p: resolution(p, (2**32 - 1, 1)), "absurd_mpp", "2.32831e-06"),
    Hostile("resolution-tiny.tif", lambda p: resolution(p, (1, 1000)), "absurd_mpp", "1e+07"),
    Hostile("resolution-inch.tif", lambda p: resolution(p, (50_800, 1), unit=2)),
    Hostile("resolution-none.tif", lambda p: resolution(p, (20_000, 1), unit=1), "missing_mpp"),
    Hostile(
        "resolution-unit-9.tif",
        lambda p: resolution(p, (20_000, 1), unit=9),
        "missing_mpp",
        each={"tiffslide": "unreadable"},
    ),
    Hostile("oblong.tif", lambda p: resolution(p, (20_000, 1), (10_000, 1)), "anisotropic_mpp", "0.5 x 1"),
    Hostile("nearly-square.tif", lambda p: resolution(p, (20_000, 1), (19_800, 1))),
    # 20: levels
    Hostile("small-first.tif", lambda p: tiled(p, [HALF, RGB]), each={"tiffslide": "unreadable"}),
    Hostile("third.tif", lambda p: tiled(p, [RGB, THIRD])),
    Hostile("fraction.tif", lambda p: tiled(p, [RGB, RGB[:137, :181]])),
    Hostile("other-shape.tif", lambda p: tiled(p, [RGB, RGB[:100, :350]])),
    Hostile("level-twice.tif", lambda p: tiled(p, [RGB, HALF, HALF]), each={"tiff": "unreadable"}),
    Hostile("level-1-damaged.tif", lambda p: scramble(sound(p), 1, page=1), "unreadable_pixels", bad=()),
    Hostile(
        "level-1-missing.tif",
        lambda p: link(tiled(p, [RGB]), lambda _: 2**31),
        each={"tiff": "unreadable", "openslide": "unreadable"},
    ),
    # 21: colours
    Hostile("ycbcr.tif", lambda p: tiled(p, [RGB, HALF], photometric="ycbcr"), shows="another"),
    Hostile("flagged-ycbcr.tif", lambda p: set_tag(sound(p), "PhotometricInterpretation", 6), shows="another"),
    Hostile("flagged-ycbcr.svs", lambda p: set_tag(svs(p), "PhotometricInterpretation", 6), shows="another"),
    Hostile(
        "flagged-rgb.tif",
        lambda p: set_tag(tiled(p, [RGB, HALF], photometric="ycbcr"), "PhotometricInterpretation", 2),
        shows="another",
    ),
    Hostile(
        "flagged-rgb.svs",
        lambda p: set_tag(
            tiled(p, [RGB, HALF], photometric="ycbcr", description=APERIO.format(mpp="0.5")),
            "PhotometricInterpretation",
            2,
        ),
        shows="another",
    ),
    Hostile(
        "12-bit.tif",
        lambda p: tiled(p, [RGB.astype(np.uint16) * 8], compressionargs={"bitspersample": 12}),
        "unsupported_pixels",
        "12-bit",
    ),
    Hostile(
        "palette.tif",
        lambda p: tiled(p, [GREY], photometric="palette", compression="zlib", colormap=np.zeros((3, 256), np.uint16)),
        "unsupported_pixels",
        "PALETTE",
    ),
    Hostile(
        "alpha.tif",
        lambda p: tiled(p, [np.dstack([RGB, GREY])], compression="zlib", extrasamples=["unassalpha"]),
        shows="another",
        each={"tiff": "unsupported_pixels", "tiffslide": "unsupported_pixels"},
    ),
    Hostile("bad-profile.tif", lambda p: tiled(p, [RGB], extratags=[(34675, 7, 400, b"x" * 400, True)])),
    Hostile(
        "planes.tif",
        lambda p: tiled(p, [np.moveaxis(RGB, -1, 0)], planarconfig="separate", compression="zlib"),
        each={"tiff": "unreadable", "tiffslide": "unreadable"},
    ),
    # 22: JPEG 2000 and what is no JPEG
    *[
        Hostile(f"jp2k-{code}.svs", lambda p, code=code: aperio_jp2k(p, code), shows=shows)
        for code, shows in ((33003, "another"), (33005, "seed"))
    ],
    *[
        damaged(
            f"jp2k-{code}-{share}.svs",
            lambda p, code=code, share=share: short_tile(aperio_jp2k(p, code), 5, share / 100),
            shows="another",
        )
        for code in (33003, 33005)
        for share in (10, 50, 99)
    ],
    damaged(
        "jp2k-small.svs",
        lambda p: replace_tile(aperio_jp2k(p, 33005), 5, imagecodecs.jpeg2k_encode(RGB[:64, :64], codecformat="j2k")),
    ),
    damaged(
        "jp2k-bomb.svs",
        lambda p: replace_tile(
            aperio_jp2k(p, 33005),
            5,
            imagecodecs.jpeg2k_encode(np.full((3000, 3000, 3), 99, np.uint8), codecformat="j2k"),
        ),
    ),
    Hostile("deflate.tif", lambda p: coded(p, "zlib")),
    damaged("deflate-short.tif", lambda p: short_tile(coded(p, "zlib"), 5)),
    damaged("deflate-noise.tif", lambda p: noise(coded(p, "zlib"), 5)),
    Hostile("predictor.tif", lambda p: coded(p, "zlib", predictor=True)),
    Hostile("lzw.tif", lambda p: coded(p, "lzw")),
    damaged("lzw-short.tif", lambda p: short_tile(coded(p, "lzw"), 5)),
    damaged("lzw-noise.tif", lambda p: noise(coded(p, "lzw"), 5)),
    Hostile("plain.tif", lambda p: coded(p, None)),
    damaged("plain-short.tif", lambda p: short_tile(coded(p, None), 5)),
    Hostile(
        "webp.tif",
        lambda p: tiled(p, [RGB], compression="webp", compressionargs={"level": -1}),
        each={"tiff": "unreadable", "openslide": "unreadable"},
    ),
    Hostile("jpeg-xl.tif", lambda p: coded(p, "jpegxl"), each={"tiff": "unreadable", "openslide": "unreadable"}),
    # 23, 24: large files, makers whose tiles overlap
    Hostile("far-tile.tif", far_tile),
    Hostile("trestle.tif", trestle, shows="another", each={"tiff": "unreadable", "tiffslide": "absurd_mpp"}),
]
