"""Tissue segmentation: pixels that are no class, means over classes, and outlines, by hand and against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics import (
    absent_classes,
    boundary_iou,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_class_accuracy,
    mean_dice,
    mean_iou,
    pixel_accuracy,
    segmentation_scores,
)

TRUTH = np.array([[0, 0, 0, 1], [1, 1, 4, 255]])
FOUND = np.array([[0, 0, 4, 1], [0, 255, 0, 1]])
"""Of three pixels of class 0 two are found and one is called white; of three of class 1 one is found, one called 0 and
one left undecided. What is truly white (4) or not annotated (255) does not count."""
WHITE = (4, 255)


def scored(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int = 2) -> NDArray[np.int64]:
    return confusion_matrix(truth, found, classes, ignore=WHITE, none=WHITE)


def test_pixels_of_no_class_are_missed_and_found_by_none() -> None:
    confusion = scored(TRUTH, FOUND)
    assert confusion.tolist() == [[2, 0, 1], [1, 1, 1]]
    # class 0: 3 true, 3 found (one of them truly 1), 2 right; class 1: 3 true, 1 found, 1 right
    assert class_iou(confusion).tolist() == [2 / 4, 1 / 3]
    assert class_accuracy(confusion).tolist() == [2 / 3, 1 / 3]
    assert mean_class_accuracy(confusion) == pytest.approx(1 / 2)
    assert mean_dice(confusion) == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert pixel_accuracy(confusion) == 3 / 6
    assert frequency_weighted_iou(confusion) == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_matrices_of_images_add() -> None:
    parts = [scored(truth, found) for truth, found in zip(TRUTH, FOUND, strict=True)]
    assert (parts[0] + parts[1] == scored(TRUTH, FOUND)).all()


def test_absent_classes_are_left_out_of_means_and_said() -> None:
    confusion = scored(TRUTH, FOUND, classes=4)
    assert absent_classes(confusion) == (2, 3)
    scores = segmentation_scores(confusion, ["a", "b", "c", "d"])
    assert scores["miou"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert (scores["mdice"], scores["absent"]) == (mean_dice(confusion), 2)
    assert np.isnan([scores["iou_c"], scores["iou_d"]]).all()
    assert scores["iou_b"] == 1 / 3


def test_a_class_that_is_only_found_pulls_the_mean_down() -> None:
    confusion = confusion_matrix(np.array([0, 0]), np.array([0, 1]), 2)
    assert absent_classes(confusion) == ()
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 0) / 2)
    # its accuracy is not defined, for it has no true pixels
    assert mean_class_accuracy(confusion) == 1 / 2


def test_nothing_to_score_is_not_a_figure() -> None:
    scores = segmentation_scores(scored(np.array([4]), np.array([0])), ["a", "b"])
    assert np.isnan([value for key, value in scores.items() if key != "absent"]).all()


def test_found_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="found classes must be 0 to 1"):
        confusion_matrix(np.array([0]), np.array([2]), 2, ignore=WHITE)
    with pytest.raises(ConfigError, match="true classes must be 0 to 1"):
        confusion_matrix(np.array([2]), np.array([0]), 2, none=WHITE)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 1, 2, 4])), min_size=1, max_size=40))
def test_forcing_excluded_pixels_is_the_same_as_leaving_them_out(pairs: list[tuple[int, int]]) -> None:
    """The way of the published evaluation: one class more, which is found wherever it is true, and is then dropped."""
    truth, found = np.array(pairs, np.uint8).T
    forced = np.where(truth == 4, 4, found)
    full = np.zeros((5, 5), int)
    for true, said in zip(truth, forced, strict=True):
        full[true, said] += 1
    ious = [full[k, k] / max(full[k].sum() + full[:, k].sum() - full[k, k], 1) for k in range(3)]
    assert np.nan_to_num(class_iou(confusion_matrix(truth, found, 3, ignore=4, none=(4,)))) == pytest.approx(ious)


# Outlines


def slow_outline(
    mask: NDArray[np.bool_], ignored: NDArray[np.bool_], width_px: int, frame: bool
) -> set[tuple[int, int]]:
    """Pixel by pixel: within reach is a scored pixel that is not in the mask, or, with a frame, no pixel at all."""
    height, width = mask.shape
    found = set()
    for y, x in np.argwhere(mask & ~ignored).tolist():
        for v in range(y - width_px, y + width_px + 1):
            for u in range(x - width_px, x + width_px + 1):
                outside = not (0 <= v < height and 0 <= u < width)
                if frame if outside else not (mask[v, u] or ignored[v, u]):
                    found.add((y, x))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
def test_outlines_against_a_slow_loop(seed: int, width_px: int, frame: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 14, 2)
    block = int(rng.integers(1, 5))
    truth, found = (np.kron(rng.integers(0, 3, (14, 14)), np.ones((block, block), int))[:height, :width] for _ in "ab")
    truth[rng.random(truth.shape) < 0.1] = 9
    ratios = boundary_iou(truth, found, 3, width_px, ignore=9, frame=frame)
    for index, ratio in enumerate(ratios):
        sets = [slow_outline(labels == index, truth == 9, width_px, frame) for labels in (truth, found)]
        assert (ratio.part, ratio.whole) == (len(sets[0] & sets[1]), len(sets[0] | sets[1]))


def test_a_square_by_hand() -> None:
    truth, found = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[5:15, 5:15] = 1
    found[5:15, 6:16] = 1
    # rings of one pixel: 36 each; they share both long sides but for their ends, and nothing of the upright ones
    ratio = boundary_iou(truth, found, 2, 1)[1]
    assert (ratio.part, ratio.whole) == (18, 54)


def test_a_wide_boundary_is_the_iou() -> None:
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 2, (2, 12, 12))
    wide = [ratio.value for ratio in boundary_iou(truth, found, 2, 12)]
    assert wide == pytest.approx(class_iou(confusion_matrix(truth, found, 2)))


def test_the_edge_of_a_part_is_no_outline() -> None:
    whole = np.zeros((8, 8), int)
    assert boundary_iou(whole, whole, 1, 1)[0].whole == 28
    assert np.isnan(boundary_iou(whole, whole, 1, 1, frame=False)[0].value)


def test_images_of_two_shapes_have_no_boundary_iou() -> None:
    with pytest.raises(ConfigError, match="one shape"):
        boundary_iou(np.zeros((3, 4), int), np.zeros((4, 3), int), 1, 1)
