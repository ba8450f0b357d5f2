"""Average precision: by hand, and against COCO's evaluation written out loop by loop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics import (
    IOU_THRESHOLDS,
    average_precision,
    match_scored,
    match_scored_labels,
    precision_scores,
)

Floats = NDArray[np.float64]
Image = tuple[Floats, Floats]
"""(T, F) IoU and (F,) scores."""


def slow_ap(images: list[Image], threshold: float) -> float:
    """COCO's definition, one object and one recall at a time."""
    said: list[tuple[float, bool]] = []
    for iou, scores in images:
        taken: set[int] = set()
        for f in sorted(range(len(scores)), key=lambda f: -scores[f]):
            best, partner = threshold, None
            for t in range(len(iou)):
                if t not in taken and iou[t, f] >= best:
                    best, partner = iou[t, f], t
            if partner is not None:
                taken.add(partner)
            said.append((scores[f], partner is not None))
    said.sort(key=lambda one: -one[0])
    truth = sum(len(iou) for iou, _ in images)
    points, hits = [], 0
    for n, (_, right) in enumerate(said, 1):
        hits += right
        points.append((hits / truth, hits / n))
    # not k / 100: a recall that falls on one of COCO's is compared with the float that COCO has
    readings = [max((p for r, p in points if r >= wanted), default=0.0) for wanted in np.linspace(0, 1, 101)]
    return sum(readings) / 101


def boxes_iou(truth: Floats, found: Floats) -> Floats:
    """(T, F) of (x0, y0, x1, y1) boxes."""
    corner = np.minimum(truth[:, None, 2:], found[None, :, 2:]) - np.maximum(truth[:, None, :2], found[None, :, :2])
    shared = corner.clip(0).prod(axis=2)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (truth, found)]
    return shared / (area[0][:, None] + area[1][None] - shared)


