"""Regions and tile recipes: integer arithmetic on lattices."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.errors import ConfigError
from wsikit.geometry import Region, TileSpec

SIDE = 40
places = st.integers(0, SIDE - 1)
sizes = st.integers(1, SIDE)
regions = st.builds(Region, places, places, sizes, sizes, st.just(0.5))


@dataclass
class Slide:
    mpp: float


def painted(region: Region) -> np.ndarray:
    """The pixels of a region in a plane that holds it and all others here."""
    plane = np.zeros((2 * SIDE, 2 * SIDE), bool)
    plane[region.y : region.y + region.height, region.x : region.x + region.width] = True
    return plane


@given(regions, regions)
def test_intersection_is_what_both_cover(one: Region, two: Region) -> None:
    common = one.intersection(two)
    both = painted(one) & painted(two)
    assert (common is None) == (not both.any())
    if common is not None:
        assert (painted(common) == both).all()


def test_different_lattices_do_not_intersect() -> None:
    with pytest.raises(ConfigError, match=r"mpp 0\.5 and 0\.25"):
        Region(0, 0, 4, 4, 0.5).intersection(Region(0, 0, 4, 4, 0.25))


@given(regions, st.integers(0, 20))
def test_slices_cut_the_region_out_of_one_that_holds_it(region: Region, margin: int) -> None:
    outer = region.padded(margin)
    y, x = np.mgrid[outer.y : outer.y1, outer.x : outer.x1]
    rows, columns = region.slices(outer)
    assert (y[rows, columns] == np.arange(region.y, region.y1)[:, None]).all()
    assert (x[rows, columns] == np.arange(region.x, region.x1)).all()


@given(regions, st.integers(0, 9))
def test_padding_there_and_back_changes_nothing(region: Region, margin: int) -> None:
    assert region.padded(margin).padded(-margin) == region


def test_a_region_cannot_shrink_to_nothing() -> None:
    with pytest.raises(ConfigError, match="at least 1 px"):
        Region(0, 0, 4, 9, 0.5).padded(-2)


def test_level0_scales_by_the_ratio_of_resolutions() -> None:
    assert Region(-2, 3, 10, 20, 1.0).level0(Slide(0.25)) == (-8.0, 12.0, 32.0, 92.0)


@given(st.integers(-50, 50), st.integers(1, 64), st.floats(0.1, 8), st.floats(0.1, 8))
def test_neighbours_share_their_level0_edge_exactly(column: int, core: int, mpp: float, slide_mpp: float) -> None:
    spec, slide = TileSpec(mpp, core), Slide(slide_mpp)
    left, right = spec.core_region(column, 0).level0(slide), spec.core_region(column + 1, 0).level0(slide)
    assert left[2] == right[0]


@pytest.mark.parametrize(
    ("width", "height", "mpp"),
    [(0, 4, 1.0), (4, 0, 1.0), (-3, 4, 1.0), (4, 4, 0.0), (4, 4, math.nan), (4, 4, math.inf)],
)
def test_an_impossible_region_is_refused(width: int, height: int, mpp: float) -> None:
    with pytest.raises(ConfigError, match="Region needs"):
        Region(0, 0, width, height, mpp)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": math.nan}, "mpp"),
        ({"mpp": math.inf}, "mpp"),
        ({"core": 0}, "core"),
        ({"halo": -1}, "halo"),
        ({"core": 64, "halo": 33}, "half the core"),
        ({"min_tissue": 1.01}, "min_tissue"),
        ({"min_tissue": -0.01}, "min_tissue"),
        ({"min_tissue": math.nan}, "min_tissue"),
    ],
)
def test_an_impossible_recipe_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TileSpec(**{"mpp": 0.5, "core": 64, **wrong})  # type: ignore[arg-type]


specs = st.integers(1, 32).flatmap(
    lambda core: st.builds(
        TileSpec,
        mpp=st.just(0.5),
        core=st.just(core),
        halo=st.integers(0, core // 2),
        phase=st.tuples(st.integers(-99, 99), st.integers(-99, 99)),
    )
)


@given(specs, st.integers(-9, 9), st.integers(-9, 9))
def test_a_patch_is_its_core_and_a_halo_on_every_side(spec: TileSpec, column: int, row: int) -> None:
    core, patch = spec.core_region(column, row), spec.patch_region(column, row)
    assert (patch.width, patch.height) == (spec.patch, spec.patch)
    assert (core.x - patch.x, core.y - patch.y, patch.x1 - core.x1, patch.y1 - core.y1) == (spec.halo,) * 4


@given(specs, st.integers(-9, 9), st.integers(-9, 9))
def test_cores_follow_each_other_without_gap(spec: TileSpec, column: int, row: int) -> None:
    core = spec.core_region(column, row)
    assert spec.core_region(column + 1, row).x == core.x1
    assert spec.core_region(column, row + 1).y == core.y1


@given(specs)
def test_a_pixel_lies_in_four_patches_at_most(spec: TileSpec) -> None:
    columns = [spec.patch_region(column, 0) for column in range(4)]
    seen = np.zeros(4 * spec.core + 2 * spec.halo, int)
    for patch in columns:
        start = patch.x - columns[0].x
        seen[start : start + patch.width] += 1
    assert seen.max() <= 2


@given(specs)
def test_another_resolution_keeps_the_pixels(spec: TileSpec) -> None:
    other = spec.at(0.25)
    assert (other.mpp, other.patch_region(2, 3).width, other.phase) == (0.25, spec.patch, spec.phase)
    assert other.at(spec.mpp) == spec


@given(regions)
def test_regions_pickle_and_hash(region: Region) -> None:
    assert {pickle.loads(pickle.dumps(region))} == {region}
