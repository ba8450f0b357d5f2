"""Patches on pictures: where they were, and how much a model attends to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsikit.errors import ConfigError
from wsikit.pipeline.lettering import MUTED, Color, text_width, write

OUTLINE: Color = (33, 102, 172)
SMALLEST_OUTLINED = 5.0
"""px of the picture; outlines of smaller patches would hide what they outline: those are tinted."""
TINT, OPACITY = 0.22, 0.55
STOPS = ((49, 54, 149), (116, 173, 209), (255, 255, 191), (244, 109, 67), (165, 0, 38))
"""Low to high, after ColorBrewer's RdYlBu: told apart by those who confuse red and green, and unlike any stain."""
BAR = (160, 12)
"""Width and height of the legend's bar, px."""


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """N patches to draw."""

    boxes: NDArray[np.float64]
    """(N, 4) x0, y0, x1, y1 in level-0 pixels."""
    heat: NDArray[np.float64] | None = None
    """(N,) in [0, 1], rank of a patch's attention; None where nothing attends."""

    def __post_init__(self) -> None:
        if self.boxes.shape[1:] != (4,) or (self.heat is not None and self.heat.shape != (len(self.boxes),)):
            shape = None if self.heat is None else self.heat.shape
            raise ConfigError(f"Patches need (N, 4) boxes and (N,) heat, got {self.boxes.shape} and {shape}")

    def __len__(self) -> int:
        return len(self.boxes)


def colors(heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(N, 3) RGB of (N,) heat in [0, 1]."""
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(heat, places, channel) for channel in np.array(STOPS, float).T]
    rgb: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return rgb


def draw_patches(
    image: Image.Image, frame: Callable[[NDArray[np.float64]], NDArray[np.float64]], patches: Patches
) -> None:
    """Outline the patches, tint them where they are too small for that, or colour them by their heat.

    Args:
        image: changed in place.
        frame: (M, 2) level-0 pixels -> pixels of the image.
        patches: what to draw.
    """
    if not len(patches):
        return
    corners = np.rint(frame(patches.boxes.reshape(-1, 2))).astype(np.int64).reshape(-1, 4)
    if patches.heat is not None:
        _fill(image, corners, colors(patches.heat), OPACITY)
    elif np.median(corners[:, 2] - corners[:, 0]) < SMALLEST_OUTLINED:
        _fill(image, corners, np.broadcast_to(np.array(OUTLINE, np.uint8), (len(corners), 3)), TINT)
    else:
        draw = ImageDraw.Draw(image)
        for x0, y0, x1, y1 in corners.tolist():
            draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=OUTLINE)


def _fill(image: Image.Image, corners: NDArray[np.int64], rgb: NDArray[np.uint8], opacity: float) -> None:
    paint, mask = Image.new("RGB", image.size), Image.new("L", image.size)
    draws = ImageDraw.Draw(paint), ImageDraw.Draw(mask)
    for (x0, y0, x1, y1), color in zip(corners.tolist(), rgb.tolist(), strict=True):
        box = x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)
        draws[0].rectangle(box, fill=tuple(color))
        draws[1].rectangle(box, fill=round(255 * opacity))
    image.paste(paint, mask=mask)


def color_bar(image: Image.Image, corner: tuple[int, int], size: int) -> int:
    """Draw the legend of heat with its upper left corner at ``corner`` (x, y); returns its width in px."""
    draw, (width, height) = ImageDraw.Draw(image), BAR
    left, right = "least attended", "most attended patch"
    x = corner[0] + text_width(left, size) + 8
    write(draw, (corner[0], corner[1] - 4), left, size)
    ramp = colors(np.linspace(0, 1, width))
    image.paste(Image.fromarray(np.repeat(ramp[None], height, axis=0)), (x, corner[1]))
    draw.rectangle((x - 1, corner[1] - 1, x + width, corner[1] + height), outline=MUTED)
    write(draw, (x + width + 8, corner[1] - 4), right, size)
    return x + width + 8 + text_width(right, size) - corner[0]
