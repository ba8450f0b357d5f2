"""Images of one dark stain, painted as haematoxylin and eosin: training images for those who have none in H&E.

What is dark becomes haematoxylin and what is pale eosin, both of hues and amounts drawn at random, over ground that is
more or less eosinophilic, in clouds and grains: where there was glass or a pale matrix, H&E has stroma. Shapes, edges
and texture stay. A network that sees its images so, too, takes hue and ground for what tells nothing; one trained on
purple smears alone took the pink stroma of H&E for nuclei (docs/nuclei.md has the figures). The ranges were set by eye
beside tiles of H&E.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.stain.density import EOSIN, HAEMATOXYLIN, StainVector, optical_density

Plane = NDArray[np.float32]
HUE = 0.08
"""Sigma of each component of a stain's vector of length 1."""
GROUND, DARK = 2.0, 99.0
"""Percentiles of darkness that count as 0 and as 1."""
LEAST_SPAN = 0.1
"""OD between them at least, so that noise on bare glass is not taken for tissue."""
CROSSING = (0.25, 0.6)
"""Darkness at which half of the stain is haematoxylin."""
SOFTNESS = (0.05, 0.2)
"""Of the logistic function around it."""
AMOUNT = (0.8, 3.2)
"""OD of haematoxylin of what is darkest; drawn evenly on a logarithmic scale."""
PALE, UNDER = (0.2, 1.0), (0.0, 0.8)
"""Eosin of what is pale, as a share of what its darkness would be in haematoxylin; and eosin in nuclei, OD."""
MATRIX = (0.0, 0.9)
"""OD of eosin of the ground, on average."""
CLOUDS, GRAINS = (8.0, 24.0), (1.0, 4.0)
"""Sigmas of the ground's unevenness, px."""
CLOUDY, GRAINY = 0.4, (0.0, 0.5)
"""Their standard deviations, of the mean."""


def restained(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image painted anew.

    Args:
        image: (H, W, 3) RGB, of one dark stain on a pale ground.
        rng: where hues and amounts come from: the same state gives the same image.
    """
    darkness = _darkness(image)
    haematoxylin, eosin = _hue(HAEMATOXYLIN, rng), _hue(EOSIN, rng)
    nuclear = 1 / (1 + np.exp(-(darkness - rng.uniform(*CROSSING)) / rng.uniform(*SOFTNESS)))
    amount = darkness * np.exp(rng.uniform(*np.log(AMOUNT)))
    pink = nuclear * rng.uniform(*UNDER) + (1 - nuclear) * (
        rng.uniform(*PALE) * amount + rng.uniform(*MATRIX) * _uneven(darkness.shape, rng)
    )
    density = (nuclear * amount)[..., None] * haematoxylin + pink[..., None] * eosin
    painted: NDArray[np.uint8] = np.clip(255 * np.exp(-density), 0, 255).astype(np.uint8)
    return painted


def _darkness(image: NDArray[np.uint8]) -> Plane:
    """(H, W) length of the OD, 0 on the ground and 1 where it is darkest."""
    table = optical_density(np.arange(256, dtype=np.float64)).astype(np.float32)
    length: Plane = np.linalg.norm(table[image], axis=2)
    ground, dark = np.percentile(length, (GROUND, DARK))
    darkness: Plane = np.clip((length - ground) / max(dark - ground, LEAST_SPAN), 0, 1.5).astype(np.float32)
    return darkness


def _hue(stain: StainVector, rng: np.random.Generator) -> Plane:
    moved = np.maximum(np.array(stain) / np.linalg.norm(stain) + rng.normal(0, HUE, 3), 0.02)
    return np.asarray(moved / np.linalg.norm(moved), np.float32)


def _uneven(shape: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """(H, W) from 0 on, 1 on average."""
    clouds, grains = (_noise(shape, rng.uniform(*sigma), rng) for sigma in (CLOUDS, GRAINS))
    return np.maximum(1 + CLOUDY * clouds + rng.uniform(*GRAINY) * grains, 0)


def _noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Plane:
    """(H, W) smooth, of standard deviation 1."""
    smooth: Plane = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return smooth / max(float(smooth.std()), 1e-6)
