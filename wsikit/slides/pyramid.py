"""Write a multi-level slide of any size out of a small picture: for the demo, tests and benchmarks.

1. The *crop* is the square of the source with the most tissue (at most ``CROP`` px), mirrored at every seam, so that
   the picture has no hard edges and a period of two crops.
2. The plane is cut into square *blocks*; those nearest to the middle carry the picture until the wanted share of the
   area is covered, the rest is clean glass.
3. A level of downsample d is the same picture made of the crop's area average over d x d px. Crops and blocks are whole
   multiples of d, so this is exactly the area average of level 0, without ever holding level 0.
4. A tile is encoded once for each distinct content and its bytes are written as often as they occur: seconds and little
   memory for any size.

The file follows Aperio's layout (SVS): level 0, a stripped thumbnail, the further levels, each tiled JPEG;
``Aperio ...|AppMag = ..|MPP = ..`` as ImageDescription. OpenSlide, tiffslide and QuPath read the resolution from there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, OutputError
from wsikit.geometry import Region
from wsikit.slides.resample import area_average
from wsikit.slides.slide import Pixels, Slide

CROP = 1024
"""Largest side in px of the piece that is repeated: larger ones of CMU-1-Small-Region are half glass."""
UNIT = 256
"""Sides of crops and blocks are multiples of this, hence every downsample must divide it."""
BLOCKS = (2048, 1024, 512, 256)
"""Sides in px of the blocks tried for the layout, the coarsest that gives the wanted share being taken."""
SHARE_TOLERANCE = 0.02
"""A layout is good enough when its share of tissue is this close."""
GLASS = (243, 243, 243)
"""RGB of empty glass in CMU-1-Small-Region."""
COLOURED = 20
"""A pixel whose channels differ by more than this is tissue; used only to choose the crop."""
OVERVIEW = 2048
"""Longest side in px of the picture in which the crop is looked for."""
THUMBNAIL = 1024
"""Longest side in px of the thumbnail page, as Aperio's."""
THUMBNAIL_QUALITY = 80
"""Of the JPEG thumbnail of a slide whose tiles are none."""
BIGTIFF_PIXELS = 1 << 30
"""From this many level-0 px on the file is a BigTIFF: JPEG may take up to 4 bytes a px."""


Codec = Literal["jpeg444", "jpeg420", "jpeg2000"]
"""How tiles are compressed: JPEG YCbCr 4:4:4 or 4:2:0, or JPEG 2000 in RGB."""
APERIO_JPEG2000_RGB = 33005
"""The TIFF compression number of tiles that are bare JPEG 2000 codestreams of RGB."""
_TAGS: dict[str, dict[str, Any]] = {
    "jpeg444": {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)},
    "jpeg420": {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
    "jpeg2000": {"compression": APERIO_JPEG2000_RGB, "photometric": "rgb"},
}
"""What TIFF says of each codec."""


