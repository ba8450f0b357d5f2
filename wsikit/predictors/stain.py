"""Colour deconvolution by lookup table: how much of each stain a pixel holds, in optical density (OD).

Beer-Lambert: the OD of a pixel's three channels is the sum of its stains' densities times their colour vectors. An
8-bit channel has 256 values, so that the logarithm and the inverse matrix fold into one table per stain and channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.stain.density import StainVector, decadic_density


@dataclass(frozen=True, eq=False)
class Deconvolution:
    """Densities of two stains; a third component at right angles to both takes what neither explains."""

    tables: NDArray[np.float32]
    """(2, 3, 256) share of a stain's OD that a channel's value adds."""

    @classmethod
    def of(cls, first: StainVector, second: StainVector) -> Deconvolution:
        """Tables for two stain vectors, scaled to length 1. The white point is 255, where OD is 0."""
        basis = np.array([first, second, np.cross(first, second)])
        basis /= np.linalg.norm(basis, axis=1, keepdims=True)
        inverse = np.linalg.inv(basis)
        return cls((decadic_density()[None, None] * inverse[:, :2].T[:, :, None]).astype(np.float32))

    def density(self, image: NDArray[np.uint8], stain: int) -> NDArray[np.float32]:
        """OD of stain 0 or 1 for every pixel of (H, W, 3) RGB, as (H, W).

        Negative where a pixel has the complement of the stain's colour. Each pixel is summed in the same order, so that
        its value does not depend on the image around it.
        """
        red, green, blue = self.tables[stain]
        total: NDArray[np.float32] = red[image[..., 0]]
        total += green[image[..., 1]]
        total += blue[image[..., 2]]
        return total
