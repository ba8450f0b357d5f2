"""Reinhard et al., "Color transfer between images", IEEE Comput Graph Appl 21 (2001) 34-41, in CIE L*a*b*.

Mean and standard deviation of every channel are matched. They are those of the stained pixels, so that they say nothing
of how much glass there is. Reinhard et al. use the space l-alpha-beta; L*a*b* has become usual for sections, and
torchstain's implementation uses it as well. Glass stays as it is (``faded``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import StainError
from wsikit.stain.density import faded, stained_pixels
from wsikit.stain.profile import StainProfile, nested

LEAST_CHROMA = 5.0
"""Mean distance from grey, in units of L*a*b*, of anything stained; pale sections have 15, ink and dirt 3."""
LEAST_SPREAD = 0.5
"""Smallest standard deviation of a channel: less would be blown up to nonsense."""

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Reinhard(StainProfile):
    """Means and standard deviations in L*a*b* (D65)."""

    mean: Channels
    std: Channels

    method: ClassVar[str] = "reinhard"
    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"mean": (3,), "std": (3,)}

    @classmethod
    def fit(cls, pixels: NDArray[np.uint8]) -> Self:
        """See ``StainProfile.fit``. StainError has the code blank or colourless."""
        from skimage.color import rgb2lab

        lab = rgb2lab(stained_pixels(pixels))
        chroma = float(np.hypot(lab[:, 1], lab[:, 2]).mean())
        if chroma < LEAST_CHROMA or lab.std(axis=0).min() < LEAST_SPREAD:
            raise StainError(
                f"the pixels have hardly any colour (mean chroma {chroma:.1f}, at least {LEAST_CHROMA:g} is needed) or "
                f"all have the same one (standard deviations {', '.join(f'{v:.2f}' for v in lab.std(axis=0))})",
                code="colourless",
            )
        return cls(nested(lab.mean(axis=0)), nested(lab.std(axis=0)))

    def move(self, rgb: NDArray[np.float64], target: Self) -> NDArray[np.float64]:
        """See ``StainProfile.move``."""
        from skimage.color import lab2rgb, rgb2lab

        lab = (rgb2lab(rgb / 255) - self.mean) * np.divide(target.std, self.std) + target.mean
        lab[:, 0] = np.clip(lab[:, 0], 0, 100)
        # beyond this, Z is negative and no colour is meant
        lab[:, 2] = np.minimum(lab[:, 2], (lab[:, 0] + 16) * (199.99 / 116))
        return faded(rgb, 255 * lab2rgb(lab))
