"""The direct TIFF reader with further levels between the stored ones, decoded at a half, a quarter and an eighth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wsikit.slides.levels import true_downsamples
from wsikit.slides.slide import LEVEL_TOLERANCE
from wsikit.slides.tiff import TiffReader, TileTable

SCALES = (2, 4, 8)
"""What JPEG's 8 x 8 blocks can be decoded to at less cost: 4 x 4, 2 x 2 and 1 x 1 px."""


class ScaledTiffReader(TiffReader):
    """``TiffReader`` with levels at 1/2, 1/4 and 1/8 of each stored JPEG level, down to the next stored one.

    JPEG's own scaled decoding (the low frequencies of each block) takes the place of decoding everything and averaging:
    1.2 to 1.8 times as fast, since the entropy-coded data must be read all the same. A level's size is the floor of the
    stored one's; a tile whose side the scale does not divide is not scaled by it. ``tile_jpeg`` is for stored levels.

    The pixels are not those of area averaging. On H&E (the sample slide, RGB in JPEG; the same as YCbCr 4:2:0 quality
    80; InstanSeg's example, YCbCr) they differ by 0.1 to 0.7 of 255 in the mean and by 41 at most (4:2:0 at 1/2, where
    colours meet), 99.9 % of them by 12 at most. Results of a run may change by that, which is why this is asked for.

    JPEG 2000 levels are not scaled: imagecodecs cannot decode fewer resolutions, and Pillow, which can, holds Python's
    lock while it does.
    """

    name = "tiff-scaled"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        levels = list(self._further())
        self.sizes = tuple(size for size, _, _ in levels)
        self.downsamples = tuple(downsample for _, downsample, _ in levels)
        self._tables = tuple(table for _, _, table in levels)

    def _further(self) -> Iterator[tuple[tuple[int, int], float, TileTable]]:
        """Size, downsample and tiles of every level, stored and scaled, finest first."""
        # those of the stored levels first: a scaled level's own sizes are rounded twice
        downsamples = true_downsamples(self.sizes, self.downsamples)
        ends = (*downsamples[1:], float("inf"))
        for size, downsample, table, end in zip(self.sizes, downsamples, self._tables, ends, strict=True):
            yield size, downsample, table
            for scale in SCALES:
                if downsample * scale < end * (1 - LEVEL_TOLERANCE) and _fits(size, table, scale):
                    scaled = (size[0] // scale, size[1] // scale)
                    tile = (table.size[0] // scale, table.size[1] // scale)
                    yield scaled, downsample * scale, replace(table, size=tile, scale=scale)


def _fits(size: tuple[int, int], table: TileTable, scale: int) -> bool:
    return table.codec.scalable and min(size) >= scale and not any(side % scale for side in table.size)
