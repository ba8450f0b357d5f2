"""The one training loop: resumes after a kill, stops early, keeps the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from wsikit.training.recipe import Recipe

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is, after a step or an epoch."""

    stage: str
    """Name of the folder that it writes to."""
    epoch: int
    """From 1."""
    epochs: int
    """At most."""
    step: int
    """Steps done in this epoch, from 1."""
    steps: int | None
    """Of an epoch, where that is known beforehand."""
    metrics: Mapping[str, float]
    """After a step ``train_*``, means of the epoch so far; after an epoch the row of the history."""
    seconds: float
    """Spent on the training so far, earlier calls included."""


Watch = Callable[[Progress], None]
"""Called in the training's own thread; what it raises ends the training, which can be gone on with."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training."""

    epoch: int
    """The best one, from 1; the first of equal ones."""
    metrics: Mapping[str, float]
    """What ``validate`` gave in that epoch."""
    history: tuple[Mapping[str, float], ...] = field(repr=False)
    """Per epoch: ``epoch`` (from 1), ``learning_rate`` (the last), ``train_*`` and ``validation_*``."""
    path: Path
    """Weights of the best epoch, ``best.safetensors``."""
    seconds: float
    """All calls together."""


def fit(
    model: nn.Module,
    step: Callable[[B], Mapping[str, Tensor]],
    train: Callable[[int], Iterable[B]],
    *,
    validate: Callable[[], Mapping[str, float]],
    monitor: str,
    better: Literal["lower", "higher"],
    recipe: Recipe,
    out: Path,
    seed: int,
    device: torch.device,
    identity: Mapping[str, Any],
    watch: Watch | None = None,
) -> Fitted:
    """Train a model, and leave it with the weights of its best epoch."""
    raise NotImplementedError
