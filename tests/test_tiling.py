"""The grid, its super-tiles and its batches, against slow references."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsikit.errors import ConfigError, ResolutionError
from wsikit.geometry import Region, TileSpec
from wsikit.slides import Slide
from wsikit.slides.array import array_slide
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

MPP = 0.5


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def blank(width: int, height: int) -> Slide:
    return array_slide(np.zeros((height, width, 3), np.uint8), MPP)


sides = st.integers(1, 90)
specs = st.integers(1, 40).flatmap(
    lambda core: st.builds(
        TileSpec,
        mpp=st.just(MPP),
        core=st.just(core),
        halo=st.integers(0, core // 2),
        phase=st.tuples(st.integers(-99, 99), st.integers(-99, 99)),
    )
)
# windows of a few pixels are many, and no predictor wants them
big_specs = specs.filter(lambda spec: spec.core >= 8)


@given(sides, sides, specs)
def test_cores_tile_the_slide_once(width: int, height: int, spec: TileSpec) -> None:
    seen = np.zeros((height, width), int)
    grid = TileGrid.cover(blank(width, height), spec)
    for index in range(len(grid)):
        core = grid.core(index)
        seen[max(0, core.y) : core.y1, max(0, core.x) : core.x1] += 1
    assert (seen == 1).all()


@given(sides, sides, specs, st.integers(1, 60))
def test_windows_lie_at_the_corners_of_the_grid(width: int, height: int, spec: TileSpec, stride: int) -> None:
    grid = TileGrid.cover(blank(width, height), replace(spec, stride=stride))
    for index, (x, y) in enumerate(grid.corners.tolist()):
        column, row = grid.cells[index].tolist()
        assert (x, y) == (spec.phase[0] + column * stride - spec.halo, spec.phase[1] + row * stride - spec.halo)
        assert grid[index] == Region(x, y, spec.patch, spec.patch, grid.spec.mpp)
        assert grid.core(index).padded(spec.halo) == grid[index]


@given(sides, sides, specs)
def test_every_core_touches_the_slide(width: int, height: int, spec: TileSpec) -> None:
    slide = blank(width, height)
    grid = TileGrid.cover(slide, spec)
    assert all(grid.core(index).intersection(slide.plane(MPP)) for index in range(len(grid)))


@given(sides, sides, specs)
def test_windows_come_row_by_row_with_their_halo(width: int, height: int, spec: TileSpec) -> None:
    grid = TileGrid.cover(blank(width, height), spec)
    assert [(r.y, r.x) for r in grid] == sorted((r.y, r.x) for r in grid)
    assert [grid.core(index).padded(spec.halo) for index in range(len(grid))] == list(grid)


@given(sides, sides, specs, st.integers(1, 120))
def test_supertiles_partition_the_grid(width: int, height: int, spec: TileSpec, side: int) -> None:
    grid = TileGrid.cover(blank(width, height), spec)
    cells = [tuple(cell) for part in grid.supertiles(side) for cell in part.cells.tolist()]
    assert sorted(cells) == sorted(map(tuple, grid.cells.tolist()))


@given(sides, sides, specs, st.integers(0, 80))
def test_cores_of_a_supertile_fit_its_side(width: int, height: int, spec: TileSpec, more: int) -> None:
    side = spec.core + more
    for part in TileGrid.cover(blank(width, height), spec).supertiles(side):
        extent = part.extent().padded(-spec.halo) if spec.halo else part.extent()
        assert extent.width <= side
        assert extent.height <= side


@given(sides, sides, specs, st.integers(1, 120))
def test_the_extent_holds_every_patch_tightly(width: int, height: int, spec: TileSpec, side: int) -> None:
    for part in TileGrid.cover(blank(width, height), spec).supertiles(side):
        xs, ys = [r.x for r in part], [r.y for r in part]
        tight = (min(xs), min(ys), max(r.x1 for r in part), max(r.y1 for r in part))
        extent = part.extent()
        assert (extent.x, extent.y, extent.x1, extent.y1) == tight


@given(sides, sides, big_specs, st.integers(1, 120))
def test_supertiles_keep_their_order(width: int, height: int, spec: TileSpec, side: int) -> None:
    slide = blank(width, height)
    one, two = (TileGrid.cover(slide, spec).supertiles(side) for _ in range(2))
    assert [part.cells.tolist() for part in one] == [part.cells.tolist() for part in two]


def test_supertiles_do_not_depend_on_the_windows_that_are_left_out() -> None:
    """A super-tile is a place on the lattice: what tissue there is elsewhere does not move its border."""
    grid = TileGrid.cover(blank(200, 200), TileSpec(MPP, 16, phase=(-5, 3)))
    whole = {tuple(cell): part.extent() for part in grid.supertiles(48) for cell in part.cells.tolist()}
    for part in grid[5::3].supertiles(48):
        extent = whole[tuple(part.cells[0].tolist())]
        assert all(region.intersection(extent) == region for region in part)


def test_a_supertile_smaller_than_a_core_is_one_core() -> None:
    grid = TileGrid.cover(blank(100, 60), TileSpec(MPP, 32, halo=4))
    assert [len(part) for part in grid.supertiles(1)] == [1] * len(grid)


def brute_share(mask: TissueMask, region: Region, size: tuple[int, int]) -> float:
    """Share that is tissue of what of a region lies on the slide, one mask pixel after another."""
    scale = region.mpp / mask.mpp
    (x0, x1), (y0, y1) = (
        (max(0, low) * scale, min(high, limit) * scale)
        for low, high, limit in zip((region.x, region.y), (region.x1, region.y1), size, strict=True)
    )
    area = math.fsum(
        max(0.0, min(x1, i + 1) - max(x0, i)) * max(0.0, min(y1, j + 1) - max(y0, j))
        for j, i in np.argwhere(mask.array).tolist()
    )
    return area / ((x1 - x0) * (y1 - y0))


@settings(max_examples=60)
@given(
    sides,
    sides,
    big_specs,
    st.sampled_from([MPP, 1.0, 2.0, 3.7, 8.0]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 99),
    st.floats(0, 1),
)
def test_cover_keeps_the_windows_that_hold_enough_tissue(
    width: int, height: int, spec: TileSpec, mask_mpp: float, least: float, seed: int, share: float
) -> None:
    slide = blank(width, height)
    columns, rows = slide.size_at(mask_mpp)
    mask = TissueMask(np.random.default_rng(seed).random((rows, columns)) < share, mask_mpp)
    spec = TileSpec(MPP, spec.core, spec.halo, least, spec.phase)
    everything = TileGrid.cover(slide, spec)
    shares = [brute_share(mask, everything.core(index), (width, height)) for index in range(len(everything))]
    # on the border itself rounding decides
    assume(all(abs(s - least) > 1e-6 for s in shares if 0 < s < 1))
    wanted = [region for region, s in zip(everything, shares, strict=True) if s > 0 and s >= least - 1e-9]
    assert list(TileGrid.cover(slide, spec, mask)) == wanted


def test_any_tissue_is_enough_by_default() -> None:
    array = np.zeros((16, 16), bool)
    array[8, 8] = True
    grid = TileGrid.cover(blank(256, 256), TileSpec(MPP, 64), TissueMask(array, 8.0))
    assert [grid.core(i) for i in range(len(grid))] == [Region(128, 128, 64, 64, MPP)]


def test_a_share_exactly_at_the_limit_is_enough() -> None:
    array = np.zeros((10, 10), bool)
    array[:, :3] = True
    slide = blank(100, 100)
    assert len(TileGrid.cover(slide, TileSpec(MPP, 100, min_tissue=0.3), TissueMask(array, 5.0))) == 1
    assert len(TileGrid.cover(slide, TileSpec(MPP, 100, min_tissue=0.301), TissueMask(array, 5.0))) == 0


@pytest.mark.parametrize(("width", "height"), [(40, 35), (250, 250), (300, 300), (257, 1000), (1000, 257)])
@pytest.mark.parametrize("least", [0.25, 1.0])
def test_tissue_up_to_the_edge_is_covered_at_any_share(width: int, height: int, least: float) -> None:
    slide = blank(width, height)
    spec = TileSpec(MPP, 256, halo=24, min_tissue=least, phase=(7, 3))
    grid = TileGrid.cover(slide, spec, TissueMask.whole(slide))
    assert list(grid) == list(TileGrid.cover(slide, spec))


def test_a_strip_at_the_edge_counts_by_what_of_it_is_tissue() -> None:
    array = np.zeros((100, 110), bool)
    array[:30, 100:] = True
    slide = blank(110, 100)
    cells = [TileGrid.cover(slide, TileSpec(MPP, 100, min_tissue=m), TissueMask(array, MPP)).cells for m in (0.3, 0.31)]
    assert [found.tolist() for found in cells] == [[[1, 0]], []]


def test_no_tissue_gives_an_empty_grid() -> None:
    slide = blank(100, 100)
    grid = TileGrid.cover(slide, TileSpec(MPP, 32), TissueMask(np.zeros((100, 100), bool), MPP))
    assert len(grid) == 0
    assert grid.supertiles() == []


def test_a_slice_of_a_grid_is_a_grid() -> None:
    grid = TileGrid.cover(blank(100, 100), TileSpec(MPP, 32, halo=3))
    assert list(grid[2:9:3]) == list(grid)[2:9:3]
    assert grid[-1] == list(grid)[-1]
    with pytest.raises(IndexError):
        grid[len(grid)]


def test_the_true_resolution_of_a_level_replaces_the_wish() -> None:
    slide = array_slide(noise(64, 64), 0.499)
    grid = TileGrid.cover(slide, TileSpec(0.5, 32))
    assert (grid.spec.mpp, grid[0].mpp, grid.size) == (0.499, 0.499, (64, 64))


def test_what_the_slide_does_not_hold_is_refused() -> None:
    with pytest.raises(ResolutionError, match="nothing finer"):
        TileGrid.cover(blank(64, 64), TileSpec(0.25, 32))


def test_a_supertile_without_a_side_is_refused() -> None:
    with pytest.raises(ConfigError, match="side"):
        TileGrid.cover(blank(64, 64), TileSpec(MPP, 32)).supertiles(0)
