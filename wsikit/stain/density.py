"""Optical density (OD) of stained glass, the stains' vectors, and which pixels hold any stain.

Stain methods count in natural OD against clear glass, as those who published them; what looks at colours or takes them
apart counts in decadic OD against white.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import StainError

StainVector = tuple[float, float, float]
"""OD in red, green and blue of one unit of a stain; any length."""

HAEMATOXYLIN: StainVector = (0.650, 0.704, 0.286)
EOSIN: StainVector = (0.072, 0.990, 0.105)
DAB: StainVector = (0.268, 0.570, 0.776)
"""Ruifrok and Johnston, Anal Quant Cytol Histol 23 (2001) 291-299; eosin as in their H&E example."""
WHITE = 240
"""Transmitted light, Io: the value of clear glass. As in Veta's normalizeStaining.m (2013), the implementation of
Macenko et al. that torchstain and most others follow."""
LEAST_OD = 0.15
"""Beta of Macenko et al. (ISBI 2009): a pixel with less OD, natural logarithm, holds no stain. Here the mean of the
three channels must reach it. Veta's code asks it of every channel, which throws away most eosin: pink lets red through
(10 % of the pixels of a pale section are left, against 53 %)."""
DARKEST = 16
"""A pixel with a channel below this (OD 2.65) is folded tissue, pigment, ink or a camera at its end: its hue is noise,
and large, so that it would set the strength of a stain."""
LEAST_PIXELS = 1000
"""Fewest stained pixels that say what the stains of a slide are: the outermost 1 % are then ten."""
MOST_PIXELS = 1 << 22
"""Of more pixels, every second, third, ... is looked at."""


@lru_cache(maxsize=1)
def decadic_density() -> NDArray[np.float64]:
    """(256,) OD of each 8-bit value v, -log10(max(v, 1) / 255): black counts as 1, since its OD is infinite."""
    table: NDArray[np.float64] = -np.log10(np.maximum(np.arange(256), 1) / 255)
    table.setflags(write=False)
    return table


def optical_density(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural OD, -ln((v + 1) / Io), of values of 0 to 255; below 0 where a value is brighter than glass."""
    density: NDArray[np.float64] = -np.log((np.asarray(rgb, np.float64) + 1) / WHITE)
    return density


def intensity(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of given OD, the inverse of ``optical_density``; may lie outside 0 to 255."""
    value: NDArray[np.float64] = WHITE * np.exp(-density) - 1
    return value


def absorption(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> NDArray[np.float64]:
    """OD where it is positive, else 0: what is brighter than glass absorbs nothing."""
    return np.maximum(optical_density(rgb), 0)


def stained_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 3) those of (..., 3) RGB pixels that hold stain, and are not black.

    Raises StainError (code blank) where they are fewer than ``LEAST_PIXELS``.
    """
    flat = pixels.reshape(-1, 3)
    flat = flat[:: -(-len(flat) // MOST_PIXELS) or 1]
    table = absorption(np.arange(256, dtype=np.float64))
    stained: NDArray[np.uint8] = flat[(table[flat].mean(axis=1) >= LEAST_OD) & (flat.min(axis=1) >= DARKEST)]
    if len(stained) < LEAST_PIXELS:
        raise StainError(
            f"{len(stained)} of {len(flat)} pixels hold stain, at least {LEAST_PIXELS} are needed", code="blank"
        )
    return stained


def faded(rgb: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """``moved`` where (N, 3) colours hold stain, ``rgb`` where they are glass, in proportion between.

    Without it a faint shade on the glass is amplified like stain. What gets darker does so in full from ``LEAST_OD``
    on; what gets brighter from a third of that on, or thin tissue would come out darker than dense tissue. Nothing gets
    brighter than glass.
    """
    share = absorption(rgb).mean(axis=1, keepdims=True) / LEAST_OD
    change = np.minimum(moved, np.maximum(rgb, WHITE - 1)) - rgb
    change *= np.minimum(np.where(change > 0, 3 * share, share), 1)
    return rgb + change
