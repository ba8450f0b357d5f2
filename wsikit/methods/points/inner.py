"""Where masks are known: how deep inside its nucleus a pixel lies, which the centre channel learns, how much a pixel
between two nuclei counts, and where the middle is, which is learned beside."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

REACH = 3.0
"""Of ``contact``, in sigmas."""


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


def contact(labels: NDArray[np.integer], sigma: float) -> NDArray[np.float32]:
    """How much each pixel lies where two objects meet: exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 its distances to the
    nearest object and to the next (Ronneberger et al. 2015, arXiv:1505.04597, equation 2).

    Args:
        labels: (H, W) number of the object of each pixel, 0 is background.
        sigma: px.

    Returns:
        (H, W) float32 in [0, 1], 0 where a second object is farther away than ``REACH`` sigmas.
    """
    most = math.ceil(REACH * sigma)
    nearest, second = np.full((2, *labels.shape), np.inf, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int64, copy=False)), start=1):
        if box is None:
            continue
        around = tuple(slice(max(0, part.start - most), part.stop + most) for part in box)
        distance = ndimage.distance_transform_edt(labels[around] != number).astype(np.float32)
        second[around] = np.minimum(second[around], np.maximum(nearest[around], distance))
        nearest[around] = np.minimum(nearest[around], distance)
    both = nearest + second
    return np.where(both <= most, np.exp(-((both / sigma) ** 2) / 2), 0).astype(np.float32)


def offsets(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Where each pixel lies in its object, seen from the middle (Graham et al. 2019, HoVer-Net, arXiv:1812.06499).

    What has one number and does not touch is several objects: a piece that is larger than its image holds mirrored
    copies.

    Args:
        labels: (H, W) number of the object of each pixel, 0 is background.

    Returns:
        (2, H, W) float32 x and y of the pixel from its object's centre of mass; -1 and 1 at the object's ends in each
        direction, 0 outside all objects. Between two objects that touch they jump.
    """
    found = np.zeros((2, *labels.shape), np.float32)
    parts = label(labels, connectivity=2)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        own = parts[box] == number
        for plane, places in zip(found, np.nonzero(own)[::-1], strict=True):
            away = places - places.mean()
            # an object one pixel wide has its middle there
            ends = np.where(away > 0, away.max(), -away.min())
            plane[box][own] = away / np.where(ends > 0, ends, 1)
    return found
