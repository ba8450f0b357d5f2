"""One image and its count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.training.images import TrainingImage
from wsikit.training.labels import read_labels


@dataclass(frozen=True, eq=False, kw_only=True)
class CountedImage(TrainingImage):
    """One image and how many cells it holds."""

    count: int
    organ: str | None = None
    truth: Path | None = field(default=None, repr=False)
    """Instance labels, if there are any."""

    def labels(self) -> NDArray[np.int64] | None:
        """(H, W) number of the instance of each pixel, 0 is background; None where they are not known.

        For scoring only: nothing is learned from them. Raises AnnotationError, and ConfigError (code bad_counts) for
        labels of another size than the image.
        """
        return None if self.truth is None else read_labels(self.truth, self.source.size, "bad_counts")
