"""Instance metrics: by hand, against slow references that follow the papers, and against torchmetrics."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics import (
    Overlaps,
    Ratio,
    aji,
    aji_plus,
    dice,
    ensemble_dice,
    object_scores,
    overlaps,
    overlaps_of_blocks,
)

Labels = NDArray[np.int64]

TRUTH = np.array(
    [
        [1, 1, 1, 1, 0, 0, 2, 2],
        [1, 1, 1, 1, 0, 0, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [3, 3, 0, 0, 0, 0, 0, 0],
    ]
)
FOUND = np.array(
    [
        [7, 7, 7, 5, 5, 0, 0, 0],
        [7, 7, 7, 5, 5, 0, 0, 4],
        [0, 0, 0, 0, 0, 0, 0, 4],
        [0, 0, 0, 0, 0, 9, 9, 9],
    ]
)
"""True sizes 8, 4, 2. Found: 7 has 6 px, all in object 1 (IoU 6/8); 5 has 4 px, 2 in object 1 (2/10); 4 has 2 px, 1 in
object 2 (1/5); 9 has 3 px in none. Object 3 is missed."""


def test_by_hand() -> None:
    table = overlaps(TRUTH, FOUND)
    scores = object_scores(table)
    # one match (IoU 0.75 > 0.5) of 3 true and 4 found: F1 = 2 / 7, precision 1 / 4, recall 1 / 3; SQ = 0.75 / 1;
    # PQ = 0.75 / (1 + 3 / 2 + 2 / 2) = 0.75 / 3.5
    assert scores["object_f1"].value == scores["dq"].value == 2 / 7
    assert (scores["object_precision"].value, scores["object_recall"].value) == (1 / 4, 1 / 3)
    assert scores["sq"].value == 0.75
    assert scores["pq"].value == pytest.approx(0.75 / 3.5)
    assert scores["pq"].value == pytest.approx(scores["dq"].value * scores["sq"].value)
    # AJI: 1 takes 7 (6 of 8), 2 takes 4 (1 of 5), 3 nothing (2); 5 (4 px) and 9 (3 px) are never taken: 7 / 22
    assert aji(table).value == 7 / (8 + 5 + 2 + 4 + 3)
    # AJI+ pairs the same here
    assert aji_plus(table).value == 7 / 22
    # foregrounds of 14 and 15 px share 6 + 2 + 1: Dice = 2 * 9 / 29
    assert dice(table).value == 18 / 29
    # pairs 1-7 (14 px in all), 1-5 (12), 2-4 (6): 2 * (6 + 2 + 1) / 32
    assert ensemble_dice(table).value == 18 / 32


def test_aji_counts_a_found_object_twice_and_aji_plus_does_not() -> None:
    # two true objects of 2 px under one found object of 4 px
    table = overlaps(np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]]))
    # AJI: 2 / 4 and 2 / 4 again: 4 / 8. AJI+: one pair, 2 / 4, the other true object alone: 2 / (4 + 2)
    assert aji(table).value == 4 / 8
    assert aji_plus(table).value == 2 / 6


def test_aji_plus_pairs_for_the_largest_sum() -> None:
    # true a: columns 0-5, b: 6-8; found x: 2-7, y: 0-1. Overlaps a-x 4 px (union 8), b-x 2 (7), a-y 2 (6).
    truth = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 2]])
    found = np.array([[2, 2, 1, 1, 1, 1, 1, 1, 0]])
    # a-x alone gives 0.5; b-x and a-y together 2/7 + 2/6 = 0.62: AJI+ = (2 + 2) / (7 + 6)
    assert aji_plus(overlaps(truth, found)).value == 4 / 13


def test_an_overlap_of_exactly_one_half_is_no_match() -> None:
    # 2 px shared of a union of 4; then 3 of 5
    assert object_scores(overlaps(np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])))["object_f1"].value == 0
    assert object_scores(overlaps(np.array([[1, 1, 1, 1, 0]]), np.array([[0, 1, 1, 1, 1]])))["object_f1"].value == 1


EMPTY = np.zeros((3, 4), np.int64)
FULL = np.array([[1, 1, 0, 2]] * 3)
ALL = ("object_f1", "dq", "pq", "aji", "aji_plus", "dice", "dice2")


def all_scores(table: Overlaps) -> dict[str, Ratio]:
    more = {"aji": aji(table), "aji_plus": aji_plus(table), "dice": dice(table), "dice2": ensemble_dice(table)}
    return object_scores(table) | more


@pytest.mark.parametrize(
    ("truth", "found", "value"), [(EMPTY, EMPTY, 1), (FULL, EMPTY, 0), (EMPTY, FULL, 0), (FULL, FULL, 1)]
)
def test_empty_and_perfect(truth: Labels, found: Labels, value: float) -> None:
    scores = all_scores(overlaps(truth, found))
    assert {name: scores[name].value for name in ALL} == dict.fromkeys(ALL, value)
    # the quality of matches and the share of what was found that is right mean nothing where there is none of it
    assert np.isnan(scores["sq"].value) == (not (truth.any() and found.any()))
    assert np.isnan(scores["object_precision"].value) == (not found.any())
    assert np.isnan(scores["object_recall"].value) == (not truth.any())


def test_an_image_without_anything_does_not_hide_what_others_miss() -> None:
    nothing, missed = overlaps(EMPTY, EMPTY), overlaps(FULL, EMPTY)
    pooled = {name: (all_scores(nothing)[name] + all_scores(missed)[name]).value for name in ALL}
    assert pooled == dict.fromkeys(ALL, 0)


def slow_iou(truth: Labels, found: Labels) -> dict[tuple[int, int], tuple[int, int]]:
    """(true label, found label) -> pixels of intersection and union, mask by mask."""
    pairs = itertools.product(np.unique(truth[truth > 0]).tolist(), np.unique(found[found > 0]).tolist())
    masks = {(t, f): (truth == t, found == f) for t, f in pairs}
    return {key: (int((a & b).sum()), int((a | b).sum())) for key, (a, b) in masks.items()}


def slow_aji(truth: Labels, found: Labels) -> set[float]:
    """Kumar's algorithm, object by object, for every way to break ties of IoU."""
    table, answers = slow_iou(truth, found), set()
    true, said = sorted({t for t, _ in table}), sorted({f for _, f in table})
    options = []
    for t in true:
        shares = {f: table[t, f][0] / table[t, f][1] for f in said}
        best = max(shares.values())
        options.append([f for f in said if shares[f] == best] if best > 0 else [None])
    for choice in itertools.product(*options):
        pairs = list(zip(true, choice, strict=True))
        inter = sum(table[p][0] for p in pairs if p[1] is not None)
        union = sum(table[p][1] if p[1] is not None else int((truth == p[0]).sum()) for p in pairs)
        answers.add(inter / (union + sum(int((found == f).sum()) for f in said if f not in choice)))
    return answers


