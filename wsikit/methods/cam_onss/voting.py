"""Activation maps at several scales to one mask: the best class of each scale, then the class of most scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def normalised(maps: NDArray[np.float32], *, joint: bool = True) -> NDArray[np.float32]:
    """(K, H, W) activations to [0, 1]: over all classes and pixels together, or class by class.

    A map without range is 0.
    """
    axes = (0, 1, 2) if joint else (1, 2)
    low, high = maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)
    scaled: NDArray[np.float32] = (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return scaled


def gated(maps: NDArray[np.float32], present: Sequence[bool]) -> NDArray[np.float32]:
    """(K, H, W) with -1, below any activation, for classes that the patch's label lacks."""
    kept: NDArray[np.float32] = np.where(np.asarray(present)[:, None, None], maps, np.float32(-1))
    return kept


def vote(labels: NDArray[np.uint8], classes: int, base: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The class of most maps for every pixel.

    Args:
        labels: (S, H, W) class indices below ``classes``, a map for each scale.
        classes: number of classes.
        base: index of the map whose class wins a tie that it is a part of; of others the first class wins.

    Returns:
        (H, W) class, and (H, W) share of maps that agree with it.
    """
    scales = len(labels)
    votes = np.zeros((classes, *labels.shape[1:]), np.float32)
    for index in range(classes):
        votes[index] = (labels == index).sum(axis=0)
    # half a vote more breaks ties and overrules nothing
    np.put_along_axis(votes, labels[base][None], np.take_along_axis(votes, labels[base][None], 0) + 0.5, 0)
    won = votes.argmax(axis=0).astype(np.uint8)
    agreement: NDArray[np.float32] = (labels == won).sum(axis=0).astype(np.float32) / np.float32(scales)
    return won, agreement
