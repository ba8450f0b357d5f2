"""Bags: what a model attended to, back on the slide as tiles."""

from __future__ import annotations

import numpy as np
import shapely

from wsikit.errors import PredictionError
from wsikit.features import Features
from wsikit.geometry import HasMpp
from wsikit.predictions import BagScore


def attention_tiles(score: BagScore, slide: HasMpp) -> Features:
    """One QuPath ``tile`` per instance, with its attention as a measurement.

    Args:
        score: a bag's score; its regions are all of ``slide``.
        slide: gives the level-0 resolution.

    Returns:
        Features in the order of the instances; squares in level-0 pixels of the full plane.

    Raises:
        PredictionError: attention is not one finite, non-negative number per region.
    """
    count = len(score.regions)
    if score.attention.shape != (count,) or not (np.isfinite(score.attention) & (score.attention >= 0)).all():
        raise PredictionError(
            f"attention must be {count} finite numbers >= 0, one per region, got shape {score.attention.shape}"
        )
    boxes = np.array([region.level0(slide) for region in score.regions]).reshape(count, 4)
    squares = shapely.box(boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3])
    unclassified = np.full(count, -1, np.int64)
    return Features("tile", squares, unclassified, {"Attention": score.attention, **score.measurements})
