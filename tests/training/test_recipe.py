"""Learning rates by hand, and by torch's own schedulers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from wsikit.training.recipe import Recipe


def rates(shares: list[float], **changes: Any) -> list[float]:
    recipe = Recipe(learning_rate=0.4, **changes)
    return [recipe.rate(share) for share in shares]


def test_warm_up_is_linear_from_nothing() -> None:
    for schedule in ("cosine", "constant"):
        found = rates([0, 0.05, 0.1, 0.15, 0.2], warmup=0.2, schedule=schedule)
        assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_cosine_by_hand() -> None:
    found = rates([0.2, 0.4, 0.6, 0.8, 1.0], warmup=0.2, schedule="cosine")
    root = math.sqrt(0.5)
    assert found == pytest.approx([0.4, 0.2 * (1 + root), 0.2, 0.2 * (1 - root), 0])


def test_constant_by_hand() -> None:
    assert rates([0.2, 0.6, 1.0], warmup=0.2, schedule="constant") == [0.4] * 3


def test_poly_by_hand() -> None:
    found = rates([0.2, 0.6, 1.0], warmup=0.2, schedule="poly")
    assert found == pytest.approx([0.4, 0.4 * 0.5**0.9, 0])


def test_onecycle_by_hand() -> None:
    found = rates([0, 0.15, 0.3, 0.65, 1.0], warmup=0.3, schedule="onecycle")
    assert found == pytest.approx([0.016, 0.208, 0.4, 0.2 + 0.8e-6, 1.6e-6])


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "poly", "constant"])
def test_without_warm_up_training_starts_at_the_full_rate(schedule: str) -> None:
    assert rates([0], warmup=0, schedule=schedule) == pytest.approx([0.4])


@pytest.mark.parametrize(("steps", "warmup"), [(11, 0.3), (101, 0.1), (40, 0.5)])
def test_onecycle_is_torchs(steps: int, warmup: float) -> None:
    """torch reaches its highest rate at step ``pct_start * steps - 1`` and its end at ``steps - 1``."""
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4)
    peak = (warmup * (steps - 1) + 1) / steps
    theirs = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.4, total_steps=steps, pct_start=peak, cycle_momentum=False)
    found = []
    for _ in range(steps):
        found.append(theirs.get_last_lr()[0])
        sgd.step()
        if len(found) < steps:
            theirs.step()
    ours = rates([i / (steps - 1) for i in range(steps)], warmup=warmup, schedule="onecycle")
    assert ours == pytest.approx(found, rel=1e-9)


def test_cosine_is_torchs() -> None:
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 20)
    found = []
    for _ in range(21):
        found.append(theirs.get_last_lr()[0])
        sgd.step()
        theirs.step()
    assert rates([i / 20 for i in range(21)], warmup=0, schedule="cosine") == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"warmup": 1.0},
        {"clip": 0},
        {"patience": 0},
        {"threads": 0},
        {"optimizer": "lion"},
        {"schedule": "step"},
        {"precision": "int8"},
        {"lr": 1e-3},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().epochs = 3  # type: ignore[misc]
