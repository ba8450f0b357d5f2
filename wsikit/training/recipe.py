"""How a network is trained, apart from what it learns: the part of a configuration that every method has."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wsikit.nn.device import Precision

START, END = 1 / 25, 1e-4
"""Where onecycle starts, as a share of the learning rate, and where it ends, as a share of that start: Smith and Topin,
Super-convergence (arXiv:1708.07120), with torch's OneCycleLR's numbers. Momentum is not cycled."""

POWER = 0.9
"""Of poly: Chen et al., DeepLab (arXiv:1606.00915)."""


class Recipe(BaseModel):
    """Optimiser, schedule, precision, and when to stop."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=40, ge=1)
    """At most."""
    batch_size: int = Field(default=16, ge=1)
    """For those who make the batches; ``fit`` takes them as they come."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The highest of the schedule."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of weights with two or more dimensions; biases and norms have none."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """sgd has Nesterov's momentum of 0.9."""
    schedule: Literal["cosine", "onecycle", "poly", "constant"] = "cosine"
    """What follows the warm-up: half a cosine down to 0, or to nearly 0 (onecycle, which also warms up along one), the
    power 0.9 of what is left (poly, as DeepLab and PSPNet have it), or level."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises; onecycle is usually given 0.3."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient of all weights together; null does not clip."""
    precision: Precision = "float32"
    """What passes of the network compute in; weights stay float32."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better monitored metric after which training stops; null goes on to the last."""
    judged: float = Field(default=1.0, gt=0, le=1)
    """Share of the epochs, the last ones, that one is chosen from. Where few images validate, one of many may look best
    by luck; those at the end, where the learning rate is low, are alike."""
    threads: int | None = Field(default=None, ge=1)
    """torch's threads on the CPU while training; null takes all cores. Another number moves the last bits of floats."""

    @property
    def first_judged(self) -> int:
        """The first epoch, from 1, that may be chosen."""
        return self.epochs - max(1, round(self.epochs * self.judged)) + 1

    def rate(self, share: float) -> float:
        """The learning rate after a share (0 to 1) of the training."""
        rising = share < self.warmup
        part = share / self.warmup if rising else (share - self.warmup) / (1 - self.warmup)
        if self.schedule == "onecycle":
            low, high = (START, 1.0) if rising else (START * END, 1.0)
            return self.learning_rate * (low + (high - low) * _cosine(1 - part if rising else part))
        if rising:
            return self.learning_rate * part
        falling = {"cosine": _cosine(part), "poly": float(max(0.0, 1 - part) ** POWER), "constant": 1.0}
        return self.learning_rate * falling[self.schedule]


def _cosine(part: float) -> float:
    """1 at 0, 0 at 1."""
    return (1 + math.cos(math.pi * part)) / 2