def slow_aji_plus(truth: Labels, found: Labels) -> set[float]:
    """The AJI of every one-to-one pairing whose sum of IoU is the largest."""
    table = slow_iou(truth, found)
    true, said = sorted({t for t, _ in table}), sorted({f for _, f in table})
    total = int((truth > 0).sum()), int((found > 0).sum())
    answers: dict[float, set[float]] = {}
    for order in itertools.permutations([*said, *[None] * len(true)], len(true)):
        pairs = [(t, f) for t, f in zip(true, order, strict=True) if f is not None and table[t, f][0]]
        inter, union = (sum(table[p][k] for p in pairs) for k in (0, 1))
        alone = sum(total) - sum(int((truth == t).sum() + (found == f).sum()) for t, f in pairs)
        share = round(sum(table[p][0] / table[p][1] for p in pairs), 9)
        answers.setdefault(share, set()).add(inter / (union + alone))
    return answers[max(answers)]


images = arrays(np.int64, (4, 5), elements=st.integers(0, 3))


@given(images, images)
def test_against_slow_references(truth: Labels, found: Labels) -> None:
    if not (truth.any() and found.any()):
        return
    table, pairs = overlaps(truth, found), slow_iou(truth, found)
    matched = [inter / union for inter, union in pairs.values() if inter / union > 0.5]
    n_truth, n_found = len({t for t, _ in pairs}), len({f for _, f in pairs})
    scores = object_scores(table)
    assert scores["object_f1"].value == pytest.approx(2 * len(matched) / (n_truth + n_found))
    assert scores["pq"].value == pytest.approx(sum(matched) / (n_truth / 2 + n_found / 2))
    assert any(aji(table).value == pytest.approx(value) for value in slow_aji(truth, found))
    assert any(aji_plus(table).value == pytest.approx(value) for value in slow_aji_plus(truth, found))
    assert dice(table).value == pytest.approx(
        2 * ((truth > 0) & (found > 0)).sum() / ((truth > 0).sum() + (found > 0).sum())
    )
    touching = [(t, f) for (t, f), (inter, _) in pairs.items() if inter]
    inter = sum(pairs[p][0] for p in touching)
    sizes = sum(int((truth == t).sum() + (found == f).sum()) for t, f in touching)
    assert ensemble_dice(table).value == pytest.approx(2 * inter / sizes if sizes else 0)


