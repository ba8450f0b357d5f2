"""Colour maps as lattices: one map of RGB to RGB, worked out on 65 x 65 x 65 colours and interpolated by Pillow in C.

Whatever a method computes (logarithms, roots, matrices), a pixel costs the same. A pixel's outcome depends on nothing
around it, not even in its last bit: Pillow interpolates in integers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFilter import Color3DLUT

    from wsikit.stain.profile import StainProfile

NODES = 65
"""Colours per axis, the most that Pillow takes."""


@lru_cache(maxsize=8)
def lattice(nodes: int) -> NDArray[np.float64]:
    """(nodes^3, 3) colours, 0 to 255, red running fastest."""
    axis = np.linspace(0, 255, nodes)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    colours = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    colours.setflags(write=False)
    return colours


def table(colours: NDArray[np.float64], nodes: int) -> Color3DLUT:
    """The map that gives the colours of ``lattice(nodes)`` the (nodes^3, 3) colours given, cut off at 0 and 255."""
    from PIL.ImageFilter import Color3DLUT

    return Color3DLUT(nodes, (np.clip(colours, 0, 255) / 255).astype(np.float32).ravel())


@lru_cache(maxsize=8)
def tabulate(source: StainProfile, target: Any) -> Color3DLUT:
    """The map from one profile's colours to another's. Kept, since every patch of a slide needs the same."""
    return table(source.move(lattice(NODES), target), NODES)


def apply(lut: Color3DLUT, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Map (..., W, 3) RGB; a new array of the same shape."""
    from PIL import Image

    if not images.size:
        return images.copy()
    rows = np.ascontiguousarray(images).reshape(-1, images.shape[-2], 3)
    return np.array(Image.fromarray(rows).filter(lut)).reshape(images.shape)
