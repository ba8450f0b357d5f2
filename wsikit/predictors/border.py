"""What a window sees past the slide's border: the slide, mirrored, so that what lies on the border looks like what lies
inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Region


def mirrored(image: NDArray[np.uint8], region: Region, plane: Region) -> NDArray[np.uint8]:
    """The patch with what lies outside the slide taken from inside, mirrored at the border."""
    inside = region.intersection(plane)
    if inside == region or inside is None:
        return image
    columns, rows = (
        _mirror(np.arange(start, stop), length) - start
        for start, stop, length in ((region.x, region.x1, plane.width), (region.y, region.y1, plane.height))
    )
    height, width = image.shape[:2]
    # a slide narrower than the halo has no mirror image for all of it: the nearest pixel that the patch holds
    return image[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]


def _mirror(position: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions on a line of ``length`` pixels that repeats itself mirrored, the border pixel included."""
    folded = np.mod(position, 2 * length)
    return np.asarray(np.minimum(folded, 2 * length - 1 - folded))
