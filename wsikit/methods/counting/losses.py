"""Losses of the three stages."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

LEAST_RATE = 1e-3
"""Smallest expected count of a Poisson: an image without cells must not have an infinite loss."""


def count_loss(found: torch.Tensor, truth: torch.Tensor, kind: Literal["smooth_l1", "mse", "poisson"]) -> torch.Tensor:
    """Mean over images of the loss between (N,) predicted and (N,) true counts."""
    if kind == "smooth_l1":
        return functional.smooth_l1_loss(found, truth)
    if kind == "mse":
        return functional.mse_loss(found, truth)
    return functional.poisson_nll_loss(found.clamp(min=LEAST_RATE), truth, log_input=False)


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over images of 1 - 2 sum(p q) / (sum p^2 + sum q^2), V-Net's form (Milletari et al. 2016).

    Args:
        logits: (N, H, W).
        target: (N, H, W), 0 or 1.

    One pixel that agrees is added above and below, so that an empty mask found empty loses nothing, and a trace of
    foreground on an empty one loses little at a time.
    """
    p = torch.sigmoid(logits.float())
    both = (p * target).sum(dim=(1, 2))
    either = (p.square() + target.square()).sum(dim=(1, 2))
    return (1 - (2 * both + 1) / (either + 1)).mean()
