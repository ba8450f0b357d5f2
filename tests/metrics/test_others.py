"""Classes of pixels, counts and whole images: by hand, and against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from wsikit.errors import ConfigError
from wsikit.metrics import (
    Ratio,
    absolute_error,
    accuracy,
    auc,
    auc_interval,
    balanced_accuracy,
    bin_counts,
    class_dice,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    macro_auc,
    macro_f1,
    mean_iou,
    pixel_accuracy,
    quadratic_weighted_kappa,
    quartile_edges,
)

TRUTH = np.array([[0, 0, 0, 0], [1, 1, 0, 9]])
FOUND = np.array([[0, 0, 1, 1], [1, 0, 2, 0]])
"""Classes 0, 1, 2; 9 is not annotated. Five pixels are truly 0: found as 0 twice, as 1 twice, as 2 once. Two are 1."""


def test_pixels_by_hand() -> None:
    confusion = confusion_matrix(TRUTH, FOUND, 3, ignore=9)
    assert confusion.tolist() == [[2, 2, 1], [1, 1, 0], [0, 0, 0]]
    # IoU: 2 / (5 + 3 - 2), 1 / (2 + 3 - 1), 0 / (0 + 1); Dice: 4 / 8, 2 / 5, 0 / 1
    assert class_iou(confusion).tolist() == [2 / 6, 1 / 4, 0]
    assert class_dice(confusion).tolist() == [4 / 8, 2 / 5, 0]
    assert mean_iou(confusion) == pytest.approx((2 / 6 + 1 / 4 + 0) / 3)
    # 5 of 7 pixels are class 0, 2 are class 1
    assert frequency_weighted_iou(confusion) == pytest.approx(5 / 7 * 2 / 6 + 2 / 7 * 1 / 4)
    assert pixel_accuracy(confusion) == 3 / 7


def test_a_class_that_nobody_names_is_left_out_of_the_mean() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 5)
    assert np.isnan(class_iou(confusion)[2:]).all()
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_nothing_annotated_is_not_a_figure() -> None:
    nothing = confusion_matrix(np.array([9, 9]), np.array([0, 1]), 2, ignore=9)
    assert np.isnan([mean_iou(nothing), frequency_weighted_iou(nothing), pixel_accuracy(nothing)]).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_pixels_against_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, found = np.array(pairs).T
    confusion = confusion_matrix(truth, found, 5)
    present = np.union1d(truth, found)
    assert (confusion == reference.confusion_matrix(truth, found, labels=range(5))).all()
    assert mean_iou(confusion) == pytest.approx(reference.jaccard_score(truth, found, average="macro", labels=present))
    weighted = reference.jaccard_score(truth, found, average="weighted", labels=present, zero_division=0)
    assert frequency_weighted_iou(confusion) == pytest.approx(weighted)
    assert class_dice(confusion)[present] == pytest.approx(
        reference.f1_score(truth, found, average=None, labels=present, zero_division=0)
    )
    assert pixel_accuracy(confusion) == pytest.approx(reference.accuracy_score(truth, found))


@pytest.mark.slow  # importing torchmetrics takes 13 s
@pytest.mark.parametrize("seed", range(3))
def test_pixels_against_torchmetrics(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import multiclass_jaccard_index

    truth, found = np.random.default_rng(seed).integers(0, 4, (2, 50, 50))
    theirs = multiclass_jaccard_index(torch.tensor(found), torch.tensor(truth), 4, ignore_index=3)
    kept = confusion_matrix(truth, found, 4, ignore=3)
    # torchmetrics leaves class 3 out of the mean as well, though it was found where something else is true
    assert np.mean(class_iou(kept)[:3]) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize(("truth", "found"), [([0, 3], [0, 0]), ([0, 0], [0, -1]), ([0, 0], [0])])
def test_classes_out_of_range_are_refused(truth: list[int], found: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"classes must be|one shape"):
        confusion_matrix(np.array(truth), np.array(found), 3)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=30))
def test_the_mean_absolute_error_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    total = sum((absolute_error(*pair) for pair in pairs), Ratio(0, 0))
    assert total.value == pytest.approx(reference.mean_absolute_error(*np.array(pairs).T))


def test_bins_of_counts() -> None:
    # below 10; 10 to below 20; 20 and more
    assert bin_counts(np.array([0, 9, 10, 19, 20, 500]), [10, 20]).tolist() == [0, 0, 1, 1, 2, 2]
    assert quartile_edges(np.array([1, 2, 3, 4, 5])) == (2, 3, 4)
    assert quartile_edges(np.array([7, 7, 7])) == (7,)
    with pytest.raises(ConfigError, match="ascend, got 5, 5"):
        bin_counts(np.array([1]), [5, 5])


def test_kappa_by_hand() -> None:
    # classes 0, 1, 2; true 0 0 1 2, found 0 1 1 1. Disagreements: 0-1 costs 1, 2-1 costs 1: 2 in all.
    # By chance: true shares (2, 1, 1) / 4, found (1, 3, 0) / 4; expected counts of the pairs that cost:
    # 0-1: 2 * 3 / 4 = 1.5; 1-0: 0.25; 2-0: 0.25, which costs 4; 2-1: 0.75: together 3.5. Kappa = 1 - 2 / 3.5
    assert quadratic_weighted_kappa(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3) == pytest.approx(1 - 2 / 3.5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, found = np.array(pairs).T
    ours = quadratic_weighted_kappa(truth, found, 4)
    if len(set(truth) | set(found)) == 1:
        assert np.isnan(ours)
        return
    theirs = reference.cohen_kappa_score(truth, found, weights="quadratic", labels=range(4))
    assert ours == pytest.approx(theirs)


def test_kappa_of_no_cases_is_not_a_figure() -> None:
    assert np.isnan(quadratic_weighted_kappa(np.zeros(0, int), np.zeros(0, int), 3))


def test_auc_by_hand() -> None:
    # positives 0.8, 0.4; negatives 0.4, 0.1: pairs 1, 1, a tie (one half), 1 = 3.5 of 4
    assert auc(np.array([True, True, False, False]), np.array([0.8, 0.4, 0.4, 0.1])) == 3.5 / 4


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_is_scikit_learns(cases: list[tuple[bool, int]]) -> None:
    truth, scores = (np.array(column) for column in zip(*cases, strict=True))
    ours = auc(truth, scores)
    if truth.all() or not truth.any():
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(reference.roc_auc_score(truth, scores))


def test_auc_refuses_what_cannot_be_ranked() -> None:
    with pytest.raises(ConfigError, match="finite score"):
        auc(np.array([True, False]), np.array([0.5, np.nan]))


def test_slides_of_one_patient_do_not_narrow_the_interval() -> None:
    random = np.random.default_rng(1)
    truth = np.arange(30) % 2 == 0
    scores = random.normal(truth.astype(float), 1)
    one = np.subtract(*auc_interval(truth, scores, np.arange(30), rounds=500))
    copies = [np.repeat(values, 5) for values in (truth, scores, np.arange(30))]
    many = np.subtract(*auc_interval(*copies, rounds=500))
    blind = np.subtract(*auc_interval(copies[0], copies[1], np.arange(150), rounds=500))
    assert many == pytest.approx(one, rel=0.05)
    assert abs(blind) < 0.7 * abs(many)


def test_an_interval_without_both_classes_is_not_a_figure() -> None:
    assert np.isnan(auc_interval(np.ones(5, bool), np.arange(5.0), np.arange(5), rounds=10)).all()


BAGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_bags_by_hand() -> None:
    # class 0: 2 of 3 right; class 1: 1 of 1; class 2 is found once and never true
    truth, found = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1])
    assert accuracy(truth, found).value == 3 / 4
    assert balanced_accuracy(truth, found, 4) == pytest.approx((2 / 3 + 1) / 2)
    # F1: 4 / 5, 1, 0; class 3 is on neither side
    assert macro_f1(truth, found, 4) == pytest.approx((4 / 5 + 1 + 0) / 3)


@settings(max_examples=40)
@given(BAGS)
def test_bags_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, found = np.array(pairs).T
    assert accuracy(truth, found).value == pytest.approx(reference.accuracy_score(truth, found))
    recall = reference.recall_score(truth, found, labels=np.unique(truth), average="macro")
    assert balanced_accuracy(truth, found, 4) == pytest.approx(recall)
    f1 = reference.f1_score(truth, found, average="macro", zero_division=0)
    assert macro_f1(truth, found, 4) == pytest.approx(f1)


def test_no_bags_are_not_a_figure() -> None:
    none = np.zeros(0, int)
    figures = accuracy(none, none).value, balanced_accuracy(none, none, 2), macro_f1(none, none, 2)
    assert np.isnan(figures).all()
    with pytest.raises(ConfigError, match="one shape"):
        accuracy(np.array([1]), np.array([1, 2]))


@pytest.mark.parametrize("seed", range(5))
def test_macro_auc_is_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(4), random.integers(0, 4, 40)])
    scores = random.dirichlet(np.ones(4), 44).round(1) + 0.0
    scores /= scores.sum(axis=1, keepdims=True)
    assert macro_auc(truth, scores) == pytest.approx(reference.roc_auc_score(truth, scores, multi_class="ovr"))


def test_macro_auc_without_a_class_is_not_a_figure_and_bad_classes_are_refused() -> None:
    assert np.isnan(macro_auc(np.array([0, 1]), np.eye(3)[:2]))
    with pytest.raises(ConfigError, match="classes must be 0 to 1"):
        macro_auc(np.array([0, 2]), np.eye(2))
    with pytest.raises(ConfigError, match=r"shape \(N, K\)"):
        macro_auc(np.array([0, 1]), np.array([0.1, 0.2]))
