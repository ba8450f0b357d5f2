"""Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, 1107-1110.

Two stains are the outermost directions of the pixels' optical densities within the plane through the origin that fits
them best; how strong each is, the 99th percentile of its density. Alpha, beta, Io and the percentile are as published.
What differs from the code that is usually run (Veta's, and torchstain's after it), and why:

1. The plane is fitted to the densities themselves, as the paper says. That code takes their mean off first, so that its
   plane passes the origin by, and the mean colour is left out of what is matched (figures: docs/measured.md).
2. The plane's first axis points along the stains. Its sign is otherwise left to the linear algebra library, and where
   it points away, the angles lie on both sides of 180 degrees and their percentiles mean nothing.
3. Which direction is haematoxylin is asked of all that tells it from eosin, not of red alone, and both must look like
   what they are said to be. A section with one stain, or with another than eosin, is refused and never bent.
4. A pixel holds stain where the mean of its channels says so, not each channel: see ``LEAST_OD``.
5. The density at right angles to both stains is kept, where that code drops it: ink and pigment look like ink and
   pigment, and a profile carried over to itself changes nothing. It shrinks with the stain that shrinks most, or it
   would outweigh it, and never grows. What is brighter than glass stays as bright.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import StainError
from wsikit.stain.density import (
    EOSIN,
    HAEMATOXYLIN,
    StainVector,
    absorption,
    faded,
    intensity,
    optical_density,
    stained_pixels,
)
from wsikit.stain.profile import StainProfile, nested

ALPHA = 1.0
"""Per cent of the pixels that lie beyond a stain's direction; Macenko et al."""
STRONG = 99.0
"""Percentile of a stain's densities that is matched; Macenko et al."""
LEAST_ANGLE = 15.0
"""Degrees between two stains. Sections with both have 17 and more; where one is missing (half a per cent of nuclei in
eosin, or none), what is taken for it is 10 to 13 degrees from the other."""
FARTHEST_HAEMATOXYLIN = 28.0
"""Degrees from Ruifrok's haematoxylin. Sections of seven laboratories have up to 19, green ink has 32."""
MOST_EOSIN = 1.75
"""Strength of eosin in parts of haematoxylin's. Sections with both have up to 1.3; where one dye stains the nuclei and
nothing else, as in DSB2018's purple fields, it passes for eosin, the tint of the glass for haematoxylin, and the
quotient is 2.5 and more."""


@dataclass(frozen=True)
class Macenko(StainProfile):
    """Stain vectors and strengths of haematoxylin and eosin."""

    stains: tuple[StainVector, StainVector]
    """Haematoxylin, eosin: OD in red, green and blue, of length 1."""
    strong: tuple[float, float]
    """99th percentile of each stain's density, natural OD."""

    method: ClassVar[str] = "macenko"
    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"stains": (2, 3), "strong": (2,)}

    @classmethod
    def standard(cls) -> Self:
        """The target of Veta's normalizeStaining.m (2013), which torchstain has too."""
        return cls(((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)), (1.9705, 1.0308))

    @classmethod
    def fit(cls, pixels: NDArray[np.uint8]) -> Self:
        """See ``StainProfile.fit``. StainError has the code blank, one_stain or not_he."""
        density = absorption(stained_pixels(pixels))
        stains = _ordered(_outermost(density))
        _refuse_other_stains(stains)
        amounts = density @ np.linalg.inv(basis(stains))
        strong = np.percentile(amounts[:, :2], STRONG, axis=0)
        if strong[1] > MOST_EOSIN * strong[0]:
            raise StainError(
                f"there is one stain and not two: what would be eosin is {strong[1] / strong[0]:.1f} times as "
                f"strong as what would be haematoxylin, {MOST_EOSIN:g} is the most in sections that have both",
                code="one_stain",
            )
        return cls(nested(stains), nested(strong))

    def move(self, rgb: NDArray[np.float64], target: Self) -> NDArray[np.float64]:
        """See ``StainProfile.move``."""
        scale = np.divide(target.strong, self.strong)
        scale = np.append(scale, min(1.0, *scale))
        matrix = np.linalg.inv(basis(np.array(self.stains))) @ (scale[:, None] * basis(np.array(target.stains)))
        glare = np.minimum(optical_density(rgb), 0)
        return faded(rgb, intensity(absorption(rgb) @ matrix + glare))


def _outermost(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) the robust extremes of direction of (N, 3) densities, of length 1, in either order."""
    _, axes = np.linalg.eigh(density.T @ density)
    first, second = axes[:, 2], axes[:, 1]
    first = first * np.sign(first.sum())
    angles = np.percentile(np.arctan2(density @ second, density @ first), [ALPHA, 100 - ALPHA])
    directions: NDArray[np.float64] = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    return directions


def _ordered(stains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Haematoxylin first: the one that differs from the other as haematoxylin does from eosin."""
    one, two = stains @ np.subtract(HAEMATOXYLIN, EOSIN)
    return stains if one >= two else stains[::-1]


def _refuse_other_stains(stains: NDArray[np.float64]) -> None:
    haematoxylin, eosin = stains
    shown = ", ".join("({:.2f}, {:.2f}, {:.2f})".format(*stain) for stain in stains)
    if _degrees(haematoxylin, eosin) < LEAST_ANGLE:
        raise StainError(f"there is one stain and not two: the colours lie between {shown}", code="one_stain")
    if _degrees(haematoxylin, np.array(HAEMATOXYLIN)) > FARTHEST_HAEMATOXYLIN or eosin.argmax() != 1:
        raise StainError(
            f"the stains are not haematoxylin and eosin: their ODs in red, green and blue are {shown}", code="not_he"
        )


def _degrees(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    cosine = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def basis(stains: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rows of length 1: the (2, 3) stains and what is at right angles to both."""
    rows = np.vstack([stains, np.cross(stains[0], stains[1])])
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
