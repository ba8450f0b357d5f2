"""Semantic segmentation: metrics of the confusion matrix of pixels, and of the pixels along outlines.

A confusion matrix is (K, K), true classes by found ones; or (K, K + 1) where pixels may be found to be no class, which
the last column counts: each is missed by its class, and wrongly found by none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.ratio import Ratio


def confusion_matrix(
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    classes: int,
    ignore: int | Collection[int] | None = None,
    none: Collection[int] = (),
) -> NDArray[np.int64]:
    """How many pixels (or cases) of each true class were found to be of each class. Matrices of images add.

    Args:
        truth: class of each pixel, any shape, integers from 0 to ``classes`` - 1, or of ``ignore``.
        found: same shape, integers from 0 to ``classes`` - 1, or of ``none``.
        classes: K.
        ignore: a true value whose pixels are left out (not annotated), or several.
        none: found values that are no class (glass, undecided).

    Returns:
        (K, K) rows are true classes, columns found ones; (K, K + 1) where ``none`` is given.

    Raises:
        ConfigError: shapes differ, or a class is out of range.
    """
    if truth.shape != found.shape:
        raise ConfigError(f"truth and prediction must have one shape, got {truth.shape} and {found.shape}")
    scored = _scored(truth, ignore)
    truth, found = truth[scored], found[scored]
    if len(none):
        found = np.where(np.isin(found, list(none)), classes, found)
    width = classes + bool(none)
    for name, values, most in (("true", truth, classes), ("found", found, width)):
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < most:
            raise ConfigError(f"{name} classes must be 0 to {classes - 1}, got {values.min()} to {values.max()}")
    code = truth.astype(np.int64) * width + found.astype(np.int64)
    return np.bincount(code, minlength=classes * width).reshape(classes, width)


def _scored(truth: NDArray[np.integer], ignore: int | Collection[int] | None) -> NDArray[np.bool_]:
    if ignore is None:
        return np.ones(truth.shape, bool)
    return ~np.isin(truth, list(ignore) if isinstance(ignore, Collection) else [ignore])


def _shares(confusion: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(K,) pixels right, true and found of each class."""
    return np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)[: len(confusion)]


def _quotient(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """NaN where the denominator is 0."""
    quotient: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return quotient


def class_iou(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """(K,) TP / (TP + FP + FN) of each class; NaN for a class that is neither in the truth nor found."""
    right, true, found = _shares(confusion)
    return _quotient(right, true + found - right)


def class_dice(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """(K,) 2 TP / (2 TP + FP + FN) of each class; NaN for a class that is neither in the truth nor found."""
    right, true, found = _shares(confusion)
    return _quotient(2 * right, true + found)


def mean_iou(confusion: NDArray[np.integer]) -> float:
    """Mean of the classes' IoU (Long et al., CVPR 2015, "mean IU"), classes that occur on neither side left out.

    NaN for an empty matrix.
    """
    return _mean(class_iou(confusion))


def mean_dice(confusion: NDArray[np.integer]) -> float:
    """Mean of the classes' Dice, classes that occur on neither side left out. NaN for an empty matrix."""
    return _mean(class_dice(confusion))


def class_accuracy(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """(K,) share of each class's true pixels that are found to be it, its recall; NaN for a class that is not there."""
    right, true, _ = _shares(confusion)
    return _quotient(right, true)


def mean_class_accuracy(confusion: NDArray[np.integer]) -> float:
    """Mean over the classes that are there of their accuracy (Long et al., CVPR 2015, "mean accuracy").

    NaN for an empty matrix.
    """
    return _mean(class_accuracy(confusion))


def absent_classes(confusion: NDArray[np.integer]) -> tuple[int, ...]:
    """Classes that are neither in the truth nor found: means leave them out, which is to be said beside a mean."""
    _, true, found = _shares(confusion)
    return tuple(np.flatnonzero(true + found == 0).tolist())


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def frequency_weighted_iou(confusion: NDArray[np.integer]) -> float:
    """Sum over classes of share of true pixels times IoU (Long et al., CVPR 2015, "frequency weighted IU").

    NaN for an empty matrix.
    """
    true = confusion.sum(axis=1)
    return float((true * np.nan_to_num(class_iou(confusion))).sum() / true.sum()) if true.sum() else np.nan


def pixel_accuracy(confusion: NDArray[np.integer]) -> float:
    """Share of pixels whose class is right. NaN for an empty matrix."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else np.nan


def segmentation_scores(confusion: NDArray[np.integer], names: Sequence[str]) -> dict[str, float]:
    """All of the above by name, as tables of papers have them: miou, fwiou, accuracy, mean_class_accuracy, mdice; and
    absent, how many classes the means leave out, and iou_NAME for each class, NaN for those.

    Args:
        confusion: (K, K) or (K, K + 1).
        names: K names of the classes.
    """
    return {
        "miou": mean_iou(confusion),
        "fwiou": frequency_weighted_iou(confusion),
        "accuracy": pixel_accuracy(confusion),
        "mean_class_accuracy": mean_class_accuracy(confusion),
        "mdice": mean_dice(confusion),
        "absent": len(absent_classes(confusion)),
        **{f"iou_{name}": float(iou) for name, iou in zip(names, class_iou(confusion), strict=True)},
    }


def boundary_iou(
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    classes: int,
    width_px: int,
    ignore: int | Collection[int] | None = None,
    *,
    frame: bool = True,
) -> tuple[Ratio, ...]:
    """Boundary IoU of each class (Cheng et al., CVPR 2021): the IoU of the parts of two masks that lie along outlines.

    Of a mask, those of its pixels count that are at most ``width_px`` from a pixel outside it, neighbours over corners
    being 1 px away. Ratios of images add up to that of all their pixels; NaN for a class that is on neither side.

    Args:
        truth: (H, W) class of each pixel, or a value of ``ignore``.
        found: (H, W) class of each pixel; others are no class.
        classes: K.
        width_px: d of the paper, which takes 2 % of an image's diagonal.
        ignore: true values whose pixels are left out; where they begin is no outline.
        frame: whether the image's edge is an outline, as in the paper. False for images that are parts of a larger one.

    Raises:
        ConfigError: shapes differ or are no images, or a width below 1.
    """
    if truth.shape != found.shape or truth.ndim != 2 or width_px < 1:
        raise ConfigError(
            f"two images of one shape and a width from 1 px on are needed, got {truth.shape}, {found.shape}, {width_px}"
        )
    scored = _scored(truth, ignore)
    return tuple(
        _ratio(*(_along_outline(labels == index, scored, width_px, frame) for labels in (truth, found)))
        for index in range(classes)
    )


def _along_outline(mask: NDArray[np.bool_], scored: NDArray[np.bool_], width_px: int, frame: bool) -> NDArray[np.bool_]:
    from scipy import ndimage

    side = 2 * width_px + 1
    inside: NDArray[np.bool_] = ndimage.minimum_filter(mask | ~scored, side, mode="constant", cval=0 if frame else 1)
    return mask & scored & ~inside


def _ratio(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> Ratio:
    return Ratio(int((true & found).sum()), int((true | found).sum()), np.nan)
