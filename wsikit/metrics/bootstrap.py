"""How sure a figure is: bootstrap intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError


def bootstrap_interval(
    metric: Callable[..., float],
    *columns: NDArray[np.generic],
    groups: NDArray[np.generic],
    strata: NDArray[np.generic] | None = None,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron, Annals of Statistics 7 (1979) 1) of any metric, drawing patients.

    Cases of one patient are alike, so a patient is drawn with all of its cases: drawing cases would make the interval
    too narrow. With ``strata`` patients are drawn among those that hold the same set of classes, as many as there are,
    so that every resample holds every class. The interval tells how far the figure moves with the patients at hand: a
    class with one patient does not move, and a figure that no resample changes (an AUC of 1) has an interval of no
    width, which is not certainty.

    Args:
        metric: takes the columns, gives a number; NaN where it is undefined.
        *columns: arrays of N rows, one for each case, such as truth and scores.
        groups: (N,) the patient of each case.
        strata: (N,) the class of each case; None draws among all patients.
        level: share of the bootstrap distribution inside the interval.
        rounds: resamples; those for which the metric is NaN are left out.
        seed: of the random generator.

    Returns:
        Lower and upper end; NaN, NaN where the metric is defined on no resample, and for no cases.

    Raises:
        ConfigError: columns of different lengths, or a level outside (0, 1).
    """
    lengths = {len(column) for column in (*columns, groups, *([] if strata is None else [strata]))}
    if len(lengths) != 1 or not 0 < level < 1:
        raise ConfigError(
            f"a bootstrap takes columns of one length and a level between 0 and 1, got {lengths} and {level}"
        )
    if lengths == {0}:
        return np.nan, np.nan
    pools = _pools(groups, strata)
    draws = _draws(pools, np.random.default_rng(seed), rounds)
    values = np.array([metric(*(column[drawn] for column in columns)) for drawn in draws])
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pools(groups: NDArray[np.generic], strata: NDArray[np.generic] | None) -> list[list[NDArray[np.intp]]]:
    """Patients, each the indices of its cases, by what is drawn among each other."""
    _, patient = np.unique(groups, return_inverse=True)
    cases = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    pools: dict[tuple[object, ...], list[NDArray[np.intp]]] = {}
    for one in cases:
        classes = () if strata is None else tuple(np.unique(strata[one]).tolist())
        pools.setdefault(classes, []).append(one)
    return list(pools.values())


def _draws(pools: list[list[NDArray[np.intp]]], random: np.random.Generator, rounds: int) -> Iterator[NDArray[np.intp]]:
    for _ in range(rounds):
        yield np.concatenate([pool[k] for pool in pools for k in random.integers(0, len(pool), len(pool))])
