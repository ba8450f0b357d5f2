"""Painting polygons into masks, against a slow reference."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wsikit.geometry import Region
from wsikit.outlines import outlines
from wsikit.stitching.raster import pixels

REGION = Region(3, -2, 40, 30, 0.5)


def painted(shapes: list[shapely.Polygon], region: Region = REGION) -> np.ndarray:  # type: ignore[type-arg]
    mask = np.zeros((region.height, region.width), np.int64)
    rows, columns, owner = pixels(np.array([None, *shapes], object)[1:], region)
    mask[rows, columns] = owner + 1
    return mask


@given(
    corners=st.lists(
        st.lists(st.tuples(st.floats(-10, 50), st.floats(-10, 40)), min_size=3, max_size=7), min_size=1, max_size=5
    )
)
def test_pixels_are_those_whose_centres_lie_inside(corners: list[list[tuple[float, float]]]) -> None:
    shapes = [shape for points in corners if (shape := shapely.MultiPoint(points).convex_hull).area > 1e-3]
    mask = painted(shapes)
    for row in range(REGION.height):
        for column in range(REGION.width):
            centre = shapely.Point(REGION.x + column + 0.5, REGION.y + row + 0.5)
            if any(shape.exterior.distance(centre) < 1e-6 for shape in shapes):
                continue  # on an outline either answer is right
            inside = [k for k, shape in enumerate(shapes, 1) if shape.contains(centre)]
            assert mask[row, column] == (inside[-1] if inside else 0)


def test_holes_stay_empty() -> None:
    ring = shapely.Polygon(shapely.box(5, 5, 25, 20).exterior, [shapely.box(10, 8, 15, 15).exterior])
    assert painted([ring]).sum() == 20 * 15 - 5 * 7


@given(seed=st.integers(0, 10_000))
def test_exact_outlines_paint_back_the_labels_that_they_came_from(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((30, 40)), 1.2)
    labels, _ = ndimage.label(noise > 0.52)
    ids, shapes = outlines(labels, tolerance=0)
    region = Region(0, 0, 40, 30, 0.5)
    back = painted(list(shapes), region)
    back[back > 0] = ids[back[back > 0] - 1]
    assert np.array_equal(back, labels)


def test_nothing_to_paint_is_no_pixel() -> None:
    assert all(len(column) == 0 for column in pixels(np.empty(0, object), REGION))
