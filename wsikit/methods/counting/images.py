"""One image and its count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations.instances import read_image
from wsikit.errors import ConfigError
from wsikit.training.images import TrainingImage


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
        return None if self.truth is None else read_labels(self.truth, self.source.size)


def read_labels(path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """(H, W) instance labels of an image of this (width, height).

    Raises AnnotationError for what is no label image, ConfigError (code bad_counts) for one of another size.
    """
    labels = read_image(path)
    height, width = labels.shape
    if (width, height) != size:
        raise ConfigError(
            f"the labels {path} have {width}x{height} px, their image has {size[0]}x{size[1]} px",
            code="bad_counts",
            remedy="export the labels at the resolution of the image",
        )
    return labels
