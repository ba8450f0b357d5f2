"""Matching of points: by hand, against an exhaustive search, and at scale."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from wsikit.errors import ConfigError
from wsikit.metrics import match_points
from wsikit.metrics.assignment import assign

Points = NDArray[np.float64]


def on_a_line(*x: float) -> Points:
    return np.array([(value, 0.0) for value in x]).reshape(-1, 2)


def exhaustive(truth: Points, found: Points, radius: float) -> tuple[int, float]:
    """Most pairs, and their least total distance, over every way to pair; slow."""
    if not len(truth):
        return 0, 0.0
    options = [exhaustive(truth[1:], found, radius)]
    for k in range(len(found)):
        distance = float(np.hypot(*(truth[0] - found[k])))
        if distance <= radius:
            pairs, total = exhaustive(truth[1:], np.delete(found, k, axis=0), radius)
            options.append((pairs + 1, total + distance))
    return max(options, key=lambda option: (option[0], -option[1]))


def test_by_hand() -> None:
    # true at 0, 5, 20; found at 4, 9.5, 30, 40; radius 5. Nearest first would pair 5 with 4 and leave 0 and 9.5 alone.
    # The most pairs: 0-4 (distance 4) and 5-9.5 (4.5). TP 2, FP 2, FN 1: F1 = 4 / 7, precision 2 / 4, recall 2 / 3.
    match = match_points(on_a_line(0, 5, 20), on_a_line(4, 9.5, 30, 40), radius=5)
    assert match.pairs.tolist() == [[0, 0], [1, 1]]
    assert match.distances.tolist() == [4.0, 4.5]
    assert (match.f1.value, match.precision.value, match.recall.value) == (4 / 7, 2 / 4, 2 / 3)


def test_of_as_many_pairs_the_shortest_in_total_are_made() -> None:
    # true 0 and 3, found 1 and 4: 0-1, 3-4 take 2 in total; 0-4, 3-1 would take 6
    assert match_points(on_a_line(0, 3), on_a_line(4, 1), radius=5).pairs.tolist() == [[0, 1], [1, 0]]


def test_the_radius_is_inclusive_and_a_point_is_used_once() -> None:
    assert len(match_points(on_a_line(0), on_a_line(6), radius=6).pairs) == 1
    assert len(match_points(on_a_line(0), on_a_line(6.001), radius=6).pairs) == 0
    assert len(match_points(on_a_line(0, 0, 0), on_a_line(0, 0), radius=6).pairs) == 2


@pytest.mark.parametrize(("truth", "found", "f1"), [(0, 0, 1.0), (3, 0, 0.0), (0, 3, 0.0)])
def test_empty_sides(truth: int, found: int, f1: float) -> None:
    match = match_points(on_a_line(*range(truth)), on_a_line(*range(found)), radius=6)
    assert match.f1.value == f1
    assert np.isnan(match.precision.value) == (found == 0)
    assert np.isnan(match.recall.value) == (truth == 0)


coordinates = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6)


@given(coordinates, coordinates, st.sampled_from([1.0, 2.0, 3.5]))
def test_against_an_exhaustive_search(
    truth: list[tuple[int, int]], found: list[tuple[int, int]], radius: float
) -> None:
    a, b = np.array(truth, float).reshape(-1, 2), np.array(found, float).reshape(-1, 2)
    match = match_points(a, b, radius=radius)
    pairs, total = exhaustive(a, b, radius)
    assert len(match.pairs) == pairs
    assert match.distances.sum() == pytest.approx(total)
    assert np.allclose(np.hypot(*(a[match.pairs[:, 0]] - b[match.pairs[:, 1]]).T), match.distances)
    assert len(set(match.pairs[:, 0].tolist())) == len(set(match.pairs[:, 1].tolist())) == pairs


@pytest.mark.parametrize("seed", range(5))
def test_against_a_dense_assignment(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, found = random.random((700, 2)) * 150, random.random((600, 2)) * 150
    distance = np.hypot(*(truth[:, None] - found[None]).transpose(2, 0, 1))
    rows, columns = linear_sum_assignment(np.where(distance <= 6, distance, 1e6))
    kept = distance[rows, columns] <= 6
    match = match_points(truth, found, radius=6)
    assert len(match.pairs) == kept.sum()
    assert match.distances.sum() == pytest.approx(distance[rows, columns][kept].sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_points_and_the_sides_do_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, found = random.random((400, 2)) * 100, random.random((300, 2)) * 100
    match = match_points(truth, found, radius=6)
    shuffled = match_points(random.permutation(truth), random.permutation(found), radius=6)
    swapped = match_points(found, truth, radius=6)
    assert len(match.pairs) == len(shuffled.pairs) == len(swapped.pairs)
    assert match.distances.sum() == pytest.approx(shuffled.distances.sum())
    assert match.distances.sum() == pytest.approx(swapped.distances.sum())


def test_a_hundred_thousand_points_take_seconds() -> None:
    random = np.random.default_rng(0)
    # 10 um apart on average, as in dense tissue; four fifths found within 2 um, and as many false ones as a quarter
    truth = random.random((100_000, 2)) * 3162
    found = np.concatenate([truth[:80_000] + random.normal(0, 2, (80_000, 2)), random.random((25_000, 2)) * 3162])
    started = time.process_time()
    match = match_points(truth, found, radius=6)
    assert time.process_time() - started < 15
    assert len(match.pairs) > 80_000


@pytest.mark.parametrize("radius", [0, -1, np.nan])
def test_a_radius_that_is_none_is_refused(radius: float) -> None:
    with pytest.raises(ConfigError, match="radius"):
        match_points(on_a_line(0), on_a_line(0), radius=radius)


def test_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"found points must have shape \(N, 2\)"):
        match_points(on_a_line(0), np.zeros(4), radius=1)


@pytest.mark.parametrize("cost", [np.array([-1.0]), np.array([np.inf])])
def test_costs_that_cannot_be_compared_are_refused(cost: NDArray[np.float64]) -> None:
    with pytest.raises(ConfigError, match="costs"):
        assign(np.array([0]), np.array([0]), cost)


def test_leaving_alone_costs_what_is_said() -> None:
    left, right, cost = np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0.9, 0.2, 0.8])
    # 0-0 and 1-1 cost 1.7; 1-0 with 0 left alone costs 0.2 + 1
    assert assign(left, right, cost, unmatched=1.0).tolist() == [1]
    assert assign(left, right, cost).tolist() == [0, 2]
