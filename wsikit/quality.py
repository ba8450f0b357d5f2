"""How good patches are: in focus, free of ink and folds, stained. Measured on each patch alone."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsikit.artefacts import Colour, averaged, find_fold, find_pen, look_factor
from wsikit.errors import ConfigError
from wsikit.geometry import Region
from wsikit.slides import Pixels
from wsikit.tiling import TileGrid

FINE_UM, COARSE = 0.5, 4
"""``sharpness`` compares green over this distance (one pixel where that is more) with green over 4 times it."""
LINES = 8
"""Of a patch, every 8th row and column of pixels is looked at for ``sharpness``."""
DEFAULT = "sharpness>=7,pen<=0.1,fold<=0.25,saturation>=0.05"
"""The filter that "default" stands for, and the limits of the flags. Sharpness: tissue in focus has 18 to 67 at 0.25
and 0.5 um/px; blurred by a Gaussian of 1 um, 2.3 to 6.6; of 1.5 um, 1.1 to 3.2 (docs/measured.md). Saturation: the
floor of tissue detection."""
FLAGS = {"blur": "sharpness", "pen": "pen", "fold": "fold", "pale": "saturation"}
"""Name of a flag -> the measure whose default limit it says is missed."""
STAINED = 95
"""Percentile that ``saturation`` is. The mean would call a window of 0.5 mm pale that has a strand of tissue in it."""
PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True, eq=False)
class Quality:
    """Measures of N patches."""

    sharpness: NDArray[np.float64]
    """(N,) 100 * (4 * f / c - 1) / 3, where f and c are the root mean square differences of the green channel between
    pixels 0.5 and 2 um apart: 0 for a picture that has no detail finer than 2 um, 100 for noise, and where nothing can
    be compared (one value throughout, less than 2 um wide). It depends on the mpp only where that is coarser than
    0.5 um per pixel: there the distances are 1 and 4 pixels, and the same focus counts as the sharper the coarser."""
    pen: NDArray[np.float64]
    """(N,) share of the patch that is ink."""
    fold: NDArray[np.float64]
    """(N,) share that is as dense as two layers of tissue."""
    saturation: NDArray[np.float64]
    """(N,) HSV saturation, 0 to 1, of the patch averaged to about 8 um per pixel, that a twentieth of it exceeds: what
    colour there is, however much glass is round it. Tiles without tissue have 0.01 to 0.04, others 0.07 and more."""

    @classmethod
    def of(cls, patches: Iterable[Pixels], mpp: float) -> Self:
        """Of (H, W, 3) RGB patches with ``mpp`` um per pixel. A patch's values depend on that patch alone."""
        return cls.from_rows([_measured(pixels, mpp) for pixels in patches])

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[float]]) -> Self:
        """Of one (sharpness, pen, fold, saturation) per patch."""
        table = np.array(list(rows), np.float64).reshape(-1, len(MEASURES))
        return cls(*table.T)

    @classmethod
    def joined(cls, parts: Iterable[Quality]) -> Self:
        """Of the patches of several, one after another."""
        return cls.from_rows([row for part in parts for row in part.rows()])

    def rows(self) -> list[tuple[float, ...]]:
        """One (sharpness, pen, fold, saturation) per patch."""
        return list(zip(*(getattr(self, name).tolist() for name in MEASURES), strict=True))

    def __len__(self) -> int:
        return len(self.sharpness)

    def flags(self) -> dict[str, NDArray[np.bool_]]:
        """Flag (blur, pen, fold, pale) -> (N,) which patches have it."""
        limits = {limit.measure: limit for limit in QualityFilter.parse("default").limits}
        return {flag: ~limits[measure].met(self) for flag, measure in FLAGS.items()}

    def summary(self) -> dict[str, dict[str, object]]:
        """JSON-ready: how many patches have each flag, and 5 percentiles (5 to 95) of each measure; none of none."""
        counts: dict[str, object] = {flag: int(found.sum()) for flag, found in self.flags().items()}
        measures: dict[str, object] = {
            name: [round(float(value), 4) for value in np.percentile(getattr(self, name), PERCENTILES)]
            for name in (MEASURES if len(self) else ())
        }
        return {"flags": counts, "measures": measures}


