"""Detections as points: which found points are which true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.assignment import assign
from wsikit.metrics.ratio import Ratio


@dataclass(frozen=True, slots=True, eq=False)
class PointMatches:
    """A one-to-one matching of true and found points."""

    truth: int
    """True points in all."""
    found: int
    """Found points in all."""
    pairs: NDArray[np.int64]
    """(M, 2) index of the true and of the found point of each match."""
    distances: NDArray[np.float64]
    """(M,) distance of each match, in the unit of the points (um)."""

    @property
    def f1(self) -> Ratio:
        """2 TP / (truth + found): 1 where both are empty, 0 where only one is."""
        return Ratio.f1(len(self.pairs), self.truth, self.found)

    @property
    def precision(self) -> Ratio:
        """TP / found; NaN where nothing was found."""
        return Ratio(len(self.pairs), self.found, np.nan)

    @property
    def recall(self) -> Ratio:
        """TP / truth; NaN where there is nothing to find."""
        return Ratio(len(self.pairs), self.truth, np.nan)


def match_points(truth: NDArray[np.floating], found: NDArray[np.floating], *, radius: float) -> PointMatches:
    """Match points one to one within a radius: as many pairs as possible, and of those matchings the shortest in total.

    Greedy nearest-first matching finds fewer pairs where points crowd, and depends on their order. Candidates come from
    a KD-tree, so that 10^5 points a side take seconds.

    Args:
        truth: (N, 2) true points, x and y in um.
        found: (M, 2) found points, same frame.
        radius: largest distance of a pair in um, inclusive.

    Raises:
        ConfigError: a radius that is not positive, or arrays of another shape.
    """
    from scipy.spatial import KDTree

    if not radius > 0:
        raise ConfigError(f"the radius must be a positive number of um, got {radius!r}")
    for name, points in (("true", truth), ("found", found)):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ConfigError(f"{name} points must have shape (N, 2), got {points.shape}")
    if not (len(truth) and len(found)):
        return PointMatches(len(truth), len(found), np.zeros((0, 2), np.int64), np.zeros(0))
    near = KDTree(truth).sparse_distance_matrix(KDTree(found), radius, output_type="ndarray")
    # in one order whatever the tree: ties must not depend on it
    near = near[np.lexsort((near["j"], near["i"]))]
    chosen = near[assign(near["i"], near["j"], near["v"])]
    pairs = np.stack([chosen["i"], chosen["j"]], axis=1).astype(np.int64)
    return PointMatches(len(truth), len(found), pairs, np.asarray(chosen["v"], np.float64))
