"""A metric as two sums, so that images can be pooled by adding."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """The quotient of two sums over objects or pixels. Adding two pools them."""

    part: float
    """Numerator."""
    whole: float
    """Denominator, 0 or more."""
    empty: float = 1.0
    """The value where the denominator is 0: 1 where finding nothing is perfect then, NaN where it is undefined."""

    @property
    def value(self) -> float:
        """The metric."""
        return self.part / self.whole if self.whole else self.empty

    def __add__(self, other: Ratio) -> Ratio:
        # an empty image adds nothing; of two values for "empty" the worse one, NaN staying NaN
        empty = math.nan if math.isnan(self.empty + other.empty) else min(self.empty, other.empty)
        return Ratio(self.part + other.part, self.whole + other.whole, empty)

    @classmethod
    def f1(cls, matched: int, truth: int, found: int) -> Ratio:
        """F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 1 where both sides are empty."""
        return cls(2 * matched, truth + found)
