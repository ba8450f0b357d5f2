"""Nuclei as pale as those of other laboratories: what training does to some pieces whose masks are known.

Nuclei that stain faintly, and vesicular ones, pale within a dark rim, are common in H&E and rare in some training
images; a network that saw dark ones only passes them over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHARE = 0.5
"""Of the pieces that are changed; in half of those all nuclei alike, in the others half of the nuclei, each its own
way."""
HOLLOW = 0.7
"""Share of the pieces of one kind whose nuclei lose more in the middle than at the rim."""
RIM = 5
"""px across which a nucleus's change spreads: outlines are drawn a little inside of what is dark."""


def paler(
    grey: NDArray[np.uint8],
    number: NDArray[np.integer],
    depth: NDArray[np.floating],
    rng: np.random.Generator,
    most: float,
) -> NDArray[np.uint8]:
    """A piece with paler nuclei, or as it is.

    Args:
        grey: (S, S, 3) three equal channels, the darker the more stain (``NuclearStain.shown``).
        number: (S, S) number of the nucleus of each pixel, 0 is background.
        depth: (S, S) in [0, 1], 1 in the middle of each (``inner_distance``).
        rng: whether, which and how much.
        most: share of its contrast with the ground that a nucleus loses at most.

    Returns:
        (S, S, 3). Nothing becomes paler than the piece's ground, the median outside of nuclei, or darker than it was.
    """
    inside = number > 0
    if rng.random() >= SHARE or not inside.any() or inside.all():
        return grey
    stain = 255 - grey[..., 0].astype(np.float32)
    ground = np.median(stain[~inside])
    loss, hollow = _drawn(int(number.max()) + 1, rng, most)
    profile = 1 - hollow[number] * (1 - np.sqrt(np.clip(depth, 0, 1)))
    lost = ndimage.gaussian_filter(ndimage.maximum_filter(loss[number] * profile * inside, RIM), 1.0)
    stain = np.where(stain > ground, ground + (stain - ground) * (1 - lost), stain)
    return np.repeat(np.rint(255 - stain).astype(np.uint8)[..., None], 3, axis=2)


def _drawn(count: int, rng: np.random.Generator, most: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(count,) share of contrast that each nucleus loses in its middle, and how much less at its rim."""
    if rng.random() < 0.5:
        loss = np.clip(rng.uniform(0, most) + rng.normal(0, 0.1, count), 0, most)
        return loss, np.full(count, rng.random() * (rng.random() < HOLLOW))
    loss = rng.uniform(0, most, count) * (rng.random(count) < 0.5)
    return loss, rng.random(count) * (rng.random(count) < 0.5)
