"""Semantic segmentation: metrics of the confusion matrix of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError


def confusion_matrix(
    truth: NDArray[np.integer], found: NDArray[np.integer], classes: int, ignore: int | None = None
) -> NDArray[np.int64]:
    """How many pixels (or cases) of each true class were found to be of each class. Matrices of images add.

    Args:
        truth: class of each pixel, any shape, integers from 0 to ``classes`` - 1, or ``ignore``.
        found: same shape, integers from 0 to ``classes`` - 1.
        classes: K.
        ignore: a true value whose pixels are left out (not annotated).

    Returns:
        (K, K) rows are true classes, columns found ones.

    Raises:
        ConfigError: shapes differ, or a class is out of range.
    """
    if truth.shape != found.shape:
        raise ConfigError(f"truth and prediction must have one shape, got {truth.shape} and {found.shape}")
    if ignore is not None:
        truth, found = truth[truth != ignore], found[truth != ignore]
    for name, values in (("true", truth), ("found", found)):
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ConfigError(f"{name} classes must be 0 to {classes - 1}, got {values.min()} to {values.max()}")
    code = truth.astype(np.int64).ravel() * classes + found.astype(np.int64).ravel()
    return np.bincount(code, minlength=classes * classes).reshape(classes, classes)


def _shares(confusion: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(K,) pixels right, true and found of each class."""
    return np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)


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
    iou = class_iou(confusion)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else np.nan


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
