"""Glass told from tissue by the compressed size of the file's tiles: a second look that decodes nothing.

A variable-rate codec spends few bytes where there is nothing to see. How few depends on the scanner and its settings,
so the limit is calibrated on each slide, by the tissue mask:

1. Of the tiles that lie wholly on the slide, those without any tissue are the *glass* group, those at least
   ``SURELY_TISSUE`` covered the *tissue* group.
2. The limit is the size that ``GLASS_SHARE`` of the glass group stay within. It counts only where the groups are
   clearly apart: ``TISSUE_SHARE`` of the tissue group are larger than ``APART`` times the limit. So what is taken for
   glass is less than half of what 99 of 100 tiles of that slide's tissue need.
3. A window is glass where all the tiles that it touches are within the limit. Tiles that reach past the slide's edge
   say nothing, since an encoder's filling costs no bytes: windows that touch one are kept.

On CMU-1-Small-Region (35 glass tiles, 33 of tissue) the limit is 2,939 bytes and the smallest tissue tile has 10,348;
docs/measured.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.slides import Slide
from wsikit.slides.tiles import TileReader
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

VARIABLE_RATE = frozenset({"jpeg", "deflate", "lzw"})
"""Codecs whose tiles are as large as what they show needs. JPEG 2000 is often written to a fixed size."""
SURELY_TISSUE = 0.9
GLASS_SHARE, TISSUE_SHARE = 0.95, 0.99
APART = 2.0
FEWEST = 16
"""Tiles that a group needs to be calibrated by."""


@dataclass(frozen=True, slots=True, eq=False)
class GlassTest:
    """Which tiles of one level are glass by their size."""

    limit: int | None
    """Largest compressed size of a tile of glass, bytes; None where size does not tell."""
    why: str
    """Why it does not, or the groups that it was calibrated by."""
    dense: NDArray[np.bool_]
    """(rows, columns) tiles that are larger than the limit, or say nothing."""
    tile: tuple[int, int]
    """(width, height) of the tiles in px of the level."""
    level_mpp: float

    @classmethod
    def calibrated(cls, slide: Slide, mpp: float, tissue: TissueMask) -> GlassTest:
        """The test for windows that are read at ``mpp``, on the level that they are read from."""
        level = max((level for level in slide.levels if level.mpp <= mpp), key=lambda level: level.mpp)
        reader = slide.reader
        tile = reader.tile_size(level.index)
        none = cls(None, "", np.ones((0, 0), np.bool_), tile, level.mpp)
        if not isinstance(reader, TileReader):
            return none._off(f"the reader {reader.name} does not tell the sizes of tiles")
        if (codec := reader.codec(level.index)) not in VARIABLE_RATE:
            return none._off(f"the size of a tile of {codec} does not depend on what it shows")
        if tile[0] != tile[1]:
            return none._off("its tiles are not square")
        sizes = reader.tile_bytes(level.index)
        columns, rows = level.width // tile[0], level.height // tile[1]
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) * tile[0]
        share = tissue.unlimited().coverages(x, y, tile[0], level.mpp)
        whole = sizes[:rows, :columns].ravel()
        glass, dense = whole[share < 1e-9], whole[share >= SURELY_TISSUE]
        if min(len(glass), len(dense)) < FEWEST:
            return none._off(f"{len(glass)} tiles of glass and {len(dense)} of tissue, {FEWEST} are needed of each")
        limit, least = np.quantile(glass, GLASS_SHARE), np.quantile(dense, 1 - TISSUE_SHARE)
        groups = f"{len(glass)} tiles of glass up to {limit:.0f} bytes, {len(dense)} of tissue from {least:.0f} on"
        if least <= APART * limit:
            return none._off(f"glass and tissue are not clearly apart: {groups}")
        found = np.ones(sizes.shape, np.bool_)
        found[:rows, :columns] = sizes[:rows, :columns] > limit
        return cls(int(limit), groups, found, tile, level.mpp)

    def _off(self, why: str) -> GlassTest:
        return GlassTest(None, why, self.dense, self.tile, self.level_mpp)

    def is_glass(self, grid: TileGrid) -> NDArray[np.bool_]:
        """(N,) whether a window touches no tile but glass; none is where size does not tell."""
        if self.limit is None or not len(grid):
            return np.zeros(len(grid), np.bool_)
        rows, columns = self.dense.shape
        total = np.zeros((rows + 1, columns + 1), np.int64)
        total[1:, 1:] = self.dense.cumsum(0).cumsum(1)
        scale = grid.spec.mpp / self.level_mpp
        side = np.array(self.tile)
        # averaging to another lattice looks a pixel further
        reach = 0 if scale == 1 else 1
        low = np.floor((grid.corners * scale - reach) / side).astype(np.int64)
        high = np.ceil(((grid.corners + grid.spec.patch) * scale + reach) / side).astype(np.int64)
        (x0, y0), (x1, y1) = (np.clip(part, 0, (columns, rows)).T for part in (low, high))
        found: NDArray[np.bool_] = (total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]) == 0
        return found

    def info(self) -> dict[str, int | str | None]:
        """JSON-ready: limit and why."""
        return {"limit": self.limit, "why": self.why}
