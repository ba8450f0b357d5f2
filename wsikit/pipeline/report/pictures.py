"""Overview pictures as data URLs, small enough for one file that a browser opens."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PICTURE_BYTES = 120_000
"""Largest embedded overview of one slide, before base64 makes 4/3 of it: a report of one is under 200 kB."""
PICTURES_BYTES = 36_000_000
"""All of them together; with many slides each gets its share, so that a browser opens the report of any run."""
LONG_SIDE = 1280
"""px of the large view where it fits."""
QUALITIES = (82, 62, 44)
"""JPEG qualities to try in turn; below the last one the view is made smaller. A large view that can be zoomed is worth
more than a fine one: at 135 kB the H&E sample keeps an SSIM of 0.75 with its overview at 1100 px, of 0.72 at 900 px."""
SHORTEST = 240
"""px that the large view keeps whatever it takes."""
THUMBNAIL = (128, 60)


@dataclass(frozen=True, slots=True)
class Pictures:
    """A slide's overview as data URLs, or why there is none."""

    thumbnail: str = ""
    large: str = ""
    width: int = 0
    """Of the large one, in px."""
    height: int = 0
    problem: str = ""


def embedded(path: Path, limit: int) -> Pictures:
    """The overview, its large view at most ``limit`` bytes of JPEG where the smallest step is."""
    if not path.is_file():
        return Pictures(problem="no overview")
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a broken PNG chunk is a SyntaxError
        return Pictures(problem=f"{path.name} cannot be read: {error}")
    large = _large(image, limit)
    width, height = image.size
    return Pictures(_data_url(_jpeg(image, *THUMBNAIL)), _data_url(large), width, height)


def _large(image: Image.Image, limit: int) -> bytes:
    """JPEG of at most ``limit`` bytes, if ``SHORTEST`` px allow it; the image is reduced in place to its size."""
    for quality in QUALITIES:
        jpeg = _jpeg(image, LONG_SIDE, quality)
        if len(jpeg) <= limit:
            return jpeg
    while len(jpeg) > limit and max(image.size) > SHORTEST:
        # bytes go with the area
        side = max(image.size) * min(0.95, math.sqrt(limit / len(jpeg)))
        jpeg = _jpeg(image, max(SHORTEST, int(side)), QUALITIES[-1])
    return jpeg


def _jpeg(image: Image.Image, side: int, quality: int) -> bytes:
    """JPEG of the image, which is first reduced in place to a long side of at most ``side`` px."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