def write_pyramid(
    path: str | Path,
    source: Pixels | Slide,
    *,
    size: tuple[int, int],
    mpp: float | None = None,
    tissue: float = 1.0,
    tile: int = 256,
    quality: int = 80,
    codec: Codec = "jpeg444",
    downsamples: Sequence[int] = (4, 16),
    crop: int = CROP,
) -> Path:
    """Write a tiled pyramid (.svs) that OpenSlide and tiffslide open with the same pixels.

    Args:
        path: the file to write, normally ``*.svs``; visible only when complete, and the same bytes every time.
        source: (H, W, 3) uint8 RGB, or an open slide, whose finest level is used.
        size: (width, height) of level 0 in px. Where a downsample does not divide it, the level has the floor, as
            scanners do it, and the downsample that OpenSlide reports is slightly off.
        mpp: micrometres per level-0 px; by default the slide's. An array needs one.
        tissue: share of the area that carries the picture, 0 to 1; met within a few per cent.
        tile: side of the tiles in px, a multiple of 16.
        quality: of JPEG, 1 to 100; of JPEG 2000 the PSNR in dB.
        codec: JPEG with whole or subsampled chroma, or JPEG 2000 in RGB (Aperio's 33005).
        downsamples: of the levels below level 0, ascending divisors of 256. Aperio's are 4, 16, ...
        crop: largest side in px of the piece that is repeated, a multiple of the last downsample. Mirrored, it has a
            period of twice that; a tile comes again only where a multiple of both sides meets.

    Returns:
        ``path``.

    Raises:
        ConfigError: a value outside of what is said above.
        OutputError: the file cannot be written.
    """
    _check(size, tissue, tile, quality, downsamples)
    if crop < UNIT or crop % (1, *downsamples)[-1]:
        raise ConfigError(f"crop must be a multiple of the last downsample and at least {UNIT} px, got {crop}")
    if codec not in _TAGS:
        raise ConfigError(f"codec must be one of {', '.join(_TAGS)}, got {codec!r}")
    mpp = _checked_mpp(source, mpp)
    base = _Mosaic(_crop(source, crop), *_layout(size, tissue))
    path = Path(path)
    with _replacing(path) as file:
        _write_levels(file, base, size, mpp, tile, quality, codec, (1, *downsamples))
    return path


