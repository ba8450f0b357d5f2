"""The best one-to-one pairing of two sides of which only some pairs are possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError

CHUNK = 500
"""Left-hand items solved at once. The solver takes time by the square of a problem, so independent groups are solved
apart, and tiny ones together, since each call costs 0.1 ms."""


def assign(
    left: NDArray[np.integer], right: NDArray[np.integer], cost: NDArray[np.floating], unmatched: float | None = None
) -> NDArray[np.int64]:
    """Choose pairs so that nothing is used twice and the total cost is least.

    Jonker and Volgenant's shortest augmenting paths for sparse problems (scipy), in which every left-hand item may also
    be paired with a stand-in of its own, which is to leave it alone. Items that no chain of possible pairs joins do not
    influence each other and are solved apart: 10^5 items take seconds.

    Args:
        left, right: (P,) items of the possible pairs, each pair once, numbered from 0 on either side.
        cost: (P,) of each pair, 0 or more.
        unmatched: cost of leaving a left-hand item alone; by default so high that as many pairs as possible are made,
            and of those pairings the cheapest.

    Returns:
        (M,) ascending indices into the P pairs.

    Raises:
        ConfigError: a negative or infinite cost.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(left):
        return np.zeros(0, np.int64)
    if not (np.isfinite(cost).all() and cost.min() >= 0):
        raise ConfigError("costs of pairs must be finite and 0 or more")
    count = int(left.max()) + 1
    total = count + int(right.max()) + 1
    graph = coo_array((np.ones(len(left), np.int8), (left, right + count)), shape=(total, total))
    _, group = connected_components(graph, directed=False)
    order = np.lexsort((left, group[left]))
    chosen = [
        part[_solve(left[part], right[part], cost[part], unmatched)] for part in _chunks(order, left, group[left])
    ]
    return np.sort(np.concatenate(chosen))


def _chunks(order: NDArray[np.intp], left: NDArray[np.integer], group: NDArray[np.integer]) -> list[NDArray[np.intp]]:
    """Cut the pairs, sorted by group and item, between groups after every ``CHUNK`` left-hand items or so."""
    item, group = left[order], group[order]
    rank = np.cumsum(np.append(0, item[1:] != item[:-1]))
    new_group = np.append(True, group[1:] != group[:-1])
    # a group belongs to the chunk in which it begins
    chunk = (rank[new_group] // CHUNK)[np.cumsum(new_group) - 1]
    return np.split(order, np.flatnonzero(np.diff(chunk)) + 1)


def _solve(
    left: NDArray[np.integer], right: NDArray[np.integer], cost: NDArray[np.floating], unmatched: float | None
) -> NDArray[np.intp]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    _, row = np.unique(left, return_inverse=True)
    names, column = np.unique(right, return_inverse=True)
    rows, columns = int(row.max()) + 1, len(names)
    if unmatched is None:
        # one more pair may change every other one, each by at most the largest cost
        unmatched = float(cost.max()) * (rows + 1) + 1
    # the solver takes a weight of 0 for no pair; 1 more for every left-hand item changes no comparison
    weights = np.concatenate([cost, np.full(rows, unmatched)]) + 1
    pairs = np.concatenate([row, np.arange(rows)]), np.concatenate([column, columns + np.arange(rows)])
    table = csr_array((weights, pairs), shape=(rows, columns + rows))
    partner = min_weight_full_bipartite_matching(table)[1]
    return np.flatnonzero(partner[row] == column)
