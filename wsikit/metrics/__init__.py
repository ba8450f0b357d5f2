"""How good a prediction is: plain functions on arrays, numpy and scipy only.

Each takes what is true first and what was found second. Metrics that are a quotient of two sums come as a ``Ratio``:
its ``value`` is the image's figure, and the sum of many images' ratios is the figure of all their objects (pooled).
Where there is nothing to find and nothing was found the value is 1, since that is what perfect looks like; where a
metric is not defined it is NaN, never a number that looks like one.
"""

from wsikit.metrics.bootstrap import bootstrap_interval
from wsikit.metrics.calibration import Reliability, brier, reliability, top_label
from wsikit.metrics.classification import (
    accuracy,
    auc,
    auc_interval,
    balanced_accuracy,
    macro_auc,
    macro_f1,
    quadratic_weighted_kappa,
)
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
from wsikit.metrics.precision import (
    IOU_THRESHOLDS,
    ScoredMatches,
    average_precision,
    match_scored,
    match_scored_labels,
    precision_scores,
)
from wsikit.metrics.ratio import Ratio
from wsikit.metrics.segmentation import (
    absent_classes,
    boundary_iou,
    class_accuracy,
    class_dice,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_class_accuracy,
    mean_dice,
    mean_iou,
    pixel_accuracy,
    segmentation_scores,
)

__all__ = [
    "IOU_THRESHOLDS",
    "Overlaps",
    "PointMatches",
    "Ratio",
    "Reliability",
    "ScoredMatches",
    "absent_classes",
    "absolute_error",
    "accuracy",
    "aji",
    "aji_plus",
    "auc",
    "auc_interval",
    "average_precision",
    "balanced_accuracy",
    "bin_counts",
    "bootstrap_interval",
    "boundary_iou",
    "brier",
    "class_accuracy",
    "class_dice",
    "class_iou",
    "confusion_matrix",
    "dice",
    "ensemble_dice",
    "frequency_weighted_iou",
    "macro_auc",
    "macro_f1",
    "match_points",
    "match_scored",
    "match_scored_labels",
    "mean_class_accuracy",
    "mean_dice",
    "mean_iou",
    "object_scores",
    "overlaps",
    "overlaps_of_blocks",
    "pixel_accuracy",
    "precision_scores",
    "quadratic_weighted_kappa",
    "quartile_edges",
    "reliability",
    "segmentation_scores",
    "top_label",
]
