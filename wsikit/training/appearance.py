"""Images grouped by what they look like, for a split that holds whole groups apart where no patient is known.

Fields of one slide share its stain, its light and its tissue. Images that look alike are put into one group, so that a
split by these groups is a harder question than one by images: a model meets colours and textures that it has not seen.
It is no split by patients, and says less: slides of several patients may look alike, and one slide may hold much.

1. Each image is described by the colour of its brightest pixels (glass and matrix) and of its darkest ones (nuclei, in
   Lab and as amounts of haematoxylin, eosin and what is neither), and by how its variation in lightness is shared out
   over ``SCALES``. None of them says how much of the image is nuclei: groups by that would be groups by count.
2. Each feature is divided by its standard deviation over the images.
3. Ward's method merges images until the wanted number of groups is left. It draws nothing at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.slides import Pixels
from wsikit.stain.density import EOSIN, HAEMATOXYLIN, absorption
from wsikit.stain.macenko import basis
from wsikit.training.images import TrainingImage

SCALES = (1.0, 2.0, 4.0, 8.0)
"""Sigmas in px between which lightness is taken apart: noise and chromatin, edges, nuclei, what is larger."""
BRIGHT, DARK = 0.25, 0.1
"""Shares of the pixels that are taken as the brightest and the darkest; nuclei are at least so much of most fields."""


def appearance_groups(data: Sequence[TrainingImage], groups: int) -> list[str]:
    """The group of each image, ``look-1`` (the largest) to ``look-N``; the same images give the same groups.

    Args:
        data: N images.
        groups: how many, 1 to N.

    Raises:
        ConfigError: fewer than one group, or more than images.
        PixelReadError: an image that cannot be decoded.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if not 1 <= groups <= len(data):
        raise ConfigError(f"{len(data)} images make 1 to {len(data)} groups, {groups} were asked for")
    if groups == len(data) or len(data) == 1:
        found = np.arange(len(data))
    else:
        features = np.array([appearance(image.read()) for image in data])
        spread = features.std(axis=0)
        merges = linkage(features / np.where(spread > 0, spread, 1), method="ward")
        found = fcluster(merges, groups, criterion="maxclust")
    names, first, sizes = np.unique(found, return_index=True, return_counts=True)
    ranked = names[np.lexsort((first, -sizes))].tolist()
    return [f"look-{ranked.index(group) + 1}" for group in found.tolist()]


def appearance(pixels: Pixels) -> NDArray[np.float64]:
    """(13,) features of an (H, W, 3) uint8 RGB image."""
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2lab

    lab = rgb2lab(pixels.astype(np.float32) / 255)
    lightness = lab[..., 0]
    order = np.argsort(lightness, axis=None)
    count = len(order)
    bright, dark = order[-max(1, round(BRIGHT * count)) :], order[: max(1, round(DARK * count))]
    amounts = absorption(pixels.reshape(-1, 3)[dark]) @ np.linalg.inv(basis(np.array([HAEMATOXYLIN, EOSIN])))
    colours = [lab.reshape(-1, 3)[bright], lab.reshape(-1, 3)[dark], amounts]
    smoothed = [lightness, *(gaussian_filter(lightness, sigma) for sigma in SCALES)]
    bands = np.array([np.std(fine - coarse) for fine, coarse in pairwise(smoothed)])
    return np.concatenate([*(c.mean(axis=0, dtype=np.float64) for c in colours), bands / max(bands.sum(), 1e-6)])
