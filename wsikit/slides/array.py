"""Slides in memory, for tests: exact pixels, any levels, tiles that fail on purpose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsikit.errors import ConfigError, PixelReadError, SlideOpenError
from wsikit.slides.resample import area_average
from wsikit.slides.slide import DEFAULT_TILE, Pixels, Slide

WHITE = (255, 255, 255)


class ArrayReader:
    """A ``Reader`` over arrays. A ``Slide`` over it does not pickle: there is no file to reopen.

    Args:
        levels: (H, W, 3) uint8 arrays, finest first; downsamples are the ratios of their widths.
        mpp: micrometres per level-0 pixel, one number or (x, y), or None for a file that does not say.
        bounds: x, y, width, height of the scanned area in level-0 pixels.
        background: RGB outside the slide.
        tile: (width, height) in px of the unit that can be unreadable, the same on every level.
        bad: (level, column, row) of tiles; a read that touches one raises PixelReadError.
        path: what the slide calls itself.
        is_field: whether it is a plain image.
        associated: names and (width, height) of further images.

    Raises:
        ConfigError: a level is not a (H, W, 3) uint8 array.
    """

    name = "array"
    vendor = "array"

    def __init__(
        self,
        levels: Sequence[Pixels],
        mpp: float | tuple[float, float] | None,
        *,
        bounds: tuple[int, int, int, int] | None = None,
        background: tuple[int, int, int] = WHITE,
        tile: tuple[int, int] = (DEFAULT_TILE, DEFAULT_TILE),
        bad: Collection[tuple[int, int, int]] = (),
        path: str | Path = "array",
        is_field: bool = False,
        associated: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        for pixels in levels:
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
                raise ConfigError(f"a level must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
        self._levels = tuple(levels)
        self._tile = tile
        self._bad = frozenset(bad)
        self._associated = dict(associated or {})
        self._closed = False
        self.path = Path(path)
        self.sizes = tuple((p.shape[1], p.shape[0]) for p in self._levels)
        self.downsamples = tuple(self.sizes[0][0] / width for width, _ in self.sizes)
        self.mpp = (mpp, mpp) if isinstance(mpp, int | float) else mpp
        self.mpp_source = "ArrayReader mpp" if mpp is not None else "ArrayReader was given none"
        self.properties: Mapping[str, str] = {}
        self.bounds = bounds
        self.background = background
        self.is_field = is_field

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height), the same on every level."""
        return self._tile

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See ``Reader.read``."""
        if self._closed:
            raise SlideOpenError(f"{self.path.name} was closed")
        tw, th = self._tile
        for bad_level, column, row in self._bad:
            beside = column * tw >= x + width or (column + 1) * tw <= x
            above = row * th >= y + height or (row + 1) * th <= y
            if bad_level == level and not (beside or above):
                raise PixelReadError(f"tile ({column}, {row}) of level {level} is bad on purpose")
        return self._levels[level][y : y + height, x : x + width].copy()

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """What the constructor was given."""
        return self._associated

    def close(self) -> None:
        """Later reads raise SlideOpenError."""
        self._closed = True


def array_slide(
    pixels: Pixels,
    mpp: float,
    *,
    levels: int = 1,
    factor: int = 2,
    mpp_override: float | None = None,
    bounds: tuple[int, int, int, int] | None = None,
    background: tuple[int, int, int] = WHITE,
    tile: tuple[int, int] = (DEFAULT_TILE, DEFAULT_TILE),
    bad: Collection[tuple[int, int, int]] = (),
    path: str | Path = "array",
    is_field: bool = False,
) -> Slide:
    """A slide over one array, its coarser levels made by area averaging.

    Args:
        pixels: (H, W, 3) uint8, level 0.
        mpp: micrometres per level-0 pixel.
        levels: how many levels, level 0 included.
        factor: whole downsample from one level to the next; pixels that do not fill a coarse pixel are dropped.
        mpp_override: as in ``Slide``.
        bounds, background, tile, bad, path, is_field: as in ``ArrayReader``.

    Raises:
        ConfigError: the array is too small for so many levels.
        ResolutionError: as in ``Slide``.
    """
    height, width, _ = pixels.shape
    ratios = [factor**level for level in range(levels)]
    if min(width, height) < ratios[-1]:
        raise ConfigError(f"{width}x{height} px give no level at 1/{ratios[-1]}; ask for fewer levels")
    pyramid = [area_average(pixels, (0, 0), r, (0, 0, width // r, height // r)) for r in ratios]
    reader = ArrayReader(
        pyramid, mpp, bounds=bounds, background=background, tile=tile, bad=bad, path=path, is_field=is_field
    )
    reader.downsamples = tuple(float(r) for r in ratios)
    return Slide(reader, mpp_override)
