"""Bootstrap intervals over patients: how often they cover the truth, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from wsikit.errors import ConfigError
from wsikit.metrics import accuracy, auc_interval, bootstrap_interval, macro_auc

Arrays = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]


def cohort(seed: int, patients: int = 40, slides: int = 3) -> Arrays:
    """Truth, scores and patients of slides: half the variance of a score is the patient's own, half the slide's."""
    random = np.random.default_rng(seed)
    patient = np.arange(patients).repeat(slides)
    truth = patient % 2 == 0
    own = random.normal(0, np.sqrt(0.5), patients)
    scores = truth + own[patient] + random.normal(0, np.sqrt(0.5), len(patient))
    return truth, scores, patient


def test_the_interval_of_auc_covers_the_truth_and_one_over_slides_does_not() -> None:
    # two normal scores one standard deviation apart: AUC = Phi(1 / sqrt 2)
    true = norm.cdf(1 / np.sqrt(2))
    covered = np.zeros(2)
    for seed in range(200):
        truth, scores, patient = cohort(seed)
        for k, groups in enumerate((patient, np.arange(len(patient)))):
            low, high = auc_interval(truth, scores, groups, rounds=80, seed=seed)
            covered[k] += low <= true <= high
    patients, slides = covered / 200
    assert 0.90 <= patients <= 0.995
    assert slides < 0.90


def test_the_interval_of_any_metric_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        # 40 patients of one to four cases, right in a share that is the patient's, 0.7 in the mean
        sizes = random.integers(1, 5, 40)
        right = random.random(sizes.sum()) < random.beta(7, 3, 40).repeat(sizes)
        low, high = bootstrap_interval(
            lambda a, b: accuracy(a, b).value,
            np.ones(len(right), bool),
            right,
            groups=np.arange(40).repeat(sizes),
            rounds=100,
            seed=seed,
        )
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 0.995


def test_every_resample_holds_every_class_and_as_many_patients_of_each() -> None:
    # one class has two patients of 30: drawn among all, an eighth of resamples would lack it
    truth = np.array([1, 1, *[0] * 28])
    shares: list[float] = []

    def share(column: NDArray[np.int64]) -> float:
        shares.append(float(column.mean()))
        return shares[-1]

    bootstrap_interval(share, truth, groups=np.arange(30), strata=truth, rounds=300)
    assert set(shares) == {2 / 30}
    shares.clear()
    bootstrap_interval(share, truth, groups=np.arange(30), rounds=300)
    assert 0 in shares
    assert len(set(shares)) > 3


def test_a_patient_with_cases_of_both_classes_is_drawn_whole() -> None:
    groups = np.array(["a", "a", "b", "b", "c", "d"])
    truth = np.array([0, 1, 0, 1, 0, 1])
    seen: set[tuple[int, ...]] = set()

    def watch(case: NDArray[np.int64]) -> float:
        seen.add(tuple(np.bincount(case, minlength=6).tolist()))
        return 0.0

    bootstrap_interval(watch, np.arange(6), groups=groups, strata=truth, rounds=100)
    # a and b are drawn among each other; c and d are alone with their class
    assert seen == {(1, 1, 1, 1, 1, 1), (2, 2, 0, 0, 1, 1), (0, 0, 2, 2, 1, 1)}


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_macro_auc_holds_the_figure_and_narrows_with_patients(seed: int) -> None:
    random = np.random.default_rng(seed)
    widths = []
    for patients in (30, 300):
        truth = np.arange(patients) % 3
        scores = np.eye(3)[truth] + random.normal(0, 1, (patients, 3))
        low, high = auc_interval(truth, scores, np.arange(patients), rounds=200, seed=seed)
        assert low <= macro_auc(truth, scores) <= high
        widths.append(high - low)
    # by about the root of ten
    assert widths[1] < widths[0] / 2


def test_the_seed_decides_and_the_level_widens() -> None:
    truth, scores, patient = cohort(0)
    one = auc_interval(truth, scores, patient, rounds=200)
    assert auc_interval(truth, scores, patient, rounds=200) == one
    assert auc_interval(truth, scores, patient, rounds=200, seed=1) != one
    narrow = auc_interval(truth, scores, patient, rounds=200, level=0.5)
    assert one[0] < narrow[0] < narrow[1] < one[1]


def test_a_metric_that_is_never_defined_and_no_cases_have_no_interval() -> None:
    assert np.isnan(bootstrap_interval(lambda x: np.nan, np.arange(3), groups=np.arange(3), rounds=5)).all()
    assert np.isnan(bootstrap_interval(np.mean, np.zeros(0), groups=np.zeros(0))).all()


def test_columns_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="one length"):
        bootstrap_interval(np.mean, np.zeros(3), groups=np.zeros(4))
    with pytest.raises(ConfigError, match="level"):
        bootstrap_interval(np.mean, np.zeros(3), groups=np.zeros(3), level=95)
