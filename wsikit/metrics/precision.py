"""Average precision of scored objects, as COCO defines it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.instances import overlaps

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""0.50, 0.55, ..., 0.95: Lin et al., Microsoft COCO, ECCV 2014, and the evaluation code that its site gives."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read, the very floats of COCO's code: some recalls fall on one."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMatches:
    """Which found objects of one image are right, at each of ``IOU_THRESHOLDS``."""

    truth: int
    """True objects in all."""
    scores: NDArray[np.float64]
    """(F,) of the found objects."""
    right: NDArray[np.bool_]
    """(10, F) whether each found object has a true one of its own, by threshold."""


def match_scored(iou: NDArray[np.floating], scores: NDArray[np.floating]) -> ScoredMatches:
    """Match found objects to true ones, greedily: the highest score takes first.

    Each found object, by descending score (of equal scores the first given), takes of the true objects not yet taken
    the one with the largest IoU (of equal ones the last, as COCO's code does) if that is at least the threshold. COCO
    looks at the best 100 objects of an image only; tissue has more, so here all count.

    Args:
        iou: (T, F) of every true with every found object: of masks or of boxes.
        scores: (F,) finite, higher is surer.

    Raises:
        ConfigError: shapes that do not go together, or a score that is not finite.
    """
    truth, found = np.nonzero(iou)
    return _match(truth, found, iou[truth, found], scores, iou.shape)


def match_scored_labels(
    truth: NDArray[np.integer], found: NDArray[np.integer], scores: NDArray[np.floating]
) -> ScoredMatches:
    """``match_scored`` of two label images; memory grows with the pairs that touch, not with all pairs.

    Args:
        truth, found: (H, W) integers, 0 is background, every other value an object.
        scores: (F,) finite, of the found objects by ascending label.

    Raises:
        ConfigError: as in ``match_scored`` and ``overlaps``.
    """
    table = overlaps(truth, found)
    labels, first = np.unique(found, return_index=True)
    # the table numbers objects by appearance: from that to the rank of the label
    rank = np.argsort(first[labels != 0])
    shape = len(table.truth_sizes), len(table.found_sizes)
    return _match(table.truth, rank[table.found], table.iou, scores, shape)


def _match(
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    iou: NDArray[np.floating],
    scores: NDArray[np.floating],
    shape: tuple[int, ...],
) -> ScoredMatches:
    """Match by the (P,) pairs of true and found object whose IoU is above 0."""
    if len(shape) != 2 or scores.shape != shape[1:] or not np.isfinite(scores).all():
        raise ConfigError(
            f"average precision takes one finite score for each found object, got {scores.shape}, {shape}"
        )
    order = np.lexsort((truth, found))
    truth, iou = truth[order], iou[order]
    ends = np.cumsum(np.bincount(found, minlength=shape[1]))
    thresholds = np.array(IOU_THRESHOLDS)
    free = np.ones((len(thresholds), shape[0]), np.bool_)
    right = np.zeros((len(thresholds), shape[1]), np.bool_)
    for k in np.argsort(-scores, kind="stable"):
        # backwards, so that argmax finds the last of equal ones
        mine = slice(ends[k - 1] if k else 0, ends[k])
        true, share = truth[mine][::-1], iou[mine][::-1]
        allowed = np.where(free[:, true] & (share >= thresholds[:, None]), share, 0)
        if allowed.any():
            rows = np.flatnonzero(allowed.any(axis=1))
            free[rows, true[allowed[rows].argmax(axis=1)]] = False
            right[rows, k] = True
    return ScoredMatches(shape[0], np.asarray(scores, np.float64), right)


def average_precision(images: Iterable[ScoredMatches]) -> NDArray[np.float64]:
    """Area under the curve of precision over recall, at each of ``IOU_THRESHOLDS``, over all images together.

    The found objects of all images are sorted by score (of equal scores the first given). Precision at a recall is the
    best precision at that recall or a higher one, 0 where it is never reached, and AP its mean at 101 recalls
    (``RECALLS``). For several classes take each by itself; COCO's figure is the mean over classes.

    Objects without scores of their own should not be given equal ones: the figure then depends on their order.

    Returns:
        (10,) by threshold; NaN where there is no true object.
    """
    images = list(images)
    truth = sum(image.truth for image in images)
    if not truth:
        return np.full(len(IOU_THRESHOLDS), np.nan)
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    right = np.concatenate([image.right for image in images], axis=1)[:, order]
    return np.array([_area(row, truth) for row in right])


def _area(right: NDArray[np.bool_], truth: int) -> float:
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / truth, RECALLS, side="left")
    return float(np.append(best, 0.0)[reached].mean())


def precision_scores(images: Iterable[ScoredMatches]) -> dict[str, float]:
    """Average precision at an IoU of 0.50 and 0.75 (``ap50``, ``ap75``), and its mean over all thresholds (``map``)."""
    by_threshold = average_precision(images)
    at = dict(zip(IOU_THRESHOLDS, by_threshold.tolist(), strict=True))
    return {"ap50": at[0.5], "ap75": at[0.75], "map": float(by_threshold.mean())}
