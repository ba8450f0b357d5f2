"""From maps to nuclei: markers, basins, what is dropped; and the inner distance that the centre map learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.methods.points.config import Instances
from wsikit.methods.points.inner import contact, inner_distance, offsets
from wsikit.methods.points.instances import separate
from wsikit.predictors.basins import without_holes

MPP = 0.5
Maps = tuple[NDArray[np.float32], NDArray[np.float32]]


def discs(places: Any, shape: tuple[int, int] = (120, 120)) -> NDArray[np.int64]:
    """Labels of discs (x, y, radius), px; where two overlap, a pixel is that of the disc it lies deeper in."""
    rows, columns = np.indices(shape) + 0.5
    depth = np.stack([radius - np.hypot(columns - x, rows - y) for x, y, radius in places])
    return np.where(depth.max(axis=0) > 0, depth.argmax(axis=0) + 1, 0)


def scattered(seed: int, count: int = 14) -> NDArray[np.int64]:
    """Discs of several sizes that touch and do not cover one another, off the border."""
    rng = np.random.default_rng(seed)
    found: list[tuple[float, float, float]] = []
    while len(found) < count:
        radius = rng.uniform(4, 9)
        x, y = rng.uniform(12, 108, 2)
        if all(np.hypot(x - u, y - v) > 0.95 * (radius + other) for u, v, other in found):
            found.append((x, y, radius))
    return discs(found)


def ideal(labels: NDArray[np.int64]) -> Maps:
    """What a perfect network would say."""
    return (labels > 0).astype(np.float32), inner_distance(labels)


def agree(one: NDArray[np.integer], two: NDArray[np.integer]) -> bool:
    """Whether two label images hold the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([one.ravel(), two.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize("seed", range(6))
def test_of_perfect_maps_every_nucleus_comes_back(seed: int) -> None:
    labels = scattered(seed)
    found = separate(*ideal(labels), MPP, Instances()).labels
    assert found.max() == labels.max()
    for number in range(1, labels.max() + 1):
        own = labels == number
        same = found == np.bincount(found[own]).argmax()
        assert (own & same).sum() / (own | same).sum() > 0.8


@pytest.mark.parametrize("seed", range(4))
def test_noise_makes_no_further_nuclei(seed: int) -> None:
    labels, rng = scattered(seed), np.random.default_rng(seed)
    foreground, centre = (np.clip(one + rng.normal(0, 0.05, one.shape), 0, 1) for one in ideal(labels))
    found = separate(foreground.astype(np.float32), centre.astype(np.float32), MPP, Instances()).labels
    assert found.max() == labels.max()


def dented(valley: float) -> Maps:
    """One bar whose centre map has two summits of 1, and between them this much."""
    foreground, centre = np.zeros((60, 100), np.float32), np.zeros((60, 100), np.float32)
    foreground[20:40, 20:80] = 1
    across = np.clip(1 - np.abs(np.arange(60) - 29.5) / 12, 0, 1)
    along = np.interp(np.arange(100), [20, 35, 50, 65, 80], [0, 1, valley, 1, 0])
    return foreground, (centre + across[:, None] * along).astype(np.float32)


@pytest.mark.parametrize(("valley", "count"), [(0.6, 2), (0.99, 1)])
def test_a_valley_parts_nuclei_where_it_is_deep(valley: float, count: int) -> None:
    rule = Instances(depth=0.1, most_um2=1e4, most_um=100.0)
    assert separate(*dented(valley), MPP, rule).labels.max() == count


def test_what_is_too_small_is_dropped() -> None:
    labels = discs([(30, 30, 3.0), (70, 70, 8.0)])
    small = (labels == 1).sum() * MPP**2
    for least, count in ((small * 0.99, 2), (small * 1.01, 1)):
        assert separate(*ideal(labels), MPP, Instances(least_um2=least)).labels.max() == count


@pytest.mark.parametrize(("most", "filled"), [(9.0, True), (8.0, False)])
def test_holes_are_filled_up_to_a_size(most: float, filled: bool) -> None:
    mask = np.zeros((30, 30), bool)
    mask[5:25, 5:25] = True
    mask[10:13, 10:13] = False
    assert without_holes(mask, most)[11, 11] == filled
    assert not without_holes(mask, 1e6)[0].any()


def test_nuclei_that_the_border_cuts_are_dropped_or_kept_as_asked() -> None:
    labels = discs([(0, 60, 9.0), (60, 119, 9.0), (60, 60, 9.0)])
    assert separate(*ideal(labels), MPP, Instances()).labels.max() == 1
    kept = separate(*ideal(labels), MPP, Instances(), border=True).labels
    assert kept.max() == 3
    assert kept[60, 0] > 0
    assert kept[119, 60] > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_nucleus_is_the_same_in_whatever_window_it_is_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    foreground, centre = ideal(scattered(seed))
    noise = ndimage.gaussian_filter(rng.normal(0, 0.5, (2, *centre.shape)), (0, 1.5, 1.5))
    maps = [np.clip(one + part, 0, 1).astype(np.float32) for one, part in zip((foreground, centre), noise, strict=True)]
    whole = separate(maps[0], maps[1], MPP, Instances()).labels
    x, y = rng.integers(3, 20, 2)
    part = separate(maps[0][y:100, x:104], maps[1][y:100, x:104], MPP, Instances()).labels
    inside = np.s_[20:-20, 20:-20]
    # of what reaches into the middle of the part, all of it
    shown = np.isin(part, np.setdiff1d(part[inside], [0]))
    assert shown.any()
    same = np.where(np.isin(whole, np.unique(whole[y:100, x:104][shown])), whole, 0)
    assert agree(same[y:100, x:104], np.where(shown, part, 0))


def test_a_score_is_the_mean_probability_of_the_pixels() -> None:
    labels = discs([(30, 30, 8.0), (80, 80, 8.0)])
    foreground, centre = ideal(labels)
    foreground[labels == 1] *= 0.75
    found = separate(foreground, centre, MPP, Instances())
    assert found.scores[found.labels[30, 30] - 1] == pytest.approx(0.75)
    assert found.scores[found.labels[80, 80] - 1] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_twice_the_resolution_gives_as_many_nuclei(seed: int) -> None:
    labels = scattered(seed)
    fine = labels.repeat(2, axis=0).repeat(2, axis=1)
    found = separate(*ideal(fine), MPP / 2, Instances()).labels
    assert found.max() == separate(*ideal(labels), MPP, Instances()).labels.max()


def test_nothing_gives_no_nuclei() -> None:
    empty = np.zeros((40, 40), np.float32)
    found = separate(empty, empty, MPP, Instances())
    assert found.labels.max() == 0
    assert len(found.scores) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_inner_distance_is_that_to_other_pixels_over_the_objects_largest(seed: int) -> None:
    labels = scattered(seed, count=6)
    found = inner_distance(labels)
    rows, columns = np.indices(labels.shape)
    for number in range(1, labels.max() + 1):
        own, other = labels == number, labels != number
        inside, outside = (np.stack([rows[part], columns[part]], axis=1) for part in (own, other))
        # every pair of pixels
        distance = np.sqrt(((inside[:, None] - outside) ** 2).sum(axis=2).min(axis=1))
        assert np.allclose(found[own], distance / distance.max(), atol=1e-6)
    assert not found[labels == 0].any()


def test_the_border_of_the_image_is_no_edge_of_a_nucleus() -> None:
    whole = discs([(60, 60, 20.0)])
    half = inner_distance(whole[:, 60:])
    assert half[60, 0] == 1
    assert np.allclose(half, inner_distance(whole)[:, 60:], atol=0.06)


def test_labels_with_gaps_and_images_full_of_one_are_no_special_case() -> None:
    labels = np.zeros((20, 20), np.int64)
    labels[5:12, 5:12] = 70000
    assert inner_distance(labels).max() == 1
    assert (inner_distance(np.ones((8, 8), np.int64)) == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_weight_between_nuclei_is_that_of_the_distances_to_the_nearest_two(seed: int) -> None:
    labels, sigma = scattered(seed)[::2, ::2], 2.5
    rows, columns = np.indices(labels.shape)
    every = np.stack([rows.ravel(), columns.ravel()], axis=1)
    distances = []
    for number in np.unique(labels[labels > 0]):
        own = np.stack([rows[labels == number], columns[labels == number]], axis=1)
        # every pair of pixels
        distances.append(np.sqrt(((every[:, None] - own) ** 2).sum(axis=2).min(axis=1)))
    both = np.sort(np.stack(distances), axis=0)[:2].sum(axis=0).reshape(labels.shape)
    found = contact(labels, sigma)
    near = both <= 3 * sigma
    assert near.any()
    assert not near.all()
    assert np.allclose(found[near], np.exp(-((both[near] / sigma) ** 2) / 2), atol=1e-6)
    assert not found[both > 3 * sigma + 1].any()


def test_one_nucleus_meets_none() -> None:
    assert not contact(discs([(60, 60, 20.0)]), 3.0).any()


@pytest.mark.parametrize("seed", range(3))
def test_offsets_are_those_from_the_centre_of_mass_to_the_ends(seed: int) -> None:
    labels = scattered(seed, count=6)
    found = offsets(labels)
    for number in range(1, labels.max() + 1):
        places = [(row, column) for row, column in np.ndindex(labels.shape) if labels[row, column] == number]
        for axis, plane in ((1, found[0]), (0, found[1])):
            away = [place[axis] - sum(place[axis] for place in places) / len(places) for place in places]
            wanted = [one / (max(away) if one > 0 else -min(away)) for one in away]
            assert np.allclose([plane[place] for place in places], wanted, atol=1e-6)
    assert not found[:, labels == 0].any()


def test_a_mirrored_copy_is_an_object_of_its_own() -> None:
    """As in a piece that is larger than its image."""
    half = np.zeros((30, 20), np.int64)
    half[4:12, 3:9], half[4:12, 9:12], half[20:26, 15:] = 7, 3, 5
    both = np.concatenate([half, half[:, ::-1]], axis=1)
    x, y = offsets(both)
    assert np.array_equal(x[:13, :20], offsets(half)[0][:13])
    assert np.array_equal(x[:13], -x[:13, ::-1])
    assert np.array_equal(y, y[:, ::-1])
    # one that the axis cuts looks like one, and is
    assert x[22, 15:25].tolist() == pytest.approx(np.linspace(-1, 1, 10))


def test_objects_of_one_pixel_have_no_offsets() -> None:
    labels = np.zeros((9, 9), np.int64)
    labels[4, 4], labels[2:7, 7] = 70000, 1
    x, y = offsets(labels)
    assert not x.any()
    assert y[4, 4] == 0
    assert y[2:7, 7].tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({}, set()),
        ({"most_um2": 100.0}, {2}),
        ({"most_um": 11.0}, {2, 3}),
        ({"most_um": 9.0, "most_um2": 100.0}, {1, 2, 3}),
    ],
)
def test_what_is_too_large_or_too_long_for_a_nucleus_is_dropped(changed: dict[str, float], gone: set[int]) -> None:
    """A small disc, a large one, and a bar that is longer than the first and smaller than the second."""
    labels = discs([(20, 20, 10.0), (60, 30, 14.0)])
    labels[80:90, 20:50] = 3
    found = separate(*ideal(labels), MPP, Instances(**changed)).labels  # type: ignore[arg-type]
    assert set(np.unique(labels[found > 0]).tolist()) == {1, 2, 3} - gone
