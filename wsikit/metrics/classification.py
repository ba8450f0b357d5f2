"""Classification of whole images, slides or patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.segmentation import confusion_matrix


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


def auc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher.

    Ties count half (Mann and Whitney's U, by mean ranks). NaN where a class is absent.

    Args:
        truth: (N,) whether each case is positive.
        scores: (N,) finite, higher is more positive.

    Raises:
        ConfigError: shapes differ or a score is not finite.
    """
    from scipy.stats import rankdata

    truth = np.asarray(truth, np.bool_)
    if truth.shape != scores.shape or not np.isfinite(scores).all():
        raise ConfigError(f"AUC takes one finite score for each case, got {scores.shape} for {truth.shape}")
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not (positive and negative):
        return np.nan
    above = rankdata(scores)[truth].sum() - positive * (positive + 1) / 2
    return float(above) / (positive * negative)


def auc_interval(
    truth: NDArray[np.bool_],
    scores: NDArray[np.floating],
    groups: NDArray[np.generic],
    *,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``auc``, drawing patients and not slides: slides of one patient go together.

    Args:
        truth, scores: as in ``auc``.
        groups: (N,) the patient of each case.
        level: share of the bootstrap distribution inside the interval.
        rounds: resamples; those that lack a class are left out.
        seed: of the random generator.

    Returns:
        Lower and upper end; NaN, NaN where no resample holds both classes.
    """
    _, patient = np.unique(groups, return_inverse=True)
    cases = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    random = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        drawn = np.concatenate([cases[k] for k in random.integers(0, len(cases), len(cases))])
        values.append(auc(truth[drawn], scores[drawn]))
    known = np.array(values)[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
