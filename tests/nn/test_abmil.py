"""Gated attention over bags: planted key instances are found, and nothing but the bag decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.planted_bags import WIDTH, auc, planted_bags
from wsikit.errors import ConfigError
from wsikit.nn.abmil import Fit, GatedAttention, Schedule, fit_bags, score_bag
from wsikit.predictions import Bag

QUICK = Schedule(epochs=8, patience=3, learning_rate=1e-3)


def found(seed: int, train: int, held_out: int, schedule: Schedule) -> tuple[float, float]:
    """(AUC, mean attention of a key over the mean of the rest) on bags that training has not seen."""
    bags, _ = planted_bags(100 * seed, train)
    validation, _ = planted_bags(100 * seed + 1, train // 2)
    fit = fit_bags(bags, validation, classes=2, schedule=replace(schedule, seed=seed), device="cpu")
    test, keys = planted_bags(100 * seed + 2, held_out)
    head = fit.head().double()
    answers = [score_bag(head, bag.features) for bag in test]
    ratios = [a[key].mean() / a[~key].mean() for (_, a), key in zip(answers, keys, strict=True) if key.any()]
    return auc([scores[1] for scores, _ in answers], [bag.label for bag in test]), float(np.mean(ratios))


def test_planted_keys_are_attended_to_and_decide() -> None:
    results = np.array([found(seed, 32, 40, QUICK) for seed in (1, 2, 3)])
    areas, ratios = results.T
    assert areas.mean() > 0.97, results
    assert areas.min() > 0.93, results
    assert ratios.min() > 5, results


@pytest.mark.slow
def test_planted_keys_are_found_from_any_seed() -> None:
    schedule = Schedule(epochs=60, patience=10)
    results = np.array([found(seed, 80, 100, schedule) for seed in range(10, 18)])
    areas, ratios = results.T
    assert areas.mean() > 0.99, results
    assert areas.min() > 0.97, results
    assert ratios.min() > 20, results


def test_without_keys_nothing_is_learned() -> None:
    """A control: with labels drawn at random the same training separates nothing."""
    random = np.random.default_rng(5)
    sets = [planted_bags(seed, 40)[0] for seed in (7, 8, 9)]
    shuffled = [[replace(bag, label=int(random.integers(2))) for bag in bags] for bags in sets]
    fit = fit_bags(shuffled[0], shuffled[1], classes=2, schedule=QUICK, device="cpu")
    head = fit.head().double()
    area = auc([score_bag(head, bag.features)[0][1] for bag in shuffled[2]], [bag.label for bag in shuffled[2]])
    assert 0.25 < area < 0.75


@pytest.fixture(scope="module")
def fit() -> Fit:
    """A head after three epochs."""
    bags, _ = planted_bags(1, 10)
    return fit_bags(bags, bags[:4], classes=2, schedule=Schedule(epochs=3, seed=3), device="cpu")


@pytest.mark.parametrize("count", [1, 2, 77, 4000])
def test_attention_and_scores_sum_to_one_in_bags_of_any_size(fit: Fit, count: int) -> None:
    features = np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32)
    scores, attention = score_bag(fit.head().double(), features)
    assert scores.sum() == pytest.approx(1)
    assert attention.shape == (count,)
    assert attention.sum() == pytest.approx(1)
    assert (attention >= 0).all()


def test_the_order_of_instances_does_not_matter(fit: Fit) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(500, WIDTH)).astype(np.float32)
    order = random.permutation(500)
    head = fit.head().double()
    one, two = score_bag(head, features), score_bag(head, features[order])
    assert np.allclose(one[0], two[0], rtol=0, atol=1e-12)
    assert np.allclose(one[1][order], two[1], rtol=0, atol=1e-12)


def test_the_head_is_the_equation_of_the_paper(fit: Fit) -> None:
    """Against numpy, written from the paper's equations 8 and 9."""
    w = {name: value.double().numpy() for name, value in fit.state.items()}
    features = np.random.default_rng(2).normal(size=(9, WIDTH))
    h = np.maximum((features - w["mean"]) / w["scale"] @ w["project.weight"].T + w["project.bias"], 0)
    v = np.tanh(h @ w["v.weight"].T + w["v.bias"])
    u = 1 / (1 + np.exp(-(h @ w["u.weight"].T + w["u.bias"])))
    e = np.exp((v * u) @ w["w.weight"][0] + w["w.bias"])
    a = e / e.sum()
    z = w["classifier.weight"] @ (a @ h) + w["classifier.bias"]
    scores, attention = score_bag(fit.head().double(), features.astype(np.float32))
    assert np.allclose(attention, a, atol=1e-6)
    assert np.allclose(scores, np.exp(z) / np.exp(z).sum(), atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    bags, _ = planted_bags(1, 8)

    def weights(seed: int) -> torch.Tensor:
        fit = fit_bags(bags, bags, classes=2, schedule=Schedule(epochs=2, seed=seed), device="cpu")
        return fit.state["project.weight"]

    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    bags, _ = planted_bags(1, 4)
    torch.manual_seed(9)
    want = torch.rand(3)
    torch.manual_seed(9)
    fit_bags(bags, bags, classes=2, schedule=Schedule(epochs=1), device="cpu")
    assert torch.equal(torch.rand(3), want)


def test_the_best_epoch_on_validation_is_kept_and_training_stops_after_it() -> None:
    bags, _ = planted_bags(1, 12)
    # validation labels are wrong: what is learned makes it worse
    wrong = [replace(bag, label=1 - (bag.label or 0)) for bag in planted_bags(2, 8)[0]]
    fit = fit_bags(bags, wrong, classes=2, schedule=Schedule(epochs=30, patience=3, learning_rate=1e-3), device="cpu")
    losses = [epoch["validation"] for epoch in fit.history]
    assert fit.epoch == int(np.argmin(losses))
    assert len(losses) == fit.epoch + 4 < 30
    again = fit_bags(bags, wrong, classes=2, schedule=Schedule(epochs=fit.epoch + 1, learning_rate=1e-3), device="cpu")
    assert torch.equal(fit.state["w.weight"], again.state["w.weight"])


def test_a_feature_that_never_changes_is_not_blown_up() -> None:
    bags = [replace(bag, features=np.hstack([bag.features, np.full((len(bag), 1), 7, np.float32)])) for bag in
            planted_bags(1, 4)[0]]  # fmt: skip
    fit = fit_bags(bags, bags, classes=2, schedule=Schedule(epochs=1), device="cpu")
    assert fit.state["scale"][-1] == 1
    assert fit.state["mean"][-1] == pytest.approx(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "label None"),
        ({"label": 2}, "a label from 0 to 1"),
        ({"features": np.zeros((0, WIDTH), np.float32), "regions": ()}, "has 0 instances"),
        ({"features": np.zeros((3, WIDTH + 1), np.float32)}, f"{WIDTH + 1} features, others have {WIDTH}"),
    ],
)
def test_bags_that_cannot_be_learned_from_are_named(change: dict[str, Any], message: str) -> None:
    bags, _ = planted_bags(1, 4)
    odd: list[Bag] = [*bags, replace(bags[0], name="odd", **change)]
    for train, validation in ((odd, bags), (bags, odd)):
        with pytest.raises(ConfigError, match=message) as caught:
            fit_bags(train, validation, classes=2, device="cpu")
        assert "'odd'" in str(caught.value)


def test_every_label_needs_training_bags() -> None:
    bags, _ = planted_bags(1, 4)
    with pytest.raises(ConfigError, match=r"they have \[2, 2, 0\]"):
        fit_bags(bags, bags, classes=3, device="cpu")
    with pytest.raises(ConfigError, match="no validation bags"):
        fit_bags(bags, [], classes=2, device="cpu")


def test_training_that_finds_no_number_is_an_error() -> None:
    bags, _ = planted_bags(1, 4)
    with pytest.raises(ConfigError, match="loss that is a number"):
        fit_bags(bags, bags, classes=2, schedule=Schedule(epochs=3, learning_rate=float("inf")), device="cpu")


def test_a_head_tells_more_than_two_labels_apart() -> None:
    logits, attention = GatedAttention(WIDTH, 5).eval()(torch.zeros(3, WIDTH))
    assert (logits.shape, attention.shape) == ((5,), (3,))
