"""Classification of whole images, slides or patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.bootstrap import bootstrap_interval
from wsikit.metrics.ratio import Ratio
from wsikit.metrics.segmentation import confusion_matrix, mean_class_accuracy, mean_dice


def quadratic_weighted_kappa(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> float:
    """Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 70 (1968) 213), for ordered classes.

        1 - sum (i - j)^2 O_ij / sum (i - j)^2 E_ij

    with O the confusion matrix and E what its margins would give by chance. 1 is agreement, 0 is chance. NaN where both
    sides say one and the same class throughout (chance explains everything) and for no cases.

    Args:
        truth, found: (N,) classes from 0 to ``classes`` - 1.
        classes: K, ordered.
    """
    observed = confusion_matrix(truth, found, classes).astype(np.float64)
    step = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    total = observed.sum()
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / total if total else observed
    chance = float((step * expected).sum())
    return 1 - float((step * observed).sum()) / chance if chance else np.nan


def accuracy(truth: NDArray[np.generic], found: NDArray[np.generic]) -> Ratio:
    """Share of cases (bags, slides, patients) whose class is right; NaN for no cases.

    Raises:
        ConfigError: shapes differ.
    """
    if truth.shape != found.shape:
        raise ConfigError(f"truth and prediction must have one shape, got {truth.shape} and {found.shape}")
    return Ratio(int((truth == found).sum()), truth.size, np.nan)


def balanced_accuracy(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> float:
    """Mean over the classes that truly occur of the share of their cases that is right (mean recall).

    Brodersen et al., ICPR 2010. Chance is 1 / K however unequal the classes. NaN for no cases.

    Args:
        truth, found: (N,) classes from 0 to ``classes`` - 1.
        classes: K.
    """
    return mean_class_accuracy(confusion_matrix(truth, found, classes))


def macro_f1(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> float:
    """Mean of the classes' F1 = 2 TP / (2 TP + FP + FN), classes on neither side left out; NaN for no cases.

    The mean of the F1s, not the F1 of mean precision and mean recall (Opitz and Burst, arXiv 1911.03347, tell them
    apart).

    Args:
        truth, found: (N,) classes from 0 to ``classes`` - 1.
        classes: K.
    """
    return mean_dice(confusion_matrix(truth, found, classes))


def auc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher.

    Ties count half (Mann and Whitney's U). NaN where a class is absent.

    Args:
        truth: (N,) whether each case is positive.
        scores: (N,) finite, higher is more positive.

    Raises:
        ConfigError: shapes differ or a score is not finite.
    """
    truth = np.asarray(truth, np.bool_)
    if truth.shape != scores.shape or not np.isfinite(scores).all():
        raise ConfigError(f"AUC takes one finite score for each case, got {scores.shape} for {truth.shape}")
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not (positive and negative):
        return np.nan
    ladder = np.sort(scores[~truth])
    below, not_above = (np.searchsorted(ladder, scores[truth], side=side).sum() for side in ("left", "right"))
    return float(below + not_above) / 2 / (positive * negative)


def macro_auc(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> float:
    """Mean over classes of the AUC of each class against all others (one against the rest, each class alike).

    Hand and Till, Machine Learning 45 (2001) 171, compare it with the mean over pairs of classes. NaN where a class is
    absent.

    Args:
        truth: (N,) classes from 0 to K - 1.
        scores: (N, K) finite, higher is more that class.

    Raises:
        ConfigError: shapes differ, a score is not finite, or a class is out of range.
    """
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ConfigError(f"macro AUC takes scores of shape (N, K), got {scores.shape} for {truth.shape}")
    if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < scores.shape[1]:
        raise ConfigError(f"classes must be 0 to {scores.shape[1] - 1}, got {truth.min()} to {truth.max()}")
    return float(np.mean([auc(truth == k, scores[:, k]) for k in range(scores.shape[1])]))


def auc_interval(
    truth: NDArray[np.bool_] | NDArray[np.integer],
    scores: NDArray[np.floating],
    groups: NDArray[np.generic],
    *,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of ``auc``, or for (N, K) scores of ``macro_auc``, over patients and stratified by class.

    Args:
        truth, scores: as in those.
        groups: (N,) the patient of each case.
        level, rounds, seed: as in ``bootstrap_interval``.

    Returns:
        Lower and upper end; NaN, NaN where a class is absent.
    """
    metric = auc if scores.ndim == 1 else macro_auc
    return bootstrap_interval(metric, truth, scores, groups=groups, strata=truth, level=level, rounds=rounds, seed=seed)
