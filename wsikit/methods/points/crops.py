"""Pieces of training images at other sizes, with what is learned from them.

A piece is cut and resized in one step, each pixel the mean of what it covers. Where an image is smaller than a piece it
is mirrored, as slides are at their border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, lower edge, px of the image."""


def draw_box(size: tuple[int, int], side: float, rng: np.random.Generator) -> Box:
    """A square of ``side`` px anywhere inside an image of (width, height) px; one that is smaller is begun at its
    corner."""
    x, y = (float(rng.uniform(0, max(length - side, 0.0))) for length in size)
    return x, y, x + side, y + side


def cut(arrays: Sequence[NDArray[Any]], box: Box, side: int) -> list[NDArray[Any]]:
    """What lies in a box, resized to ``side`` x ``side`` px.

    Args:
        arrays: one image's (H, W, 3) uint8 and (H, W) planes; planes of floats are averaged, of whole numbers the
            nearest is taken.
        box: square, from 0 on; what lies right of the image or below it is mirrored.
        side: px.
    """
    height, width = arrays[0].shape[:2]
    missing = [(0, max(0, math.ceil(end) - length)) for end, length in ((box[3], height), (box[2], width))]
    return [_resized(_continued(array, missing), box, side) for array in arrays]


def _continued(array: NDArray[Any], missing: list[tuple[int, int]]) -> NDArray[Any]:
    if not any(after for _, after in missing):
        return array
    return np.pad(array, [*missing, *[(0, 0)] * (array.ndim - 2)], "symmetric")


def _resized(array: NDArray[Any], box: Box, side: int) -> NDArray[Any]:
    # PIL widens the filter where it shrinks, so that nothing is skipped
    whole = array.ndim == 2 and np.issubdtype(array.dtype, np.integer)
    kind = Image.Resampling.NEAREST if whole else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((side, side), kind, box=box))
