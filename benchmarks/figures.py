"""The arithmetic of the benchmark: medians, spreads, ratios, slopes. No input, no output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression, median
from typing import Any


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median: 0.1 says that repeats lie within a tenth of one another."""
    return (max(values) - min(values)) / median(values)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent b of the best fit ``value = a * size ** b``: least squares on logarithms.

    1 is growth in proportion to the size, 0 is no growth.
    """
    return linear_regression([math.log(s) for s in sizes], [math.log(v) for v in values]).slope


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the repeats of theirs / ours. Runs were interleaved, so that what slows the machine for a while slows
    both of a pair."""
    return median([b / a for a, b in zip(ours, theirs, strict=True)])


@dataclass(frozen=True)
class Bar:
    """What a bench must reach, and what it reached."""

    bench: str
    what: str
    """In words."""
    figure: float | None
    """None: it could not be measured."""
    need: float | None
    """None: it is told, and nothing is asked of it."""
    aim: float | None = None
    at_most: bool = False
    """Whether the figure must stay below the bar; else above."""

    @property
    def passed(self) -> bool:
        """Whether the bar holds; without a figure it does not."""
        if self.need is None:
            return True
        if self.figure is None:
            return False
        return self.figure <= self.need if self.at_most else self.figure >= self.need

    def told(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self) | {"passed": self.passed}
