"""Glass by the size of tiles: nothing that holds tissue is taken for it, and where sizes do not tell it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.slides.broken import picture, tiled
from wsikit.geometry import TileSpec
from wsikit.glass import APART, FEWEST, GlassTest
from wsikit.slides import Pixels, Slide, open_slide
from wsikit.slides.array import ArrayReader, array_slide
from wsikit.slides.pyramid import COLOURED
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask, find_tissue

MPP, TILE = 0.5, 32
GLASS, TISSUE = 100, 1000


class SizedReader(ArrayReader):
    """A file whose tiles have the sizes that a test says."""

    sizes_of_tiles: NDArray[np.int64]
    compression = "jpeg"

    def codec(self, level: int) -> str:
        return self.compression

    def tile_bytes(self, level: int) -> NDArray[np.int64]:
        return self.sizes_of_tiles

    def read_tile(self, level: int, column: int, row: int, out: Pixels) -> None:
        raise NotImplementedError

    def tile_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        raise NotImplementedError


def sized(sizes: NDArray[np.int64], *, more: int = 0) -> Slide:
    """A slide of such tiles; ``more`` px reach into a further row and column of cut tiles."""
    rows, columns = (side - (more > 0) for side in sizes.shape)
    reader = SizedReader([np.zeros((rows * TILE + more, columns * TILE + more, 3), np.uint8)], MPP, tile=(TILE, TILE))
    reader.sizes_of_tiles = sizes
    return Slide(reader)


def halves(rows: int = 10, columns: int = 20) -> NDArray[np.int64]:
    """Glass to the left, tissue to the right, with some spread."""
    spread = np.arange(rows * columns).reshape(rows, columns) % 10
    return np.where(np.arange(columns) < columns // 2, GLASS + spread, TISSUE + 10 * spread)


def mask(sizes: NDArray[np.int64], tissue: NDArray[np.bool_]) -> TissueMask:
    """One mask pixel per tile."""
    return TissueMask(tissue, MPP * TILE)


def test_windows_of_glass_inside_the_tissue_mask_are_found() -> None:
    """The mask fills a lumen; the tiles in it are as small as those of the glass outside."""
    sizes = halves()
    tissue = np.broadcast_to(np.arange(20) >= 10, sizes.shape)
    sizes[4:6, 14:16] = GLASS
    slide = sized(sizes)
    # a lumen of 4 of 100 tiles is more than what 99 of 100 allows, unless the mask leaves it out of what is sure
    seen = tissue.copy()
    seen[4:6, 14:16] = False
    test = GlassTest.calibrated(slide, MPP, mask(sizes, seen))
    assert test.limit is not None
    grid = TileGrid.cover(slide, TileSpec(MPP, TILE))
    found = test.is_glass(grid).reshape(10, 20)
    expected = sizes <= test.limit
    assert np.array_equal(found, expected)
    assert found[4:6, 14:16].all()
    assert not found[:, 10:14].any()


@pytest.mark.parametrize("offset", [0, 5, 31])
@pytest.mark.parametrize("size", [20, 32, 50])
def test_a_window_is_glass_only_where_every_tile_it_touches_is(offset: int, size: int) -> None:
    sizes = halves()
    slide = sized(sizes)
    test = GlassTest.calibrated(slide, MPP, mask(sizes, np.broadcast_to(np.arange(20) >= 10, sizes.shape)))
    assert test.limit is not None
    grid = TileGrid.cover(slide, TileSpec(MPP, size, phase=(offset, offset)))
    for glass, window in zip(test.is_glass(grid), grid, strict=True):
        columns = range(max(0, window.x // TILE), min(20, -(-window.x1 // TILE)))
        rows = range(max(0, window.y // TILE), min(10, -(-window.y1 // TILE)))
        assert glass == all(sizes[row, column] <= test.limit for row in rows for column in columns)


def test_a_window_that_is_resampled_looks_a_pixel_further() -> None:
    sizes = halves()
    slide = sized(sizes)
    test = GlassTest.calibrated(slide, 2 * MPP, mask(sizes, np.broadcast_to(np.arange(20) >= 10, sizes.shape)))
    grid = TileGrid.cover(slide, TileSpec(2 * MPP, TILE // 2))
    found = test.is_glass(grid).reshape(10, 20)
    # the last column of glass touches tissue by that pixel
    assert found[1:-1, 1:9].any()
    assert not found[:, 9:].any()


def test_tiles_past_the_edge_say_nothing() -> None:
    sizes = halves(11, 21)
    sizes[-1], sizes[:, -1] = 1, 1
    slide = sized(sizes, more=3)
    test = GlassTest.calibrated(slide, MPP, mask(sizes, np.broadcast_to(np.arange(21) >= 10, sizes.shape)))
    assert test.limit is not None
    found = test.is_glass(TileGrid.cover(slide, TileSpec(MPP, TILE))).reshape(11, 21)
    assert found[:10, :8].mean() > 0.8
    assert not found[10].any()
    assert not found[:, 20].any()


@pytest.mark.parametrize("codec", ["jpeg2000", "none"])
def test_codecs_of_fixed_rate_do_not_tell(codec: str) -> None:
    sizes = halves()
    slide = sized(sizes)
    slide.reader.compression = codec  # type: ignore[attr-defined]
    test = GlassTest.calibrated(slide, MPP, mask(sizes, np.broadcast_to(np.arange(20) >= 10, sizes.shape)))
    assert test.limit is None
    assert codec in test.why
    assert not test.is_glass(TileGrid.cover(slide, TileSpec(MPP, TILE))).any()


def test_groups_that_are_not_clearly_apart_do_not_tell() -> None:
    sizes = halves()
    tissue = np.broadcast_to(np.arange(20) >= 10, sizes.shape)
    sizes[:, 10:] = int(APART * (GLASS + 9))
    test = GlassTest.calibrated(sized(sizes), MPP, mask(sizes, tissue))
    assert (test.limit, "apart" in test.why) == (None, True)


def test_too_few_tiles_do_not_tell() -> None:
    sizes = halves()
    tissue = np.zeros(sizes.shape, bool)
    tissue.ravel()[100 : 100 + FEWEST - 1] = True
    test = GlassTest.calibrated(sized(sizes), MPP, mask(sizes, tissue))
    assert (test.limit, f"{FEWEST} are needed" in test.why) == (None, True)


def test_a_reader_without_tiles_does_not_tell() -> None:
    slide = array_slide(picture(), MPP)
    test = GlassTest.calibrated(slide, MPP, TissueMask.whole(slide))
    assert (test.limit, "array" in test.why) == (None, True)


@pytest.mark.parametrize("size", [64, 240, 512])
def test_what_is_taken_for_glass_on_real_slides_shows_none_of_the_tissue(size: int, cmu: Path, pyramid: Path) -> None:
    for path in (cmu, pyramid):
        with open_slide(path) as slide:
            tissue = find_tissue(slide)
            test = GlassTest.calibrated(slide, slide.mpp, tissue)
            assert test.limit is not None
            grid = TileGrid.cover(slide, TileSpec(slide.mpp, size))
            glass = test.is_glass(grid)
            coloured = [float((np.ptp(slide.read(window), axis=2) > COLOURED).mean()) for window in grid.where(glass)]
            # what the mask adds round tissue, to 64 px windows, is glass indeed
            assert max(coloured) < 0.05
            assert np.mean(coloured) < 0.002
            share = np.array([tissue.coverage(window) for window in grid])
            assert size < 240 or not (glass & (share >= 0.1)).any()
            assert glass[share == 0].mean() > 0.1


def test_a_planted_slide_loses_none_of_its_tissue(tmp_path: Path) -> None:
    """Whatever the quality: a rectangle of texture, all else clean, and a mask that takes everything for tissue."""
    pixels = np.full((1536, 1536, 3), 243, np.uint8)
    pixels[350:1200, 250:1250] = picture(1000, 850)
    planted = np.zeros((1536, 1536), bool)
    planted[350:1200, 250:1250] = True
    for quality in (80, 90, 97):
        path = tiled(tmp_path / f"{quality}.tif", [pixels], tile=(128, 128), compressionargs={"level": quality})
        with open_slide(path) as slide:
            tissue = TissueMask(planted, slide.mpp)
            test = GlassTest.calibrated(slide, slide.mpp, tissue)
            assert test.limit is not None
            for size in (40, 64, 150):
                grid = TileGrid.cover(slide, TileSpec(slide.mpp, size))
                lost = test.is_glass(grid)
                share = np.array([tissue.coverage(window) for window in grid])
                assert not (lost & (share > 0)).any()
                assert lost[share == 0].mean() > 0.3