MEASURES = ("sharpness", "pen", "fold", "saturation")


@dataclass(frozen=True, slots=True)
class Limit:
    """One condition of a filter."""

    measure: str
    sign: str
    value: float

    def met(self, quality: Quality) -> NDArray[np.bool_]:
        """(N,) which patches meet it."""
        found: NDArray[np.bool_] = _SIGNS[self.sign](getattr(quality, self.measure), self.value)
        return found


_SIGNS: dict[str, Callable[..., NDArray[np.bool_]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class QualityFilter:
    """Which patches are good enough: those that meet all limits."""

    limits: tuple[Limit, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "pen<=0.1,sharpness>=10", or "default".

        Raises ConfigError for an unknown measure or another grammar; the message names the choices.
        """
        terms = (DEFAULT if text.strip() == "default" else text).split(",")
        return cls(tuple(_limit(term.strip(), text) for term in terms))

    def __str__(self) -> str:
        return ",".join(f"{limit.measure}{limit.sign}{limit.value:g}" for limit in self.limits)

    def passes(self, quality: Quality) -> NDArray[np.bool_]:
        """(N,) which patches are good enough."""
        good = np.ones(len(quality), np.bool_)
        for limit in self.limits:
            good &= limit.met(quality)
        return good


ANY_QUALITY = QualityFilter()
"""Every patch is good enough."""


def inspect_windows(pixels: Pixels, inside: Region, grid: TileGrid) -> Quality:
    """Measure the cores of windows, clipped to the slide, in the order of the grid.

    Args:
        pixels: (inside.height, inside.width, 3) RGB.
        inside: the region that ``pixels`` covers; it holds all windows.
        grid: the windows.
    """
    plane = Region(0, 0, *grid.size, grid.spec.mpp)
    cores = (core for i in range(len(grid)) if (core := grid.core(i).intersection(plane)) is not None)
    return Quality.of((pixels[core.slices(inside)] for core in cores), grid.spec.mpp)


def _limit(term: str, text: str) -> Limit:
    found = re.fullmatch(r"(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)", term)
    choices = f"measures are {', '.join(MEASURES)}, comparisons are {' '.join(_SIGNS)}"
    try:
        measure, sign, value = found.group(1), found.group(2), float(found.group(3))  # type: ignore[union-attr]
    except (AttributeError, ValueError) as error:
        raise ConfigError(
            f'a quality filter is like "pen<=0.1,sharpness>=10", or "default"; {term!r} in {text!r} is not; {choices}'
        ) from error
    if measure not in MEASURES:
        raise ConfigError(f"there is no quality measure {measure!r} (in {text!r}); {choices}")
    return Limit(measure, sign, value)


def _measured(pixels: Pixels, mpp: float) -> tuple[float, float, float, float]:
    factor = look_factor(mpp)
    small, coarse_mpp = averaged(pixels, factor), mpp * factor
    colour = Colour.of(small)
    pen, _ = find_pen(colour, coarse_mpp)
    fold = find_fold(colour, coarse_mpp) & ~pen
    brightest = small.max(axis=2).astype(np.float64)
    saturation = (brightest - small.min(axis=2)) / np.maximum(brightest, 1)
    return _sharpness(pixels, mpp), float(pen.mean()), float(fold.mean()), float(np.percentile(saturation, STAINED))


def _sharpness(pixels: Pixels, mpp: float) -> float:
    """See ``Quality.sharpness``. Sums are of integers, so that they have one value."""
    lag = max(1, round(FINE_UM / mpp))
    fine, coarse = _differences(pixels, lag), _differences(pixels, COARSE * lag)
    return 100 * (COARSE * (fine / coarse) ** 0.5 - 1) / (COARSE - 1) if coarse else 100.0


def _differences(pixels: Pixels, lag: int) -> float:
    """Mean square difference of green between pixels ``lag`` apart, along every ``LINES``-th row and column."""
    total = count = 0
    for lines in (pixels[::LINES, :, 1], pixels[:, ::LINES, 1].T):
        steps = lines[:, lag:].astype(np.int32) - lines[:, :-lag]
        total += int((steps * steps).sum(dtype=np.int64))
        count += steps.size
    return total / max(count, 1)
