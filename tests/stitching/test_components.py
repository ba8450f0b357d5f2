"""Connected areas across blocks and their clean-up, against one that looks at all pixels again and again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.geometry import Region
from wsikit.stitching.components import AreaGraph, SettledAreas
from wsikit.stitching.raster import blocks

LABELS = 4


def random_map(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes (label + 1, 0 for nothing) in specks of all sizes, and scores that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 40, 2)
    smooth = ndimage.gaussian_filter(
        rng.standard_normal((LABELS + 1, height, width)), (0, *[rng.uniform(0.5, 1.5)] * 2)
    )
    smooth[0] -= rng.uniform(0, 0.3)
    return smooth.argmax(axis=0).astype(np.uint8), rng.integers(0, 256, (LABELS, height, width)).astype(np.uint8)


def gathered(classes: NDArray[np.uint8], scores: NDArray[np.uint8], least: float, side: int = 100) -> AreaGraph:
    height, width = classes.shape
    graph = AreaGraph(width, LABELS, least)
    for region in blocks(Region(0, 0, width, height, 1.0), side):
        rows, columns = slice(region.y, region.y1), slice(region.x, region.x1)
        part = classes[rows, columns]
        graph.add(region, part if part.any() else None, scores[:, rows, columns])
    return graph


def cleaned(
    classes: NDArray[np.uint8], settled: SettledAreas, side: int = 100
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The map that comes out, and the area of each pixel."""
    found, places = np.zeros_like(classes), np.zeros(classes.shape, np.int64)
    for region in blocks(Region(0, 0, *classes.shape[::-1], 1.0), side):
        part = slice(region.y, region.y1), slice(region.x, region.x1)
        places[part] = settled.places(region, classes[part])
        found[part] = np.append(settled.areas.labels + 1, 0)[places[part]]
    return found, places


def parts_of(classes: NDArray[np.uint8]) -> list[tuple[int, int, int, NDArray[np.bool_]]]:
    """(pixels, first pixel by row, class, where) of each connected area, the smallest first."""
    found = []
    for value in range(1, LABELS + 1):
        numbers, count = ndimage.label(classes == value)
        for k in range(1, count + 1):
            where = numbers == k
            found.append((int(where.sum()), int(np.flatnonzero(where)[0]), value, where))
    return sorted(found, key=lambda part: part[:2])


def neighbours(classes: NDArray[np.uint8], where: NDArray[np.bool_]) -> set[int]:
    ring = ndimage.binary_dilation(where) & ~where
    return set(classes[ring].tolist()) - {0}


def slowly(
    classes: NDArray[np.uint8], scores: NDArray[np.uint8], least: float, receives: list[bool]
) -> NDArray[np.uint8]:
    """One area given away after the other, everything looked at anew each time."""
    classes = classes.copy()
    while True:
        for size, _, _, where in parts_of(classes):
            offered = sorted(value for value in neighbours(classes, where) if receives[value - 1])
            if size < least and offered:
                classes[where] = max(offered, key=lambda value: int(scores[value - 1][where].sum()))
                break
        else:
            return classes


@pytest.mark.parametrize("seed", range(25))
def test_the_clean_up_equals_a_slow_one(seed: int) -> None:
    classes, scores = random_map(seed)
    rng = np.random.default_rng(seed)
    least, receives = float(rng.integers(1, 30)), [True, True, True, bool(rng.integers(2))]
    found, _ = cleaned(classes, gathered(classes, scores, least).settled(receives))
    assert np.array_equal(found, slowly(classes, scores, least, receives))


@pytest.mark.parametrize("seed", range(25, 40))
def test_areas_and_clean_up_do_not_depend_on_the_blocks(seed: int) -> None:
    classes, scores = random_map(seed)
    side, receives = int(np.random.default_rng(seed).integers(1, 12)), [True, True, True, False]
    whole = gathered(classes, scores, 9.0).settled(receives)
    parts = gathered(classes, scores, 9.0, side).settled(receives)
    assert all(np.array_equal(one, two) for one, two in zip(whole.areas, parts.areas, strict=True))
    one, two = cleaned(classes, whole), cleaned(classes, parts, side)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


@pytest.mark.parametrize("seed", range(40, 50))
@pytest.mark.parametrize("least", [0.0, 12.0])
def test_areas_are_the_connected_parts_of_the_map_with_their_sums(seed: int, least: float) -> None:
    classes, scores = random_map(seed)
    settled = gathered(classes, scores, least, side=7).settled([True] * LABELS)
    found, places = cleaned(classes, settled, side=7)
    parts = sorted(parts_of(found), key=lambda part: part[1])
    areas = settled.areas
    assert areas.pixels.tolist() == [size for size, _, _, _ in parts]
    assert areas.first.tolist() == [first for _, first, _, _ in parts]
    assert (areas.labels + 1).tolist() == [value for _, _, value, _ in parts]
    assert areas.sums.tolist() == [scores[:, where].sum(axis=1).tolist() for *_, where in parts]
    assert all((places[where] == k).all() for k, (*_, where) in enumerate(parts))


@pytest.mark.parametrize("seed", range(50, 60))
def test_no_small_area_is_left_that_touches_a_class_which_takes_it(seed: int) -> None:
    classes, scores = random_map(seed)
    receives = [True, True, True, False]
    found, _ = cleaned(classes, gathered(classes, scores, 15.0, side=9).settled(receives), side=9)
    small = [(value, neighbours(found, where)) for size, _, value, where in parts_of(found) if size < 15]
    assert all(around <= {4} for _, around in small)
    assert np.array_equal(found == 0, classes == 0)


def test_a_speck_goes_to_the_neighbour_that_scores_best_and_not_to_the_largest() -> None:
    classes = np.full((9, 9), 1, np.uint8)
    classes[:, 6:] = 2
    classes[4, 5:7] = 3
    scores = np.zeros((LABELS, 9, 9), np.uint8)
    scores[1, 4, 5:7], scores[3] = 90, 200  # the fourth label is nowhere near
    found, _ = cleaned(classes, gathered(classes, scores, 3.0).settled([True] * LABELS))
    assert (found[4, 5:7] == 2).all()


def test_what_only_background_surrounds_stays_as_it_is() -> None:
    classes = np.full((9, 9), 2, np.uint8)
    classes[4, 4] = 1
    scores = np.full((LABELS, 9, 9), 100, np.uint8)
    found, _ = cleaned(classes, gathered(classes, scores, 5.0).settled([True, False, True, True]))
    assert np.array_equal(found, classes)


def test_a_hole_of_background_is_filled_and_one_of_nothing_is_not() -> None:
    classes = np.full((9, 9), 1, np.uint8)
    classes[2, 2], classes[6, 6] = 2, 0
    scores = np.full((LABELS, 9, 9), 100, np.uint8)
    found, _ = cleaned(classes, gathered(classes, scores, 5.0).settled([True, False, True, True]))
    assert found[2, 2] == 1
    assert found[6, 6] == 0


def test_a_map_of_nothing_has_no_areas() -> None:
    settled = gathered(np.zeros((5, 6), np.uint8), np.zeros((LABELS, 5, 6), np.uint8), 3.0, side=2).settled([True] * 4)
    assert len(settled.areas.pixels) == 0
