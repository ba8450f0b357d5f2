"""Bags with planted key instances: known answers for what attends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsikit.geometry import Region
from wsikit.predictions import Bag

WIDTH = 32
Matrix = np.ndarray[Any, np.dtype[np.float32]]


def planted_bags(seed: int, count: int, *, sizes: tuple[int, int] = (30, 120)) -> tuple[list[Bag], list[np.ndarray]]:  # type: ignore[type-arg]
    """Bags of noise; every second one has 1 to 3 key instances, which alone make its label 1.

    All bags hold a few decoys as well: as far out as the keys, in another direction. Returns the bags and, for each,
    which instances are keys.
    """
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(1).normal(size=(2, WIDTH))
    directions *= 6 / np.linalg.norm(directions, axis=1, keepdims=True)
    bags, keys = [], []
    for index in range(count):
        size = int(random.integers(*sizes))
        features = random.normal(size=(size, WIDTH))
        chosen = random.permutation(size)
        decoys, mine = chosen[:3], chosen[3 : 3 + int(random.integers(1, 4)) * (index % 2)]
        features[decoys] += directions[0]
        features[mine] += directions[1]
        regions = tuple(Region(64 * i, 0, 64, 64, 0.5) for i in range(size))
        bags.append(Bag(f"bag {index}", features.astype(np.float32), regions, index % 2))
        keys.append(np.isin(np.arange(size), mine))
    return bags, keys


def auc(scores: Sequence[float], labels: Sequence[int | None]) -> float:
    """Share of the pairs of a positive and a negative that are in the right order; ties count half."""
    values, positive = np.asarray(scores), np.asarray(labels) == 1
    pairs = values[positive][:, None] - values[~positive][None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
