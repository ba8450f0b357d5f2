"""How many level-0 pixels a pixel of a level is, from sizes that were rounded. No pixels, no I/O.

OpenSlide and tiffslide give the mean of a level's ratios in x and y. Writers of pyramids drop, or fill up, what makes
no whole pixel, so the ratio of a short side is off by far more than that of a long one, and the mean misplaces what
lies far along the long side: 515 x 10240 px averaged over 4 x 4 are 128 x 2560 px, the mean is 4.0117, and what ends at
10240 seems to end at 10270.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

Size = tuple[int, int]
CRUMB = 1e-9
"""Relative difference of two numbers that are the same but for rounding."""


def true_downsamples(sizes: Sequence[Size], stated: Sequence[float]) -> tuple[float, ...]:
    """Level-0 pixels per pixel of each level.

    1. A number that does not lie between a level's two ratios does not come from its sizes: it is the file's own and
       stays.
    2. Otherwise a whole number that explains both sides, each rounded down or up. Where several do, on small levels,
       what is stated if it is one of them, else one that is a power of two times that of the level before, else a
       multiple of that, else the nearest to the long side's ratio: whichever it is, the level's far end is right
       within two pixels of the level.
    3. Where none does, the long side's ratio if it explains the short side too.
    4. Otherwise what is stated: the level is of another shape.

    Args:
        sizes: (width, height) of each level, finest first.
        stated: what the reader says of each.

    >>> true_downsamples([(515, 10240), (128, 2560), (32, 640)], [1.0, 4.01171875, 16.046875])
    (1.0, 4.0, 16.0)
    """
    found: list[float] = []
    for size, downsample in zip(sizes, map(float, stated), strict=True):
        above = int(found[-1]) if found and found[-1].is_integer() else 1
        derived = _from_sizes(sizes[0], size, downsample)
        found.append(_true(sizes[0], size, downsample, above) if derived else downsample)
    return tuple(found)


def _from_sizes(full: Size, size: Size, stated: float) -> bool:
    if min(*full, *size) < 1:
        return False
    low, high = sorted(whole / side for whole, side in zip(full, size, strict=True))
    return low * (1 - CRUMB) <= stated <= high * (1 + CRUMB)


def _true(full: Size, size: Size, stated: float, above: int) -> float:
    """The downsample of one level, by sizes (width, height); ``above`` is the level before's if whole, else 1."""
    x, y = (_whole_numbers(*sides) for sides in zip(full, size, strict=True))
    low, high = max(x[0], y[0]), min(x[1], y[1])
    long, short = (1, 0) if size[1] > size[0] else (0, 1)
    ratio = full[long] / size[long]
    if low <= high:
        known = stated.is_integer() and low <= stated <= high
        return stated if known else float(_likeliest(low, high, ratio, above))
    return ratio if abs(full[short] / ratio - size[short]) < 1 else stated


def _whole_numbers(full: int, side: int) -> tuple[int, int]:
    """The least and the largest whole number d for which ``full / d``, rounded down or up, is ``side``.

    >>> _whole_numbers(515, 128), _whole_numbers(10240, 80)
    ((4, 4), (127, 129))
    """
    # a single pixel may be as large as it likes
    return full // (side + 1) + 1, -(-full // (side - 1)) - 1 if side > 1 else sys.maxsize


def _likeliest(low: int, high: int, ratio: float, above: int) -> int:
    """Of the whole numbers from ``low`` to ``high`` the one that a pyramid most likely has after ``above``."""
    doubled = above << max(0, round(math.log2(ratio / above)))
    if low <= doubled <= high:
        return doubled
    first, last = -(-low // above), high // above
    if first <= last:
        return above * min(max(round(ratio / above), first), last)
    return min(max(round(ratio), low), high)
