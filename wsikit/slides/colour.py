"""What counts as colour: 3 x uint8 RGB, and transparency flattened onto a background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PHOTOMETRIC_RGB = 2
"""TIFF 6.0, tag 262: RGB."""
PHOTOMETRIC_YCBCR = 6
"""TIFF 6.0, tag 262: YCbCr."""
SAMPLE_UINT = 1
"""TIFF 6.0, tag 339: unsigned integers."""


def over_background(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Lay pixels with straight (not premultiplied) alpha over a plain colour.

    Args:
        rgba: (H, W, 4) uint8.
        background: RGB, 0 to 255.

    Returns:
        (H, W, 3) uint8, contiguous, rounded half up.
    """
    colour = rgba[..., :3].astype(np.uint16)
    alpha = rgba[..., 3:].astype(np.uint16)
    under = np.array(background, np.uint16) * (255 - alpha)
    return ((colour * alpha + under + 127) // 255).astype(np.uint8)


def tiff_colour_fault(page: Any, samples: tuple[int, ...] = (3,)) -> str | None:
    """Why the pixels of a tifffile page are not 8-bit RGB or YCbCr colour, or None where they are.

    Args:
        page: a ``tifffile.TiffPage``.
        samples: the numbers of samples per pixel that are taken; 4 means RGB and alpha.
    """
    photometric = page.photometric
    bits = page.bitspersample
    found = (
        f"{page.samplesperpixel} x {bits}-bit samples, photometric {getattr(photometric, 'name', photometric)}"
        f"{'' if page.sampleformat == SAMPLE_UINT else ', not unsigned integers'}"
    )
    colour = photometric in (PHOTOMETRIC_RGB, PHOTOMETRIC_YCBCR) and page.samplesperpixel in samples
    return None if colour and bits == 8 and page.sampleformat == SAMPLE_UINT else found
