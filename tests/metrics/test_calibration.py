"""Calibration: by hand, against scikit-learn and torchmetrics, and on planted probabilities."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from wsikit.errors import ConfigError
from wsikit.metrics import brier, reliability, top_label


def test_by_hand() -> None:
    # bins (0, .25], (.25, .5], (.5, .75], (.75, 1]: cases .1 .25 | - | .6 .6 .7 | 1
    truth = np.array([False, True, True, False, True, True])
    table = reliability(truth, np.array([0.1, 0.25, 0.6, 0.6, 0.7, 1.0]), bins=4)
    assert table.lower.tolist() == [0, 0.5, 0.75]
    assert table.upper.tolist() == [0.25, 0.75, 1]
    assert table.cases.tolist() == [2, 3, 1]
    assert table.probability == pytest.approx([0.175, 1.9 / 3, 1])
    assert table.share == pytest.approx([0.5, 2 / 3, 1])
    # gaps .325, .0333, 0: ECE = (2 * .325 + 3 * .0333) / 6
    assert table.expected_error == pytest.approx((2 * 0.325 + 0.1) / 6)
    assert table.maximum_error == pytest.approx(0.325)


cases = st.lists(st.tuples(st.booleans(), st.integers(0, 20).map(lambda k: k / 20)), min_size=1, max_size=60)


@settings(max_examples=40)
@given(cases, st.integers(1, 8))
def test_bins_of_equal_width_are_scikit_learns(pairs: list[tuple[bool, float]], bins: int) -> None:
    truth, probabilities = (np.array(column) for column in zip(*pairs, strict=True))
    table = reliability(truth, probabilities, bins=bins)
    assert table.cases.sum() == len(truth)
    if len(set(truth.tolist())) == 2:
        share, mean = calibration_curve(truth, probabilities, n_bins=bins)
        assert table.share == pytest.approx(share)
        assert table.probability == pytest.approx(mean)


@pytest.mark.parametrize("seed", range(5))
def test_bins_of_equal_mass_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.random(137) ** 3
    truth = random.random(137) < probabilities
    table = reliability(truth, probabilities, bins=10, equal="mass")
    share, mean = calibration_curve(truth, probabilities, n_bins=10, strategy="quantile")
    assert table.share == pytest.approx(share)
    assert table.probability == pytest.approx(mean)


@settings(max_examples=60)
@given(cases, st.integers(1, 8), st.sampled_from(["width", "mass"]), st.randoms())
def test_bins_hold_what_they_say_whatever_the_order(
    pairs: list[tuple[bool, float]], bins: int, equal: str, random: Random
) -> None:
    truth, probabilities = (np.array(column) for column in zip(*pairs, strict=True))
    table = reliability(truth, probabilities, bins=bins, equal=equal)  # type: ignore[arg-type]
    assert 1 <= len(table.cases) <= bins
    assert (table.lower[1:] >= table.upper[:-1]).all()
    for k, (low, high) in enumerate(zip(table.lower, table.upper, strict=True)):
        inside = ((probabilities > low) | ((k == 0) & (probabilities == low))) & (probabilities <= high)
        assert table.cases[k] == inside.sum() > 0
        assert table.share[k] == pytest.approx(truth[inside].mean())
    order = random.sample(range(len(truth)), len(truth))
    shuffled = reliability(truth[order], probabilities[order], bins=bins, equal=equal)  # type: ignore[arg-type]
    assert shuffled.cases.tolist() == table.cases.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_errors_are_torchmetrics(seed: int) -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

    random = np.random.default_rng(seed)
    probabilities = random.random(300)
    truth = random.random(300) < probabilities**2
    said, true = torch.tensor(probabilities), torch.tensor(truth.astype(int))
    table = reliability(truth, probabilities)
    assert table.expected_error == pytest.approx(float(binary_calibration_error(said, true, n_bins=15)), abs=1e-6)
    maximum = float(binary_calibration_error(said, true, n_bins=15, norm="max"))
    assert table.maximum_error == pytest.approx(maximum, abs=1e-6)
    many = random.dirichlet(np.ones(4), 300)
    classes = random.integers(0, 4, 300)
    theirs = multiclass_calibration_error(torch.tensor(many), torch.tensor(classes), num_classes=4, n_bins=10)
    assert reliability(*top_label(classes, many), bins=10).expected_error == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("equal", ["width", "mass"])
def test_probabilities_that_come_true_have_little_error_and_boasting_has_its_own(equal: str) -> None:
    errors, boasts = [], []
    for seed in range(5):
        random = np.random.default_rng(seed)
        probabilities = random.random(20_000)
        errors.append(reliability(random.random(20_000) < probabilities, probabilities, equal=equal).expected_error)  # type: ignore[arg-type]
        # said p, true in a share p - 0.2 of cases
        said = random.uniform(0.3, 0.9, 20_000)
        boasts.append(reliability(random.random(20_000) < said - 0.2, said, equal=equal).expected_error)  # type: ignore[arg-type]
    assert max(errors) < 0.02
    assert np.abs(np.array(boasts) - 0.2).max() < 0.02


def test_bins_of_equal_mass_hold_equally_many() -> None:
    # nearly all near 0: bins of equal width would put them into one
    probabilities = np.random.default_rng(0).random(1000) ** 6
    assert np.ptp(reliability(np.ones(1000, bool), probabilities, bins=10, equal="mass").cases) <= 1
    assert np.ptp(reliability(np.ones(1000, bool), probabilities, bins=10).cases) > 400


def test_no_cases_are_not_a_figure() -> None:
    table = reliability(np.zeros(0, bool), np.zeros(0))
    assert np.isnan([table.expected_error, table.maximum_error, brier(np.zeros(0, bool), np.zeros(0)).value]).all()
    assert np.isnan(reliability(np.zeros(0, bool), np.zeros(0), equal="mass").expected_error)


@settings(max_examples=40)
@given(cases)
def test_brier_is_scikit_learns(pairs: list[tuple[bool, float]]) -> None:
    truth, probabilities = (np.array(column) for column in zip(*pairs, strict=True))
    score = brier(truth, probabilities)
    assert score.value == pytest.approx(brier_score_loss(truth, probabilities, labels=[False, True]))
    two = brier(truth.astype(int), np.stack([1 - probabilities, probabilities], axis=1))
    assert two.value == pytest.approx(2 * score.value)
    halves = brier(truth[::2], probabilities[::2]) + brier(truth[1::2], probabilities[1::2])
    assert halves.value == pytest.approx(score.value)


@pytest.mark.parametrize("seed", range(3))
def test_brier_of_classes_is_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities, truth = random.dirichlet(np.ones(4), 50), random.integers(0, 4, 50)
    theirs = brier_score_loss(truth, probabilities, labels=range(4), scale_by_half=False)
    assert brier(truth, probabilities).value == pytest.approx(theirs)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        reliability(np.array([True]), np.array([1.1]))
    with pytest.raises(ConfigError, match="from 0 to 1"):
        reliability(np.array([True]), np.array([np.nan]))
    with pytest.raises(ConfigError, match="bins"):
        reliability(np.array([True]), np.array([0.5]), bins=0)
    with pytest.raises(ConfigError, match="classes must be 0 to 1, got 2 to 2"):
        brier(np.array([2]), np.array([[0.5, 0.5]]))
    with pytest.raises(ConfigError, match="shape"):
        top_label(np.array([0, 1]), np.array([[0.5, 0.5]]))
    with pytest.raises(ConfigError, match="one probability for each case"):
        brier(np.array([True, False]), np.array([0.5]))
