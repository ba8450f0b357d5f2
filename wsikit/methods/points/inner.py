"""How deep inside its nucleus a pixel lies: what the centre channel learns where masks are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def inner_distance(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest one outside its own object, as a share of the object's largest.

    1 in the middle of every object whatever its size, so that one rule finds the middles of small and of large ones;
    between two that touch it falls to little. The border of the image is no edge of an object: what it cuts off is
    taken to go on, as what the network sees there does.

    Args:
        labels: (H, W) number of the object of each pixel, 0 is background.

    Returns:
        (H, W) float32 in [0, 1], 0 outside all objects.
    """
    found = np.zeros(labels.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int64, copy=False)), start=1):
        if box is None:
            continue
        around = tuple(
            slice(max(0, part.start - 1), min(side, part.stop + 1))
            for part, side in zip(box, labels.shape, strict=True)
        )
        own = labels[around] == number
        # an object that fills the image has no outside
        distance = np.ones(own.shape) if own.all() else ndimage.distance_transform_edt(own)
        found[around][own] = (distance / distance.max())[own]
    return found