@dataclass(frozen=True, slots=True, eq=False)
class _Mosaic:
    """The picture at one resolution, in px of that resolution."""

    crop: Pixels
    covered: NDArray[np.bool_]
    """(rows, columns) of blocks: whether the block carries the picture."""
    block: int

    def at(self, downsample: int) -> _Mosaic:
        """The same picture, area-averaged."""
        if downsample == 1:
            return self
        height, width = (side // downsample for side in self.crop.shape[:2])
        crop = area_average(self.crop, (0, 0), downsample, (0, 0, width, height))
        return _Mosaic(crop, self.covered, self.block // downsample)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width, 3) px of the box; past the plane its last blocks go on."""
        rows, columns = np.arange(y, y + height), np.arange(x, x + width)
        crop_h, crop_w = self.crop.shape[:2]
        pixels = self.crop[_mirror(rows, crop_h)[:, None], _mirror(columns, crop_w)]
        pixels[~self._blocks(rows, columns)] = GLASS
        return pixels

    def content(self, x: int, y: int, width: int, height: int) -> tuple[int, int, bytes]:
        """A key that is equal only for boxes of equal content."""
        crop_h, crop_w = self.crop.shape[:2]
        block = self.block
        rows = np.arange(y // block * block, y + height, block)
        columns = np.arange(x // block * block, x + width, block)
        blocks = self._blocks(rows, columns)
        if not blocks.any():
            return 0, 0, b"glass"
        # where blocks differ, it matters where in the first of them the box begins
        layout = b"" if blocks.all() else f"{x % block},{y % block},".encode() + blocks.tobytes()
        return x % (2 * crop_w), y % (2 * crop_h), layout

    def _blocks(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        last_row, last_column = (side - 1 for side in self.covered.shape)
        picked = np.minimum(rows // self.block, last_row)[:, None], np.minimum(columns // self.block, last_column)
        covered: NDArray[np.bool_] = self.covered[picked]
        return covered


def _mirror(index: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """0 1 .. side-1 side-1 .. 1 0 0 1 ..: every pixel's neighbour is one of the source's, or itself."""
    phase = index % (2 * side)
    return np.minimum(phase, 2 * side - 1 - phase)


def _check(size: tuple[int, int], tissue: float, tile: int, quality: int, downsamples: Sequence[int]) -> None:
    if tile < 16 or tile % 16:
        raise ConfigError(f"tile must be a multiple of 16 px (TIFF), got {tile}")
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality must be 1 to 100, got {quality}")
    if not 0 <= tissue <= 1:
        raise ConfigError(f"tissue must be a share from 0 to 1, got {tissue!r}")
    steps = [1, *downsamples]
    if any(d < 1 or UNIT % d for d in steps) or steps != sorted(set(steps)):
        raise ConfigError(f"downsamples must be ascending divisors of {UNIT} above 1, got {tuple(downsamples)}")
    if min(size) < steps[-1]:
        raise ConfigError(
            f"size {size[0]}x{size[1]} px is too small for downsample {steps[-1]}: give a larger size or fewer levels"
        )


def _checked_mpp(source: Pixels | Slide, mpp: float | None) -> float:
    if isinstance(source, Slide):
        mpp = source.mpp if mpp is None else mpp
    elif source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
        raise ConfigError(f"the source must be (H, W, 3) uint8 RGB, got {source.shape} {source.dtype}")
    if mpp is None or not (math.isfinite(mpp) and mpp > 0):
        raise ConfigError(f"give mpp, the micrometres per px of an array (a positive number), got {mpp!r}")
    return mpp


def _layout(size: tuple[int, int], share: float) -> tuple[NDArray[np.bool_], int]:
    """Which blocks carry the picture, and the blocks' side."""
    best: tuple[NDArray[np.bool_], int] | None = None
    least = math.inf
    for block in BLOCKS:
        covered, error = _middle_blocks(size, share, block)
        if error < least:
            best, least = (covered, block), error
        if error <= SHARE_TOLERANCE:
            break
    assert best is not None
    return best


def _middle_blocks(size: tuple[int, int], share: float, block: int) -> tuple[NDArray[np.bool_], float]:
    """The blocks nearest to the middle whose area is closest to the share, and the share's error."""
    width, height = size
    columns, rows = (np.arange(0, side, block) for side in size)
    wide, tall = np.minimum(columns + block, width) - columns, np.minimum(rows + block, height) - rows
    area = np.multiply.outer(tall, wide).ravel() / (width * height)
    distance = np.hypot.outer(rows + tall / 2 - height / 2, columns + wide / 2 - width / 2).ravel()
    order = np.argsort(distance, kind="stable")
    shares = np.concatenate([[0.0], np.cumsum(area[order])])
    count = int(np.argmin(np.abs(shares - share)))
    covered = np.zeros(area.size, np.bool_)
    covered[order[:count]] = True
    return covered.reshape(len(rows), len(columns)), float(abs(shares[count] - share))


def _crop(source: Pixels | Slide, largest: int = CROP) -> Pixels:
    """The piece of the source that has the most tissue; sides are ``largest`` or, shorter, multiples of ``UNIT``."""
    if isinstance(source, Slide):
        step = -(-max(source.width, source.height) // OVERVIEW)
        overview = source.read(Region(0, 0, source.width // step, source.height // step, source.mpp * step))
        region = Region(*_box((source.width, source.height), overview, step, largest), source.mpp)
        return _whole_units(source.read(region))
    height, width = source.shape[:2]
    step = -(-max(width, height) // OVERVIEW)
    overview = area_average(source, (0, 0), step, (0, 0, width // step, height // step))
    x, y, wide, tall = _box((width, height), overview, step, largest)
    return _whole_units(source[y : y + tall, x : x + wide])


def _box(size: tuple[int, int], overview: Pixels, step: int, largest: int) -> tuple[int, int, int, int]:
    """x, y, width, height in px of the source of the crop; a side shorter than a unit is taken whole."""
    wide, tall = (largest if side >= largest else side // UNIT * UNIT or side for side in size)
    x, y = _densest(overview, max(1, wide // step), max(1, tall // step))
    return min(x * step, size[0] - wide), min(y * step, size[1] - tall), wide, tall


def _whole_units(crop: Pixels) -> Pixels:
    """Mirror sides shorter than a unit up to one."""
    height, width = crop.shape[:2]
    return np.pad(crop, ((0, max(0, UNIT - height)), (0, max(0, UNIT - width)), (0, 0)), mode="symmetric")


def _densest(overview: Pixels, wide: int, tall: int) -> tuple[int, int]:
    """(x, y) of the window with the most coloured pixels; the first in reading order where several have."""
    coloured = np.ptp(overview, axis=2) > COLOURED
    sums = np.zeros((coloured.shape[0] + 1, coloured.shape[1] + 1), np.int64)
    sums[1:, 1:] = coloured.cumsum(0).cumsum(1)
    counts = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    y, x = np.unravel_index(int(counts.argmax()), counts.shape)
    return int(x), int(y)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name beside ``path`` that takes its place when all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        # whatever cannot be removed was not there, or the error on its way says why
        with suppress(OSError):
            temporary.unlink()


def _write_levels(
    file: IO[bytes],
    base: _Mosaic,
    size: tuple[int, int],
    mpp: float,
    tile: int,
    quality: int,
    codec: Codec,
    downsamples: Sequence[int],
) -> None:
    import tifffile

    common: dict[str, Any] = {"dtype": np.uint8, "metadata": None, "software": False}
    with tifffile.TiffWriter(file, bigtiff=size[0] * size[1] >= BIGTIFF_PIXELS) as tiff:
        for downsample in downsamples:
            width, height = (side // downsample for side in size)
            tiff.write(
                _tiles(base.at(downsample), width, height, tile, quality, codec),
                shape=(height, width, 3),
                tile=(tile, tile),
                description=_description(size, (width, height), mpp, tile, quality, codec),
                **_TAGS[codec],
                **common,
            )
            if downsample == 1:
                thumbnail = _thumbnail(base, size)
                height, width = thumbnail.shape[:2]
                tiff.write(
                    iter([_encode(thumbnail, THUMBNAIL_QUALITY if codec == "jpeg2000" else quality)]),
                    shape=thumbnail.shape,
                    rowsperstrip=height,
                    description=_description(size, (width, height), mpp, tile, quality),
                    **_TAGS["jpeg444"],
                    **common,
                )


def _tiles(level: _Mosaic, width: int, height: int, tile: int, quality: int, codec: Codec) -> Iterator[bytes]:
    """The encoded tiles in reading order."""
    encoded: dict[tuple[int, int, bytes], bytes] = {}
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            key = level.content(x, y, tile, tile)
            if key not in encoded:
                encoded[key] = _encode(level.read(x, y, tile, tile), quality, codec)
            yield encoded[key]


def _encode(pixels: Pixels, quality: int, codec: Codec = "jpeg444") -> bytes:
    """A whole JPEG of its own, or a bare JPEG 2000 codestream (irreversible, RGB)."""
    from imagecodecs import jpeg2k_encode, jpeg8_encode

    if codec == "jpeg2000":
        return bytes(jpeg2k_encode(pixels, level=quality, codecformat="j2k", reversible=False))
    return bytes(jpeg8_encode(pixels, level=quality, subsampling=codec.removeprefix("jpeg")))


def _thumbnail(base: _Mosaic, size: tuple[int, int]) -> Pixels:
    downsample = 1
    while downsample < UNIT and max(size) > THUMBNAIL * downsample and min(size) >= 2 * downsample:
        downsample *= 2
    return base.at(downsample).read(0, 0, size[0] // downsample, size[1] // downsample)


def _description(
    size: tuple[int, int], level: tuple[int, int], mpp: float, tile: int, quality: int, codec: Codec = "jpeg444"
) -> str:
    """Aperio's form. ``AppMag`` by Aperio's convention that 40x is 0.25 um per px."""
    kind = "J2K PSNR" if codec == "jpeg2000" else "JPEG Q"
    scaled = "" if level == size else f" -> {level[0]}x{level[1]}"
    return (
        f"Aperio layout, written by wsikit\r\n{size[0]}x{size[1]} ({tile}x{tile}){scaled} {kind}={quality}"
        f"|AppMag = {10 / mpp:.0f}|MPP = {mpp:.8g}"
    )
