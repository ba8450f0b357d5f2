"""Stain augmentation for training: each image as another laboratory might have stained it.

Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference ...", IEEE Trans Med
Imaging 37 (2018) 2126-2136: the amount of every stain is multiplied by alpha and shifted by beta, both drawn anew for
each image and stain, alpha from 1 - sigma to 1 + sigma, beta from -sigma to sigma. Tellez et al., Med Image Anal 58
(2019) 101544 call sigma 0.05 HED-light and 0.2 HED-strong. Here beta is in natural OD (their unit was that of a
logarithm of intensities from 2 to 3), the third component is what is at right angles to haematoxylin and eosin, and
glass stays as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.stain.density import EOSIN, HAEMATOXYLIN, absorption, faded, intensity, optical_density
from wsikit.stain.macenko import basis
from wsikit.stain.table import apply, lattice, table

LIGHT = 0.05
STRONG = 0.2
"""Sigma of HED-light and HED-strong."""
NODES = 17
"""Colours per axis: so small a change is smooth enough, and a patch is soon done."""


def augment(images: NDArray[np.uint8], rng: np.random.Generator, sigma: float = LIGHT) -> NDArray[np.uint8]:
    """Images with the amounts of their stains changed at random; new arrays.

    Args:
        images: (H, W, 3) or (N, H, W, 3) RGB; each of the N gets a change of its own.
        rng: where the changes come from: the same state gives the same images.
        sigma: how far amounts change, ``LIGHT`` or ``STRONG`` or any share from 0 on.
    """
    changed = images.copy()
    stack = changed[None] if images.ndim == 3 else changed
    for image, (alpha, beta) in zip(stack, rng.uniform(-sigma, sigma, (len(stack), 2, 3)), strict=True):
        image[:] = apply(table(_changed(alpha, beta), NODES), image)
    return changed


def _changed(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lattice's colours with amounts multiplied by 1 + alpha and shifted by beta, (3,) each."""
    stains = basis(np.stack([HAEMATOXYLIN, EOSIN]))
    rgb = lattice(NODES)
    amounts = absorption(rgb) @ np.linalg.inv(stains)
    amounts = amounts * (1 + alpha) + beta
    return faded(rgb, intensity(amounts @ stains + np.minimum(optical_density(rgb), 0)))
