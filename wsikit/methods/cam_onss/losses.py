"""Losses of patch labels and of noisy masks.

Masks made from activation maps are wrong in a structured way: an activation spills over what it should not cover. OEEM
(Li et al., MICCAI 2022) gives a pixel the weight ``softmax(-L)`` over the pixels of its image, divided by its mean,
with L the cross entropy. Since exp(-L) is the probability p(y) of the pixel's label, that is ``p(y) / mean p(y)``:
online noise suppression (Pan et al., EAAI 156, 2025) multiplies it by how sure the network is, the largest probability
less the smallest. Images of a single label are right by their patch label and weigh 1 everywhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from wsikit.methods.cam_onss.classes import IGNORED

Mode = Literal["ce", "oeem", "onss"]


def presence_loss(logits: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Multilabel soft margin loss of (N, K) logits, present (N, K) 0 or 1: binary cross entropy, mean over classes."""
    return functional.multilabel_soft_margin_loss(logits.float(), present.float())


def noise_weights(
    logits: torch.Tensor, target: torch.Tensor, mode: Mode, *, renormalise: bool = False, class_floor: float = 0.0
) -> torch.Tensor:
    """(N, H, W) weights of pixels, without gradient; 0 where the target is ignored.

    Args:
        logits: (N, K, H, W).
        target: (N, H, W) class indices; 255 is ignored.
        mode: ce weighs all pixels alike.
        renormalise: weights of an image have the mean 1 over its valid pixels.
        class_floor: least mean weight, in an image, of the pixels of each class that its mask holds: rare and hard
            classes have low probabilities, and would be learned last.
    """
    valid = target != IGNORED
    if mode == "ce":
        return valid.float()
    with torch.no_grad():
        p = torch.softmax(logits.float(), dim=1)
        weights = p.gather(1, target.masked_fill(~valid, 0).long()[:, None])[:, 0] * valid
        weights = weights / _mean(weights, valid).clamp(min=torch.finfo(torch.float32).tiny)
        if mode == "onss":
            weights = weights * (p.amax(dim=1) - p.amin(dim=1))
        if renormalise:
            weights = weights / _mean(weights, valid).clamp(min=torch.finfo(torch.float32).tiny)
        if class_floor:
            weights = _raised(weights, target, logits.shape[1], class_floor)
        return torch.where(_single(target, valid), valid.float(), weights)


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(N, 1, 1) over the valid pixels of each image."""
    return (values * valid).sum(dim=(1, 2), keepdim=True) / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)


def _raised(weights: torch.Tensor, target: torch.Tensor, classes: int, floor: float) -> torch.Tensor:
    for index in range(classes):
        mine = target == index
        low = (floor / _mean(weights, mine).clamp(min=1e-12)).clamp(min=1)
        # a class all of whose weights are 0 cannot be scaled up to the floor: it gets it
        weights = torch.where(mine, torch.where(_mean(weights, mine) > 0, weights * low, floor), weights)
    return weights


def _single(target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(N, 1, 1) whether an image's mask holds one class at most."""
    largest = target.masked_fill(~valid, -1).amax(dim=(1, 2), keepdim=True)
    smallest = target.masked_fill(~valid, IGNORED).amin(dim=(1, 2), keepdim=True)
    return (largest == smallest) | ~valid.any(dim=2, keepdim=True).any(dim=1, keepdim=True)


def noise_suppressed_loss(
    logits: torch.Tensor, target: torch.Tensor, mode: Mode, *, renormalise: bool = False, class_floor: float = 0.0
) -> torch.Tensor:
    """Mean over the valid pixels of weight times cross entropy: see ``noise_weights``. 0 where no pixel is valid.

    The original took the mean over all pixels, and ignored ones had the weight of pixels without a loss, so that those
    that counted weighed less the more were ignored.
    """
    weights = noise_weights(logits, target, mode, renormalise=renormalise, class_floor=class_floor)
    each = functional.cross_entropy(logits.float(), target.long(), ignore_index=IGNORED, reduction="none")
    return (weights * each).sum() / (target != IGNORED).sum().clamp(min=1)