def random_boxes(random: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """True boxes, found ones (most of them true ones moved, some twice, some anywhere) and their scores."""
    truth = random.uniform(0, 60, (random.integers(0, 14), 2))
    truth = np.concatenate([truth, truth + random.uniform(8, 16, truth.shape)], axis=1)
    copies = truth[random.integers(0, len(truth), random.integers(0, 18))] if len(truth) else truth
    wild = random.uniform(0, 60, (random.integers(0, 5), 2))
    found = np.concatenate([copies + random.normal(0, 1.2, copies.shape), np.concatenate([wild, wild + 12], axis=1)])
    # two decimals: some scores are equal
    return truth, found, random.random(len(found)).round(2)


@pytest.mark.parametrize("seed", range(20))
def test_against_coco_loop_by_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = [(boxes_iou(truth, found), scores) for truth, found, scores in (random_boxes(random) for _ in range(5))]
    ours = average_precision(match_scored(*image) for image in images)
    slow = [slow_ap(images, threshold) for threshold in IOU_THRESHOLDS]
    assert ours == pytest.approx(slow, abs=1e-12)
    assert 0 < ours[0] < 1
    scores = precision_scores([match_scored(*image) for image in images])
    assert scores == pytest.approx({"ap50": slow[0], "ap75": slow[5], "map": float(np.mean(slow))})


@pytest.mark.parametrize("seed", range(5))
def test_against_torchmetrics(seed: int) -> None:
    pytest.importorskip("pycocotools", reason="torchmetrics needs pycocotools for this")
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    random = np.random.default_rng(seed)
    # thresholds in full precision: torchmetrics' own are float32, and a recall may fall on one
    theirs = MeanAveragePrecision(
        iou_type="bbox", iou_thresholds=list(IOU_THRESHOLDS), rec_thresholds=np.linspace(0, 1, 101).tolist()
    )
    matches = []
    for _ in range(6):
        truth, found, scores = random_boxes(random)
        # all scores different: which of equal ones comes first is a matter of how each sorts
        scores = random.permutation(len(scores)) / 100 + random.random() / 1000
        matches.append(match_scored(boxes_iou(truth, found), scores))
        theirs.update(
            [
                {
                    "boxes": torch.tensor(found),
                    "scores": torch.tensor(scores),
                    "labels": torch.zeros(len(found), dtype=int),
                }
            ],
            [{"boxes": torch.tensor(truth), "labels": torch.zeros(len(truth), dtype=int)}],
        )
    answer = {name: float(value) for name, value in theirs.compute().items() if name in ("map", "map_50", "map_75")}
    ours = precision_scores(matches)
    assert (ours["map"], ours["ap50"], ours["ap75"]) == pytest.approx(
        (answer["map"], answer["map_50"], answer["map_75"]), abs=1e-5
    )


def test_by_hand() -> None:
    # two true objects. Scores 0.9 (IoU 0.6 with the first), 0.8 (nothing), 0.7 (IoU 0.9 with the second)
    image = match_scored(np.array([[0.6, 0, 0], [0, 0, 0.9]]), np.array([0.9, 0.8, 0.7]))
    by_threshold = dict(zip(IOU_THRESHOLDS, average_precision([image]), strict=True))
    # at 0.5 right, wrong, right: precision 1 up to recall 1/2 (51 readings), then 2/3 (50 readings)
    assert by_threshold[0.5] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert by_threshold[0.6] == by_threshold[0.5]
    # at 0.65 to 0.9 wrong, wrong, right: precision 1/3 up to recall 1/2
    assert by_threshold[0.65] == by_threshold[0.9] == pytest.approx(51 / 3 / 101)
    assert by_threshold[0.95] == 0


def test_the_surer_object_takes_first_and_a_true_one_is_taken_once() -> None:
    # both found objects lie on the one true one; the worse outline is the surer
    image = match_scored(np.array([[0.9, 0.55]]), np.array([0.3, 0.8]))
    assert image.right[0].tolist() == [False, True]
    # at 0.6 only the other is right
    assert image.right[2].tolist() == [True, False]


def test_scores_sort_objects_of_all_images_together() -> None:
    right, wrong = np.array([[1.0]]), np.array([[0.0]])
    good = [match_scored(right, np.array([0.9])), match_scored(wrong, np.array([0.1]))]
    bad = [match_scored(right, np.array([0.1])), match_scored(wrong, np.array([0.9]))]
    # recall 1/2 with precision 1, or with precision 1/2: 51 of the 101 recalls
    assert average_precision(good) == pytest.approx(51 / 101)
    assert average_precision(bad) == pytest.approx(51 / 101 / 2)


@pytest.mark.parametrize("seed", range(10))
def test_label_images_give_what_their_iou_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, found = np.zeros((2, 50, 60), np.int64)
    names = random.permutation(np.arange(1, 40))
    for k in range(12):
        y, x = random.integers(0, 40), random.integers(0, 50)
        truth[y : y + 9, x : x + 8] = k + 1
        dy, dx = random.integers(-2, 3, 2)
        found[max(y + dy, 0) : y + dy + 9, max(x + dx, 0) : x + dx + 8] = names[k]
    labels = [np.unique(image[image > 0]) for image in (truth, found)]
    masks = [[image == label for label in names] for image, names in zip((truth, found), labels, strict=True)]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]])
    scores = random.random(len(labels[1]))
    ours, dense = match_scored_labels(truth, found, scores), match_scored(iou, scores)
    assert ours.truth == len(labels[0])
    assert np.array_equal(ours.right, dense.right)
    assert ours.right[0].any()


def test_nothing_to_find_is_not_a_figure_and_nothing_found_is_zero() -> None:
    empty = match_scored(np.zeros((0, 2)), np.array([0.5, 0.4]))
    missed = match_scored(np.zeros((3, 0)), np.zeros(0))
    assert np.isnan(average_precision([empty])).all()
    assert np.isnan(average_precision([])).all()
    assert np.isnan(precision_scores([empty])["map"])
    assert average_precision([missed]).tolist() == [0] * 10
    assert average_precision([match_scored(np.eye(4), np.arange(4.0))]).tolist() == [1] * 10
    nothing = match_scored_labels(np.zeros((4, 4), int), np.zeros((4, 4), int), np.zeros(0))
    assert (nothing.truth, nothing.right.shape) == (0, (10, 0))


def test_objects_found_where_nothing_is_lower_the_figure() -> None:
    perfect = match_scored(np.eye(2), np.array([0.5, 0.4]))
    wild = match_scored(np.zeros((0, 2)), np.array([0.9, 0.8]))
    assert average_precision([perfect, wild]) == pytest.approx(0.5)


@pytest.mark.parametrize("scores", [np.zeros(3), np.array([0.1, np.nan]), np.zeros((2, 1))])
def test_scores_that_do_not_fit_are_refused(scores: Floats) -> None:
    with pytest.raises(ConfigError, match="one finite score"):
        match_scored(np.eye(2), scores)
    with pytest.raises(ConfigError, match="one finite score"):
        match_scored_labels(np.array([[1, 2]]), np.array([[1, 2]]), scores)
