"""Voronoi label: nearest seeds as brute force has them, edges that cut cells apart, tiles that agree with the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

pytest.importorskip("torch")

from tests.methods.planted_points import scene
from wsikit.errors import ConfigError
from wsikit.methods.points import distance as distances
from wsikit.methods.points.distance import nearest_point
from wsikit.methods.points.voronoi import BACKGROUND, IGNORED, NUCLEUS, voronoi_label

SHAPE = (33, 41)
halves = st.integers(-10, 100).map(lambda v: v / 2)
"""So that ties, coincident and collinear points are common."""


def brute_owner(points: NDArray[np.float64], shape: tuple[int, int], reach: float = np.inf) -> NDArray[np.int64]:
    """Index of the nearest point; of equal ones the leftmost, then the uppermost, then the first."""
    order = sorted(range(len(points)), key=lambda k: (*points[k], k))
    owner = np.full(shape, -1)
    for row, column in np.ndindex(*shape):
        best = reach + 1e-12
        for k in order:
            apart = np.hypot(points[k][0] - column - 0.5, points[k][1] - row - 0.5)
            if apart < best - (1e-9 if owner[row, column] >= 0 else 0):
                best, owner[row, column] = apart, k
    return owner


def some_points(seed: int, n: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, shape[::-1], (n, 2))


@given(st.lists(st.tuples(halves, halves), max_size=7), st.sampled_from([np.inf, 9.0]))
@settings(deadline=None, max_examples=60)
def test_the_nearest_point_is_that_of_all_pairs(points: list[tuple[float, float]], reach: float) -> None:
    there = np.array(points).reshape(-1, 2)
    np.testing.assert_array_equal(nearest_point(there, (13, 19), reach=reach), brute_owner(there, (13, 19), reach))


@given(st.lists(st.tuples(halves, halves), min_size=1, max_size=7), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_points_does_not_matter(points: list[tuple[float, float]], random: object) -> None:
    mixed = list(points)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(voronoi_label(np.array(points), SHAPE), voronoi_label(np.array(mixed), SHAPE))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    points = some_points(0, 9)
    whole = nearest_point(points, SHAPE)
    monkeypatch.setattr(distances, "BLOCK", 100)
    np.testing.assert_array_equal(nearest_point(points, SHAPE), whole)


@given(st.lists(st.tuples(halves, halves), min_size=2, max_size=8))
@settings(deadline=None, max_examples=60)
def test_edges_part_the_cells_and_nothing_else(points: list[tuple[float, float]]) -> None:
    there = np.array(points)
    label, owner = voronoi_label(there, SHAPE, disc_px=0), nearest_point(there, SHAPE)
    inside, count = ndimage.label(label != BACKGROUND, np.ones((3, 3)))
    # whatever is connected has one owner, even across corners
    assert all(len(np.unique(owner[inside == part])) == 1 for part in range(1, count + 1))
    # and an edge has a neighbour of another owner, be it outside the image
    wide = nearest_point(there, (SHAPE[0] + 2, SHAPE[1] + 2), origin=(-1, -1))
    other = ndimage.maximum_filter(wide, 3) != ndimage.minimum_filter(wide, 3)
    assert not (label == BACKGROUND)[~other[1:-1, 1:-1]].any()


def test_an_edge_between_two_points_is_one_pixel_wide_and_between_them() -> None:
    label = voronoi_label(np.array([[10.5, 8.5], [21.5, 8.5]]), (17, 32))
    rows, columns = np.nonzero(label == BACKGROUND)
    np.testing.assert_array_equal(rows, np.arange(17))
    # the bisector is x = 16, between columns 15 and 16
    assert set(columns) == {15}


@pytest.mark.parametrize("place", [(16.5, 20.5), (16.2, 20.9)])
@pytest.mark.parametrize("times", [1, 3])
def test_one_point_or_coincident_ones_have_a_disc_and_no_edge(place: tuple[float, float], times: int) -> None:
    label = voronoi_label(np.array([place] * times), SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    disc = np.hypot(x - place[0], y - place[1]) <= 2
    np.testing.assert_array_equal(label, np.where(disc, NUCLEUS, IGNORED))
    assert label.dtype == np.uint8


def test_coincident_points_beside_another_have_one_cell() -> None:
    two = np.array([[8.0, 9.0], [30.0, 21.0]])
    np.testing.assert_array_equal(voronoi_label(two[[0, 1, 0, 1, 1]], SHAPE), voronoi_label(two, SHAPE))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("step", [(6.0, 0.0), (0.0, 5.0), (5.0, 5.0)])
def test_collinear_points_have_parallel_cells(n: int, step: tuple[float, float]) -> None:
    points = np.array([(6.25, 6.25)]) + np.arange(n)[:, None] * np.array(step)
    label = voronoi_label(points, SHAPE, disc_px=0)
    _, count = ndimage.label(label == IGNORED, np.ones((3, 3)))
    assert count == n


def test_no_points_say_nothing() -> None:
    assert (voronoi_label(np.zeros((0, 2)), SHAPE) == IGNORED).all()


def test_nucleus_wins_where_points_are_closer_than_their_discs() -> None:
    points = np.array([[15.5, 16.5], [18.5, 16.5]])
    label = voronoi_label(points, SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    near = np.min([np.hypot(x - u, y - v) for u, v in points], axis=0)
    np.testing.assert_array_equal(label == NUCLEUS, near <= 2)


def cut(
    points: NDArray[np.float64], box: tuple[int, int, int, int], halo: float, **options: float
) -> NDArray[np.uint8]:
    """Label of the tile x0, y0, x1, y1, from the points within a halo of it."""
    x0, y0, x1, y1 = box
    near = ((points >= (x0 - halo, y0 - halo)) & (points <= (x1 + halo, y1 + halo))).all(axis=1)
    return voronoi_label(points[near] - (x0, y0), (y1 - y0, x1 - x0), **options)


def tiled(points: NDArray[np.float64], side: int, tile: int, halo: float, **options: float) -> NDArray[np.uint8]:
    label = np.zeros((side, side), np.uint8)
    for x, y in itertools.product(range(0, side, tile), repeat=2):
        label[y : y + tile, x : x + tile] = cut(points, (x, y, x + tile, y + tile), halo, **options)
    return label


def gap(points: NDArray[np.float64], side: int) -> float:
    """The distance of that pixel to its nearest point which is farthest from any."""
    y, x = np.mgrid[:side, :side] + 0.5
    return float(np.min([np.hypot(x - u, y - v) for u, v in points], axis=0).max())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("whole_pixels", [False, True])
def test_tiles_with_a_halo_of_the_widest_gap_agree_with_the_whole(seed: int, whole_pixels: bool) -> None:
    points = some_points(seed, 25, (96, 96))
    points = np.floor(points) + 0.5 if whole_pixels else points
    whole = voronoi_label(points, (96, 96))
    np.testing.assert_array_equal(tiled(points, 96, 24, gap(points, 96) + 2), whole)


@pytest.mark.parametrize("seed", range(5))
def test_with_a_reach_its_halo_is_enough_however_few_points_there_are(seed: int) -> None:
    points = some_points(seed, 4, (96, 96))
    whole = voronoi_label(points, (96, 96), reach_px=12)
    np.testing.assert_array_equal(tiled(points, 96, 24, 14, reach_px=12), whole)


def test_without_a_halo_tiles_do_not_agree() -> None:
    points = some_points(1, 25, (96, 96))
    assert (tiled(points, 96, 24, 0) != voronoi_label(points, (96, 96))).any()


@pytest.mark.parametrize("seed", range(4))
def test_cells_end_at_the_reach_without_an_edge(seed: int) -> None:
    points = some_points(seed, 6)
    near, far = voronoi_label(points, SHAPE, reach_px=9), voronoi_label(points, SHAPE)
    assert ((near == far) | (near == IGNORED)).all()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    apart = np.min([np.hypot(x - u, y - v) for u, v in points], axis=0)
    assert (near[apart > 9] == IGNORED).all()
    # a neighbour may be out of reach where its pixel is at it
    np.testing.assert_array_equal(near[apart < 7.5], far[apart < 7.5])


@pytest.mark.parametrize("seed", range(5))
def test_edges_hardly_touch_separated_nuclei(seed: int) -> None:
    planted = scene(seed, nuclei=14, gap=3)
    label = voronoi_label(planted.points, planted.labels.shape)
    nucleus = planted.labels > 0
    assert len(planted.points) >= 10
    assert (label == BACKGROUND)[nucleus].mean() < 0.02
    assert nucleus[label == NUCLEUS].all()


@pytest.mark.parametrize("option", ["disc_px", "reach_px"])
def test_negative_lengths_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        voronoi_label(some_points(0, 3), SHAPE, **{option: -1.0})  # type: ignore[arg-type]
