"""What the network is shown: colours as they are, or how much haematoxylin there is, as a grey picture.

Laboratories differ in hue and strength of stains, and networks take both for what they have learned: one trained on
purple smears took the pink stroma of H&E for nuclei. Haematoxylin alone, counted in the slide's own threshold between
ground and nuclei, looks the same in both. docs/nuclei.md has the figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.predictors.haematoxylin import density

BLACK = 3.0
"""Thresholds of haematoxylin that are shown as black; none is white."""


def haematoxylin_shown(image: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    """A grey picture in which nuclei are as dark on one slide as on another.

    Args:
        image: (H, W, 3) RGB.
        threshold: of the slide, or of the training image, OD.

    Returns:
        (H, W, 3), three equal channels.
    """
    grey = 255 * (1 - np.clip(density(image) / np.float32(BLACK * threshold), 0, 1))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
