"""What the network's two values are held against."""

from __future__ import annotations

import torch
from torch.nn import functional

from wsikit.methods.points.voronoi import IGNORED

CENTRE_WEIGHT = 4.0
"""Of the centre's loss beside the foreground's two."""
CENTRE_BETA = 0.1
"""Errors of the centre map up to this are squared, larger ones count by their size (Huber)."""
CONTACT_WEIGHT = 8.0
"""Added to the 1 that a pixel counts, where two nuclei meet: the few pixels there decide if they are told apart."""
SOFT = 1.0
"""px added to both sides of the Dice, so that images without nuclei have one."""


def foreground_loss(logits: torch.Tensor, target: torch.Tensor, contact: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus 1 - Dice of each image, which does not mind how much of the image is nuclei.

    Args:
        logits: (N, H, W).
        target: (N, H, W) share of each pixel that is nucleus.
        contact: (N, H, W) in [0, 1], how much two nuclei meet there; counts in the cross-entropy.
    """
    likely = torch.sigmoid(logits)
    both = (likely * target).sum(dim=(1, 2))
    overlap = (2 * both + SOFT) / (likely.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + SOFT)
    error = functional.binary_cross_entropy_with_logits(logits, target, weight=1 + CONTACT_WEIGHT * contact)
    return error + 1 - overlap.mean()


def inner_loss(logits: torch.Tensor, target: torch.Tensor, contact: torch.Tensor) -> torch.Tensor:
    """Between the centre map and the inner distance, (N, H, W) both, the first as logits; ``contact`` as above."""
    error = functional.smooth_l1_loss(torch.sigmoid(logits), target, beta=CENTRE_BETA, reduction="none")
    return CENTRE_WEIGHT * ((1 + CONTACT_WEIGHT * contact) * error).mean()


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the pixels that a label knows, over the whole batch; 0 where it knows none.

    Args:
        logits: (N, H, W) of the foreground.
        labels: (N, H, W) 0 background, 1 nucleus, ``IGNORED`` neither.
    """
    known = labels != IGNORED
    target = torch.where(known, labels, 0)
    error = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (error * known).sum() / known.sum().clamp(min=1)
