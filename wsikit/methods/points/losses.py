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
OFFSET_SLOPE_WEIGHT = 2.0
"""Of the slopes of the offsets beside the offsets, as HoVer-Net has it."""
SOFT = 1.0
"""px added to both sides of the Dice, so that images without nuclei have one."""


def foreground_loss(logits: torch.Tensor, target: torch.Tensor, contact: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus 1 - Dice of each image, which does not mind how much of the image is nuclei.

    Args:
        logits: (N, H, W).
        target: (N, H, W) share of each pixel that is nucleus.
        contact: (N, H, W) in [0, 1], how much two nuclei meet there; counts in the cross-entropy.
    """
    # sums of half precision would overflow
    likely = torch.sigmoid(logits.float())
    both = (likely * target).sum(dim=(1, 2))
    overlap = (2 * both + SOFT) / (likely.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + SOFT)
    error = functional.binary_cross_entropy_with_logits(logits, target, weight=1 + CONTACT_WEIGHT * contact)
    return error + 1 - overlap.mean()


def inner_loss(logits: torch.Tensor, target: torch.Tensor, contact: torch.Tensor) -> torch.Tensor:
    """Between the centre map and the inner distance, (N, H, W) both, the first as logits; ``contact`` as above."""
    error = functional.smooth_l1_loss(torch.sigmoid(logits), target, beta=CENTRE_BETA, reduction="none")
    return CENTRE_WEIGHT * ((1 + CONTACT_WEIGHT * contact) * error).mean()


def offset_loss(found: torch.Tensor, target: torch.Tensor, inside: torch.Tensor, contact: torch.Tensor) -> torch.Tensor:
    """Squared error of offsets, and of their slopes, within nuclei (Graham et al. 2019, arXiv:1812.06499).

    Args:
        found: (N, 2, H, W) offsets in x and y.
        target: what they are, ``wsikit.methods.points.inner.offsets``.
        inside: (N, H, W) 1 in nuclei, 0 elsewhere.
        contact: (N, H, W) as above; counts in the error of the offsets.
    """
    weight = (inside * (1 + CONTACT_WEIGHT * contact))[:, None]
    # a slope is known where all that it is computed of is nucleus
    deep = -functional.max_pool2d(-functional.pad(inside[:, None], (1, 1, 1, 1)), 3, stride=1)
    return _mean((found - target) ** 2, weight) + OFFSET_SLOPE_WEIGHT * _mean(_slopes(found - target) ** 2, deep)


def _mean(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sum over both directions, weighted mean over pixels; 0 where nothing weighs."""
    return (weight * error).sum() / weight.sum().clamp(min=1)


def _slopes(offsets: torch.Tensor) -> torch.Tensor:
    """(N, 2, H, W) derivative of x offsets along x and of y offsets along y, per px, by Sobel's kernel."""
    along = torch.tensor([[1.0], [2.0], [1.0]]) * torch.tensor([[-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([along, along.T])[:, None].to(offsets)
    return functional.conv2d(offsets, kernels, padding=1, groups=2)


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
