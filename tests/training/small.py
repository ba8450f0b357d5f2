"""A training small enough for tests, in which every generator matters: dropout, batch norm, shuffled and noisy batches.

As a program (OUT EPOCH STEP): trains into OUT, and kills itself with SIGKILL after that step of that epoch.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsikit.training.fit import Fitted, Progress, fit
from wsikit.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=6, batch_size=8, learning_rate=0.02, warmup=0.2, threads=1)
Batch = tuple[Tensor, Tensor]


class Small(nn.Module):
    """Three numbers in, one out; ``frozen`` is never trained and stays in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8)).requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))

    def train(self, mode: bool = True) -> Small:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.frozen(x)).squeeze(1)


def small(seed: int = 0) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small()


def examples(seed: int, count: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 3


def batches(epoch: int) -> list[Batch]:
    """Shuffled by torch, jittered by numpy, one left out by python."""
    x, y = examples(1)
    order = torch.randperm(len(x))
    x = x + torch.from_numpy(np.random.normal(0, 0.1, x.shape)).float()
    cut = list(order.split(RECIPE.batch_size))
    cut.pop(random.randrange(len(cut)))
    return [(x[index], y[index]) for index in cut]


def train(model: nn.Module, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> Fitted:
    """``fit`` with all that it needs; ``changes`` replace its arguments."""

    def step(batch: Batch) -> dict[str, Tensor]:
        x, y = batch
        error = model(x) - y
        return {"loss": error.square().mean(), "mae": error.abs().mean()}

    def validate() -> Mapping[str, float]:
        x, y = examples(2)
        return {"mae": float((model(x) - y).abs().mean())}

    given: dict[str, Any] = {
        "step": step,
        "train": batches,
        "validate": validate,
        "monitor": "mae",
        "better": "lower",
        "recipe": recipe,
        "out": out,
        "seed": 3,
        "device": CPU,
        "identity": {"data": "digest of examples"},
    }
    return fit(model, **(given | changes))


def at(epoch: int, step: int, do: Callable[[], object]) -> Callable[[Progress], None]:
    """A watch that does something after a step, before the epoch is whole."""

    def watch(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            do()

    return watch


if __name__ == "__main__":
    train(
        small(),
        Path(sys.argv[1]),
        watch=at(int(sys.argv[2]), int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL)),
    )
