"""How good a prediction is: plain functions on arrays, numpy and scipy only.

Each takes what is true first and what was found second. Metrics that are a quotient of two sums come as a ``Ratio``:
its ``value`` is the image's figure, and the sum of many images' ratios is the figure of all their objects (pooled).
Where there is nothing to find and nothing was found the value is 1, since that is what perfect looks like; where a
metric is not defined it is NaN, never a number that looks like one.
"""

from wsikit.metrics.classification import auc, auc_interval, quadratic_weighted_kappa
from wsikit.metrics.counting import absolute_error, bin_counts, quartile_edges
from wsikit.metrics.detection import PointMatches, match_points
from wsikit.metrics.instances import (
    Overlaps,
    aji,
    aji_plus,
    dice,
    ensemble_dice,
    object_scores,
    overlaps,
    overlaps_of_blocks,
)
from wsikit.metrics.ratio import Ratio
from wsikit.metrics.segmentation import (
    class_dice,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    pixel_accuracy,
)

__all__ = [
    "Overlaps",
    "PointMatches",
    "Ratio",
    "absolute_error",
    "aji",
    "aji_plus",
    "auc",
    "auc_interval",
    "bin_counts",
    "class_dice",
    "class_iou",
    "confusion_matrix",
    "dice",
    "ensemble_dice",
    "frequency_weighted_iou",
    "match_points",
    "mean_iou",
    "object_scores",
    "overlaps",
    "overlaps_of_blocks",
    "pixel_accuracy",
    "quadratic_weighted_kappa",
    "quartile_edges",
]
