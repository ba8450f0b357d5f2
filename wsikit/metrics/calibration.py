"""Calibration: whether what is said with a probability of p comes true in a share p of cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.ratio import Ratio


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """The table behind a reliability diagram: B bins of probability that hold a case, ascending."""

    lower: NDArray[np.float64]
    """(B,) end of each bin, not in it (the first bin holds its own)."""
    upper: NDArray[np.float64]
    """(B,) other end, in the bin."""
    cases: NDArray[np.int64]
    """(B,) at least 1."""
    probability: NDArray[np.float64]
    """(B,) mean probability of the cases in each bin."""
    share: NDArray[np.float64]
    """(B,) share of them that came true."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error (ECE): mean over cases of |share - probability| of their bins; NaN for no cases.

        Naeini et al., AAAI 2015; Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
        """
        gaps = np.abs(self.share - self.probability)
        return float((self.cases * gaps).sum() / self.cases.sum()) if len(gaps) else np.nan

    @property
    def maximum_error(self) -> float:
        """Maximum calibration error (MCE): the largest |share - probability| of a bin (same sources); NaN for none."""
        return float(np.abs(self.share - self.probability).max()) if len(self.cases) else np.nan


def reliability(
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    *,
    bins: int = 15,
    equal: Literal["width", "mass"] = "width",
) -> Reliability:
    """Cases in bins of probability. For classes: ``reliability(*top_label(truth, probabilities))``.

    A bin is (lower, upper], so that cases of one probability are in one bin; empty bins are left out.

    Args:
        truth: (N,) whether each case came true.
        probabilities: (N,) that it would, 0 to 1.
        bins: at most so many, at least 1. 15 is Guo et al.'s.
        equal: "width", the bins cut [0, 1] evenly; "mass", they hold equally many cases (Nguyen and O'Connor, EMNLP
            2015; steadier where most probabilities are near 0 or 1), fewer bins where probabilities repeat.

    Raises:
        ConfigError: shapes differ, a probability outside [0, 1], or another number or kind of bins.
    """
    truth, values = np.asarray(truth, np.bool_), np.asarray(probabilities, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(
            f"calibration takes one probability from 0 to 1 for each case, got {values.shape} for {truth.shape}"
        )
    if bins < 1 or equal not in ("width", "mass"):
        raise ConfigError(f'bins are 1 or more of equal "width" or "mass", got {bins} of equal {equal!r}')
    shares = np.linspace(0, 1, bins + 1)
    edges = np.quantile(values, shares) if equal == "mass" and len(values) else shares
    inner = np.unique(edges[1:-1])
    index = np.searchsorted(inner, values, side="left")
    cases = np.bincount(index, minlength=len(inner) + 1)
    held = np.flatnonzero(cases)
    means = [np.bincount(index, weights, len(cases))[held] / cases[held] for weights in (values, truth)]
    ends = np.append(inner, edges[-1])
    starts = np.append(edges[0], inner)
    return Reliability(starts[held], ends[held], cases[held], means[0], means[1])


def top_label(
    truth: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Confidence of a classifier (Guo et al., ICML 2017): whether its first choice is right, and how probable it said.

    Args:
        truth: (N,) classes from 0.
        probabilities: (N, K).

    Returns:
        (N,) and (N,), as ``reliability`` takes them. Of equal probabilities the first class is the choice.

    Raises:
        ConfigError: shapes differ, or a class is out of range.
    """
    _check_classes(truth, probabilities)
    best = probabilities.argmax(axis=1)
    return best == truth, np.asarray(np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0], np.float64)


def brier(truth: NDArray[np.bool_] | NDArray[np.integer], probabilities: NDArray[np.floating]) -> Ratio:
    """Brier score: mean squared error of probabilities; 0 is perfect. Ratios of images or folds add.

    Args:
        truth: (N,) whether each case came true, or its class from 0.
        probabilities: (N,) that it would: the score is the mean of (p - y)^2, 0 to 1. Or (N, K) of K classes: the mean
            of the sum over classes, 0 to 2, as Brier wrote it (Monthly Weather Review 78 (1950) 1); for two classes
            that is twice the other.

    Raises:
        ConfigError: shapes differ, or a class is out of range.
    """
    if probabilities.ndim == 2:
        _check_classes(truth, probabilities)
        outcome = np.eye(probabilities.shape[1])[np.asarray(truth, np.int64)]
    elif truth.shape == probabilities.shape:
        outcome = np.asarray(truth, np.bool_).astype(np.float64)
    else:
        raise ConfigError(f"one probability for each case: got {probabilities.shape} for {truth.shape}")
    return Ratio(float(((probabilities - outcome) ** 2).sum()), len(truth), np.nan)


def _check_classes(truth: NDArray[np.generic], probabilities: NDArray[np.floating]) -> None:
    if probabilities.ndim != 2 or truth.shape != probabilities.shape[:1]:
        raise ConfigError(f"probabilities of K classes have shape (N, K), got {probabilities.shape} for {truth.shape}")
    classes = np.asarray(truth, np.int64)
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < probabilities.shape[1]:
        raise ConfigError(f"classes must be 0 to {probabilities.shape[1] - 1}, got {classes.min()} to {classes.max()}")
