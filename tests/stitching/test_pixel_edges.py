"""Polygons along pixel edges, against the pixels that they were traced from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.measure import label

from wsikit.geometry import Region
from wsikit.outlines import pixels
from wsikit.stitching import edges
from wsikit.stitching.edges import EdgeTracer
from wsikit.stitching.raster import blocks

maps = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)).flatmap(
    lambda size: arrays(np.uint8, size[:2], elements=st.integers(0, size[2]))
)
"""Of up to three classes and nothing: so small that areas meet by corners, hold holes and reach every border."""


def numbered(classes: NDArray[Any]) -> NDArray[np.int32]:
    return label(classes, background=0, connectivity=1).astype(np.int32)


def traced(areas: NDArray[np.int32], side: int = 100) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    height, width = areas.shape
    tracer = EdgeTracer(width, height)
    for region in blocks(Region(0, 0, width, height, 1.0), side):
        part = areas[region.y : region.y1, region.x : region.x1]
        tracer.add(region, part if part.any() else None)
    return tracer.polygons()


@given(maps)
def test_polygons_hold_the_pixels_of_their_areas_and_no_others(classes: NDArray[np.uint8]) -> None:
    areas = numbered(classes)
    numbers, polygons = traced(areas)
    back = np.zeros_like(areas)
    rows, columns, owner = pixels(polygons, Region(0, 0, areas.shape[1], areas.shape[0], 1.0))
    back[rows, columns] = numbers[owner]
    assert np.array_equal(back, areas)
    assert shapely.area(polygons).tolist() == np.bincount(areas.ravel())[1:].tolist()


@given(maps)
def test_polygons_are_valid_and_share_the_corners_of_their_edges(classes: NDArray[np.uint8]) -> None:
    _, polygons = traced(numbered(classes))
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)


@given(maps, st.integers(1, 12))
def test_polygons_do_not_depend_on_the_blocks(classes: NDArray[np.uint8], side: int) -> None:
    areas = numbered(classes)
    (one, whole), (two, parts) = traced(areas), traced(areas, side)
    assert one.tolist() == two.tolist()
    assert shapely.to_wkb(whole).tolist() == shapely.to_wkb(parts).tolist()


@pytest.mark.parametrize("walked", [1, 9, 40])
def test_areas_walked_some_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch, walked: int) -> None:
    areas = numbered(np.random.default_rng(walked).integers(0, 3, (20, 25)))
    (one, whole) = traced(areas)
    monkeypatch.setattr(edges, "WALKED", walked)
    (two, parts) = traced(areas)
    assert one.tolist() == two.tolist()
    assert shapely.to_wkb(whole).tolist() == shapely.to_wkb(parts).tolist()


def test_an_area_that_meets_itself_by_a_corner_has_a_hole_there() -> None:
    areas = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.int32)
    _, (polygon,) = traced(areas)
    assert [list(ring.coords)[:-1] for ring in polygon.interiors] == [[(1, 1), (1, 2), (2, 2), (2, 1)]]
    assert (2, 2) in list(polygon.exterior.coords)


def test_areas_that_meet_by_a_corner_stay_apart() -> None:
    _, polygons = traced(np.array([[1, 0], [0, 2]], np.int32))
    assert [polygon.area for polygon in polygons] == [1, 1]
    assert polygons[0].touches(polygons[1])


def test_corners_lie_where_edges_turn_or_meet_and_nowhere_else() -> None:
    areas = np.ones((20, 30), np.int32)
    areas[:, 10:] = 2
    areas[12:, 10:] = 3
    _, polygons = traced(areas, side=7)
    assert shapely.get_num_coordinates(polygons).tolist() == [6, 5, 5]  # the first has one where the others meet


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_an_area_that_is_the_whole_image_is_its_frame(shape: tuple[int, int]) -> None:
    _, (polygon,) = traced(np.ones(shape, np.int32), side=4)
    assert polygon.equals(shapely.box(0, 0, shape[1], shape[0]))
    assert shapely.get_num_coordinates(polygon) == 5
