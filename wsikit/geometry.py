"""Levels, regions and tile recipes: integer arithmetic on the lattice of a resolution. numpy only, no pixels.

Frames, used everywhere in wsikit:

* **level-0 frame**: (x, y) in level-0 pixels of the full plane, pixel-corner convention: pixel (0, 0) covers
  [0, 1) x [0, 1). What leaves wsikit is in this frame.
* **lattice frame** of an mpp: integer pixels of side ``mpp`` micrometres whose origin is the slide's (0, 0). Every
  tiling of a slide samples the same lattice, so a pixel has one value however it is reached.
* **patch frame**: pixels of one patch, origin at its ``Region``'s (x, y).

Sizes are (width, height); arrays are (height, width, channel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

from wsikit.errors import ConfigError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 with x0 <= x1 and y0 <= y1."""


class HasMpp(Protocol):
    """Anything with a level-0 resolution; ``Slide`` is one."""

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel."""
        ...


@dataclass(frozen=True, slots=True)
class Level:
    """One stored resolution of a slide."""

    index: int
    """Position in the file's pyramid, 0 is the finest."""
    width: int
    """Pixels of this level."""
    height: int
    """Pixels of this level."""
    downsample: float
    """Level-0 pixels per pixel of this level."""
    mpp: float
    """Micrometres per pixel of this level."""


@dataclass(frozen=True, slots=True)
class Region:
    """An integer rectangle on the lattice of ``mpp`` from the slide's (0, 0). The only way to ask for pixels."""

    x: int
    """Left edge in lattice pixels; may be negative (outside the slide reads as background)."""
    y: int
    """Top edge in lattice pixels."""
    width: int
    """Lattice pixels, at least 1."""
    height: int
    """Lattice pixels, at least 1."""
    mpp: float
    """Micrometres per lattice pixel."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ConfigError(f"a Region needs a width and height of at least 1 px and a positive mpp, got {self!r}")

    @property
    def x1(self) -> int:
        """Right edge, exclusive."""
        return self.x + self.width

    @property
    def y1(self) -> int:
        """Bottom edge, exclusive."""
        return self.y + self.height

    def level0(self, slide: HasMpp) -> Box:
        """The same rectangle as a float box (x0, y0, x1, y1) in level-0 pixels of the full plane."""
        scale = self.mpp / slide.mpp
        return self.x * scale, self.y * scale, self.x1 * scale, self.y1 * scale

    def padded(self, margin: int) -> Region:
        """Grown by ``margin`` lattice pixels on every side."""
        return Region(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin, self.mpp)

    def intersection(self, other: Region) -> Region | None:
        """The common rectangle, or None. Both must be on the same lattice."""
        if self.mpp != other.mpp:
            raise ConfigError(f"regions on different lattices do not intersect: mpp {self.mpp} and {other.mpp}")
        x0, y0 = max(self.x, other.x), max(self.y, other.y)
        x1, y1 = min(self.x1, other.x1), min(self.y1, other.y1)
        return Region(x0, y0, x1 - x0, y1 - y0, self.mpp) if x0 < x1 and y0 < y1 else None

    def overlap(self, box: Box) -> float:
        """Area in px that a box of this lattice shares with the region; 0 where they only touch."""
        x0, y0, x1, y1 = box
        width, height = min(x1, self.x1) - max(x0, self.x), min(y1, self.y1) - max(y0, self.y)
        return max(0.0, width) * max(0.0, height)

    def slices(self, inside: Region) -> tuple[slice, slice]:
        """(rows, columns) of this region in an array that holds ``inside``; this region must lie within it."""
        x, y = self.x - inside.x, self.y - inside.y
        return slice(y, y + self.height), slice(x, x + self.width)


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How a predictor wants a slide cut: windows on a fixed lattice, each a half-open core plus a halo.

    Cores tile the plane from ``phase``; the patch that a predictor sees is the core grown by the halo, so neighbouring
    patches overlap by ``2 * halo``. Sizes are lattice pixels at ``mpp``.

    Patches that are kept and not predicted need no owner of every pixel. For these ``stride`` says how far apart the
    windows are: patches of 256 px that overlap by 100 are ``core=256, stride=156``; windows at any corners whatever are
    cells of ``stride=1``.
    """

    mpp: float
    """Wanted micrometres per pixel. A level within 2 % is read unresampled and its true mpp replaces this one."""
    core: int
    """Side of the square core, px. Cores of neighbouring windows touch and do not overlap."""
    halo: int = 0
    """Context on each side of the core, px: more than the largest object plus the support of the filters."""
    min_tissue: float = 0.0
    """Smallest share that is tissue, of what of the core lies on the slide; at 0 any tissue at all is enough."""
    phase: tuple[int, int] = (0, 0)
    """(x, y) of the corner of one core, px."""
    stride: int | None = None
    """Distance of the corners of neighbouring cores, px. None: they touch, as predictors need it, whose results each
    belong to one core."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ConfigError(f"TileSpec.mpp must be a positive number of micrometres per pixel, got {self.mpp!r}")
        if self.core < 1 or self.halo < 0:
            raise ConfigError(f"TileSpec needs core >= 1 px and halo >= 0 px, got core={self.core}, halo={self.halo}")
        if self.halo > self.core // 2:
            raise ConfigError(
                f"TileSpec.halo={self.halo} px is more than half the core of {self.core} px: a pixel would lie in more "
                "than four patches; use a larger core"
            )
        if self.stride is not None and self.stride < 1:
            raise ConfigError(f"TileSpec.stride is at least 1 px, got {self.stride}")
        if not 0 <= self.min_tissue <= 1:
            raise ConfigError(f"TileSpec.min_tissue is a share from 0 to 1, got {self.min_tissue!r}")

    @property
    def patch(self) -> int:
        """Side of the square patch that the predictor sees: core plus both halos, px."""
        return self.core + 2 * self.halo

    @property
    def step(self) -> int:
        """Distance of the corners of neighbouring windows, px."""
        return self.core if self.stride is None else self.stride

    def at(self, mpp: float) -> Self:
        """The same recipe, in the same pixels, at another resolution."""
        return replace(self, mpp=mpp)

    def core_region(self, column: int, row: int) -> Region:
        """The core at (column, row) of the lattice of cores."""
        px, py = self.phase
        return Region(px + column * self.step, py + row * self.step, self.core, self.core, self.mpp)

    def patch_region(self, column: int, row: int) -> Region:
        """The core at (column, row), grown by the halo: what is read and predicted."""
        (px, py), step, side = self.phase, self.step, self.patch
        return Region(px + column * step - self.halo, py + row * step - self.halo, side, side, self.mpp)
