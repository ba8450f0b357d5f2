"""Outlines against slow, independent references."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from wsikit.outlines import largest_parts, moments, outlines

label_images = hnp.arrays(
    np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3), fill=st.nothing()
)


def reference_polygon(mask: NDArray[np.bool_]) -> shapely.Polygon:
    """The even-odd sum of marching-squares contours of one 4-connected object."""
    rings = find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="low")
    polygon = shapely.Polygon()
    for ring in rings:
        polygon = polygon.symmetric_difference(shapely.Polygon(ring[:, ::-1] - 0.5))
    return polygon


def blobs(seed: int = 3, size: int = 160) -> NDArray[np.int32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((size, size)), 3)
    labels: NDArray[np.int32] = ndimage.label(noise > np.quantile(noise, 0.6))[0]
    return labels


def parts_by_hand(labels: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for label in np.unique(labels[labels > 0]):
        parts, count = ndimage.label(labels == label)
        sizes = [int((parts == k).sum()) for k in range(1, count + 1)]
        yield int(label), parts == 1 + sizes.index(max(sizes))


@settings(max_examples=150, deadline=None)
@given(label_images)
def test_outline_equals_marching_squares(labels: NDArray[np.int32]) -> None:
    ids, polygons = outlines(labels, tolerance=0)
    expected = list(parts_by_hand(labels))
    assert ids.tolist() == [label for label, _ in expected]
    for polygon, (_, mask) in zip(polygons, expected, strict=True):
        assert polygon.symmetric_difference(reference_polygon(mask)).area == 0


@settings(max_examples=150, deadline=None)
@given(label_images, st.sampled_from([0.0, 0.5, 1.5]))
def test_polygons_are_valid_and_not_empty(labels: NDArray[np.int32], tolerance: float) -> None:
    _, polygons = outlines(labels, tolerance)
    assert shapely.is_valid(polygons).all()
    assert not shapely.is_empty(polygons).any()
    assert all(polygon.geom_type == "Polygon" for polygon in polygons)


@settings(max_examples=100, deadline=None)
@given(label_images)
def test_neighbours_never_overlap(labels: NDArray[np.int32]) -> None:
    _, polygons = outlines(labels, tolerance=0)
    assert shapely.area(polygons).sum() == pytest.approx(shapely.union_all(polygons).area, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(label_images, st.integers(0, 9), st.integers(0, 9), st.integers(0, 2000))
def test_moving_an_image_moves_the_coordinates_exactly(labels: NDArray[np.int32], x: int, y: int, far: int) -> None:
    _, here = outlines(labels)
    _, there = outlines(np.pad(labels, ((y, 0), (x + far, 3))))
    shift = (x + far, y)
    assert [p.wkb for p in there] == [shapely.transform(p, lambda xy: xy + shift).wkb for p in here]


def test_one_pixel_is_a_diamond_between_its_edge_midpoints() -> None:
    ids, polygons = outlines(np.pad(np.ones((1, 1), np.int32), ((2, 0), (1, 0))))
    assert ids.tolist() == [1]
    assert polygons[0].equals(shapely.Polygon([(1.5, 2), (2, 2.5), (1.5, 3), (1, 2.5)]))


def test_holes_are_kept() -> None:
    ring = np.ones((7, 7), np.int32)
    ring[2:5, 2:5] = 0
    _, polygons = outlines(ring, tolerance=0)
    assert len(polygons[0].interiors) == 1
    assert polygons[0].area == reference_polygon(ring > 0).area


def test_an_object_in_the_hole_of_another_stays_apart() -> None:
    labels = np.full((9, 9), 2, np.int32)
    labels[2:7, 2:7] = 0
    labels[4, 4] = 1
    ids, polygons = outlines(labels, tolerance=0)
    assert ids.tolist() == [1, 2]
    assert not polygons[1].intersects(polygons[0])


def test_only_the_largest_part_is_outlined() -> None:
    labels = np.zeros((8, 12), np.int32)
    labels[1:3, 1:3] = 1
    labels[3:7, 3:8] = 1  # touches the first part at a corner only
    _, polygons = outlines(labels, tolerance=0)
    assert polygons[0].bounds == (3, 3, 8, 7)


def test_no_vertex_lies_on_a_straight_line() -> None:
    _, polygons = outlines(np.ones((4, 30), np.int32), tolerance=0)
    assert shapely.get_num_coordinates(polygons[0]) == 9


def test_simplification_stays_within_its_tolerance() -> None:
    labels = blobs()
    _, exact = outlines(labels, tolerance=0)
    _, simple = outlines(labels, tolerance=0.5)
    assert shapely.get_num_coordinates(simple).sum() < 0.8 * shapely.get_num_coordinates(exact).sum()
    assert shapely.hausdorff_distance(exact, simple).max() <= 0.5 + 1e-9


def test_an_empty_image_has_no_outlines() -> None:
    ids, polygons = outlines(np.zeros((5, 4), np.int32))
    assert (len(ids), len(polygons)) == (0, 0)


@given(label_images)
def test_largest_parts_equal_the_slow_way(labels: NDArray[np.int32]) -> None:
    expected = np.zeros_like(labels)
    for label, mask in parts_by_hand(labels):
        expected[mask] = label
    np.testing.assert_array_equal(largest_parts(labels), expected)


@given(label_images)
def test_moments_equal_sums_over_pixels(labels: NDArray[np.int32]) -> None:
    found = moments(labels, 3)
    assert found.dtype == np.int64
    for label in (1, 2, 3):
        y, x = np.nonzero(labels == label)
        assert found[label - 1].tolist() == [x.sum(), y.sum(), len(x)]
