"""Exact limits, and the exact share of pixels that lies in polygons, against shapely pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.geometry import Region
from wsikit.limits import Limits
from wsikit.outlines import coverage

numbers = st.one_of(st.integers(-40, 300).map(lambda v: v / 10), st.integers(-4, 30).map(float))
places = st.tuples(numbers, numbers)


@st.composite
def polygons(draw: st.DrawFn) -> list[shapely.Polygon]:
    """Disjoint polygons, some with holes, many with corners and edges on the lines between pixels."""
    shape = shapely.union_all(
        [
            shapely.MultiPoint(draw(st.lists(places, min_size=3, max_size=6, unique=True))).convex_hull
            for _ in range(draw(st.integers(1, 3)))
        ]
    )
    shape = shape.difference(shapely.box(*draw(places), *draw(places)))
    return [part for part in shapely.get_parts(shape).tolist() if isinstance(part, shapely.Polygon)]


def array(shapes: list[shapely.Polygon]) -> np.ndarray:  # type: ignore[type-arg]
    found = np.empty(len(shapes), object)
    found[:] = shapes
    return found


@settings(max_examples=150)
@given(shapes=polygons(), x=st.integers(-5, 5), y=st.integers(-5, 5))
def test_the_share_of_every_pixel_is_the_area_that_shapely_finds(shapes: list[shapely.Polygon], x: int, y: int) -> None:
    region = Region(x, y, 21, 17, 1.0)
    rows, columns = np.mgrid[region.y : region.y1, region.x : region.x1]
    cells = shapely.box(columns, rows, columns + 1, rows + 1)
    wanted = shapely.area(shapely.intersection(cells, shapely.union_all(array(shapes))))
    assert coverage(array(shapes), region) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=80)
@given(shapes=polygons().filter(bool), scale=st.sampled_from([0.5, 1.0, 1.7]), seed=st.integers(0, 99))
def test_points_are_inside_where_shapely_says_so(shapes: list[shapely.Polygon], scale: float, seed: int) -> None:
    limits = Limits(array(shapes), 0.25)
    x, y = np.random.default_rng(seed).uniform(-5, 32, (2, 200))
    wanted = np.any([shapely.intersects_xy(shape, x, y) for shape in shapes], axis=0)
    assert np.array_equal(limits.contains(x / scale, y / scale, 0.25 * scale), wanted)


def test_boxes_that_only_share_an_edge_do_not_touch() -> None:
    limits = Limits(array([shapely.box(10, 10, 20, 20)]), 0.5)
    boxes = np.array([[0, 0, 10, 10], [20, 10, 30, 20], [19, 19, 30, 30], [12, 12, 13, 13], [0, 0, 90, 90]], float)
    assert limits.touches(boxes, 0.5).tolist() == [False, False, True, True, True]
    assert limits.touches(boxes / 2, 1.0).tolist() == [False, False, True, True, True]


def test_overlapping_polygons_count_once() -> None:
    limits = Limits(array([shapely.box(0, 0, 4, 4), shapely.box(2, 0, 6, 4)]), 0.5)
    region = Region(0, 0, 8, 4, 0.5)
    assert limits.shares(region).sum() == pytest.approx(24)
    assert limits.sample(region).sum() == 24


def test_a_hole_covered_by_another_polygon_is_inside() -> None:
    ring = shapely.box(0, 0, 8, 8).difference(shapely.box(2, 2, 6, 6))
    limits = Limits(array([ring, shapely.box(1, 1, 7, 7)]), 0.5)
    assert limits.sample(Region(0, 0, 8, 8, 0.5)).all()


@pytest.mark.parametrize("far", [1e6, 1e9])
def test_areas_may_reach_far_beyond_the_slide(far: float) -> None:
    wedge = shapely.Polygon([(-far, -far), (far, -far), (far, far)])
    shares = Limits(np.array([wedge], object), 0.5).shares(Region(0, 0, 4, 3, 1.0))
    rows, columns = np.mgrid[0:3, 0:4]
    assert shares == pytest.approx(np.where(columns > rows, 1, np.where(columns == rows, 0.5, 0)), abs=1e-3)
