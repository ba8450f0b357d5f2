"""Counts of cells: how far off, and in which bin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.ratio import Ratio


def absolute_error(truth: float, found: float) -> Ratio:
    """|found - truth| of one image; the sum over images is the mean absolute error (MAE)."""
    return Ratio(abs(found - truth), 1, np.nan)


def bin_counts(counts: NDArray[np.integer], edges: Sequence[float]) -> NDArray[np.int64]:
    """(N,) the bin of each count: bin 0 is below the first edge, bin k is edges[k - 1] <= count < edges[k].

    Args:
        counts: (N,).
        edges: ascending; E edges make E + 1 bins.

    Raises:
        ConfigError: edges that do not ascend.
    """
    if not len(edges) or (np.diff(edges) <= 0).any():
        raise ConfigError(f"edges of count bins must ascend, got {', '.join(f'{edge:g}' for edge in edges) or 'none'}")
    return np.searchsorted(np.asarray(edges, np.float64), counts, side="right").astype(np.int64)


def quartile_edges(truth: NDArray[np.integer]) -> tuple[float, ...]:
    """The quartiles of the true counts as edges of four bins, equal ones once. (N,) counts, at least one."""
    return tuple(float(edge) for edge in np.unique(np.quantile(truth, (0.25, 0.5, 0.75))))