@given(images, images, st.permutations([5, 2, 70_000]), st.permutations([1, 9, 4]))
def test_the_numbering_of_objects_does_not_matter(truth: Labels, found: Labels, a: list[int], b: list[int]) -> None:
    before = all_scores(overlaps(truth, found))
    after = all_scores(overlaps(np.array([0, *a])[truth], np.array([0, *b])[found]))
    for name, ratio in before.items():
        assert after[name].value == ratio.value or (np.isnan(ratio.value) and np.isnan(after[name].value)), name


@given(images, images)
def test_blocks_give_what_the_whole_gives(truth: Labels, found: Labels) -> None:
    parts = [(truth[y, x], found[y, x]) for y in (slice(0, 3), slice(3, 4)) for x in (slice(0, 2), slice(2, 5))]
    whole, cut = overlaps(truth, found), overlaps_of_blocks(parts)
    assert sorted(whole.truth_sizes) == sorted(cut.truth_sizes)
    assert sorted(zip(whole.pixels, whole.unions, strict=True)) == sorted(zip(cut.pixels, cut.unions, strict=True))


@pytest.mark.slow  # importing torchmetrics takes 13 s
@pytest.mark.parametrize("seed", range(4))
def test_against_torchmetrics(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from torchmetrics.detection import PanopticQuality
    from torchmetrics.functional.classification import binary_f1_score

    truth, found = planted(seed)
    metric = PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    both = [torch.tensor(np.stack([labels > 0, labels], axis=-1).astype(int))[None] for labels in (found, truth)]
    pq, sq, dq = metric(*both)[0].tolist()
    table = overlaps(truth, found)
    scores = object_scores(table)
    assert 0.1 < pq < 0.9
    assert [scores[name].value for name in ("pq", "sq", "dq")] == pytest.approx([pq, sq, dq], abs=1e-6)
    f1 = binary_f1_score(torch.tensor((found > 0).astype(int)), torch.tensor((truth > 0).astype(int)))
    assert dice(table).value == pytest.approx(float(f1), abs=1e-6)


def planted(seed: int, count: int = 60) -> tuple[Labels, Labels]:
    """Rectangles on a grid, each found shifted by up to 3 px, some not found and some that are not there."""
    random = np.random.default_rng(seed)
    truth, found = np.zeros((200, 200), np.int64), np.zeros((200, 200), np.int64)
    for k in range(count):
        y, x = 10 + 22 * (k // 8), 10 + 22 * (k % 8)
        h, w = random.integers(6, 14, 2)
        dy, dx = random.integers(-3, 4, 2)
        if random.random() < 0.85:
            truth[y : y + h, x : x + w] = k + 1
        if random.random() < 0.85:
            found[y + dy : y + dy + h, x + dx : x + dx + w] = 1000 - k
    return truth, found


def test_a_hundred_thousand_objects_take_seconds() -> None:
    truth = np.kron(np.arange(1, 320 * 320 + 1).reshape(320, 320), np.pad(np.ones((8, 8), np.int64), 1))
    found = np.roll(truth, (2, 1), (0, 1))
    started = time.process_time()
    table = overlaps(truth, found)
    assert [aji(table).value, aji_plus(table).value] == pytest.approx([42 / 86] * 2, abs=0.01)
    assert object_scores(table)["object_f1"].value < 0.01
    assert time.process_time() - started < 15


@pytest.mark.parametrize(
    ("truth", "found", "said"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "one shape"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "whole numbers"),
        (np.zeros((2, 3), int) - 1, np.zeros((2, 3), int), "whole numbers"),
        (np.zeros((2, 3), int) + (1 << 32), np.zeros((2, 3), int), "whole numbers"),
    ],
)
def test_what_is_no_label_image_is_refused(truth: Labels, found: Labels, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        overlaps(truth, found)


@pytest.mark.parametrize("threshold", [0.49, 1.0])
def test_thresholds_at_which_matches_are_not_unique_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        object_scores(overlaps(TRUTH, FOUND), threshold)
