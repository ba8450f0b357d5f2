"""Dense CRF loss: pixels that are near and alike in colour should be on the same side.

    W_ij = exp(-|x_i - x_j|^2 / (2 sxy^2) - |I_i - I_j|^2 / (2 srgb^2)),   I in [0, 1]
    loss = 1 / |valid| * sum over i, j of (1 - S_i) W_ij S_j

with S the probability of foreground, one bilateral kernel that is not normalised by rows, and the terms i = j (Qu et
al. 2020, after Tang et al., On regularized losses for weakly-supervised CNN segmentation, ECCV 2018). Here exact within
a window, in plain torch: for each offset of half of the window (the kernel is symmetric) one shifted product, never a
matrix of pairs. The gradient, 1 / |valid| * sum over j of W_ij (1 - 2 S_j), falls off the same sums.

The sums are as large as the kernel: up to 2 pi sxy^2 per pixel, 509 at 9 px. Weights of the loss (beta; authors: 0.005)
are meant for them and are not part of it. The authors' code hands that gradient to the foreground's channel and its
negative to the background's, so that after a softmax of two their step is twice the derivative of the loss: their beta
of 0.005 pulls like 0.01 here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from wsikit.errors import ConfigError

SXY = 9 / 11
"""Reach of the kernel in nuclear radii: 9 px at a radius of 11 (authors)."""
SRGB = 0.1
"""Its reach in colour, of a range of 1; the authors have 0.1 for sections of many organs and 0.2 for lung."""
WINDOW = 2.0
"""Radius of the window in sxy. Cut there, the sum lost 1.5 % on planted images."""


def crf_loss(
    inside: torch.Tensor,
    images: torch.Tensor,
    *,
    sxy: float,
    srgb: float = SRGB,
    valid: torch.Tensor | None = None,
    scale: int = 2,
    window: float = WINDOW,
) -> torch.Tensor:
    """Loss of the module over the valid pixels of a batch; 0, with a gradient of 0, where none is valid.

    Args:
        inside: (N, H, W) probability of foreground; the only one that gets a gradient.
        images: (N, 3, H, W) RGB in [0, 1].
        sxy: reach of the kernel in px of the images.
        srgb: reach in colour.
        valid: (N, H, W) bool, pixels that count; those that augmentation made do not. All by default.
        scale: works on means of so many px a side (of the valid ones), which takes scale^4 less work. Each stands for
            scale^2 partners, so that the loss stays about that of scale 1, and so does its weight.
        window: radius in sxy beyond which pairs do not count.

    Raises:
        ConfigError: a length that is not positive, or shapes that do not fit.
    """
    _check(inside, images, valid, sxy=sxy, srgb=srgb, scale=scale, window=window)
    if valid is None:
        valid = torch.ones_like(inside, dtype=torch.bool)
    exact = torch.promote_types(inside.dtype, torch.float32)
    inside, images = inside.to(exact), images.detach().to(exact)
    if scale > 1:
        inside, images, valid = (
            _reduced(inside[:, None], valid, scale)[:, 0],
            _reduced(images, valid, scale),
            (functional.max_pool2d(valid[:, None].to(exact), scale, ceil_mode=True)[:, 0] > 0),
        )
    loss: torch.Tensor = _Pairs.apply(inside, images, valid, sxy / scale, srgb, window * sxy / scale)
    return loss * scale**2


class _Pairs(torch.autograd.Function):
    """The loss at the resolution of its arguments, and the gradient that its sums give away."""

    @staticmethod
    def forward(
        ctx: Any,
        inside: torch.Tensor,
        images: torch.Tensor,
        valid: torch.Tensor,
        sxy: float,
        srgb: float,
        radius: float,
    ) -> torch.Tensor:
        total, found = kernel_sums(inside, images, valid, sxy=sxy, srgb=srgb, radius=radius)
        count = valid.sum().clamp(min=1)
        ctx.save_for_backward((total - 2 * found) / count)
        return (found * (1 - inside).masked_fill(~valid, 0)).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None, None, None, None


def kernel_sums(
    inside: torch.Tensor, images: torch.Tensor, valid: torch.Tensor, *, sxy: float, srgb: float, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, H, W) sums of W_ij, and of W_ij S_j, over the valid j within ``radius`` px of i; 0 where i is not valid.

    A tile with a halo of ``radius`` has in its core the sums of the whole.

    Args:
        inside: (N, H, W) S.
        images: (N, C, H, W).
        valid: (N, H, W) bool.
        sxy, srgb: reach of the kernel in px and in colour.
        radius: of the window, px, inclusive.
    """
    fields = torch.stack([valid.to(inside.dtype), inside.masked_fill(~valid, 0)], dim=1)
    colours = images / (srgb * math.sqrt(2))
    sums = fields.clone()  # i = j
    height, width = inside.shape[1:]
    for down, right in _half_window(radius, height, width):
        near = math.exp(-(down**2 + right**2) / (2 * sxy**2))
        here = (..., slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (..., slice(down, height), slice(max(0, right), width - max(0, -right)))
        kernel = near * torch.exp(-(colours[here] - colours[there]).square().sum(dim=1, keepdim=True))
        sums[here] += kernel * fields[there]
        sums[there] += kernel * fields[here]
    total, found = (sums * fields[:, :1]).unbind(dim=1)
    return total, found


def _half_window(radius: float, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Offsets (down, right) within a radius, one of each pair of opposite ones, that fit into an image."""
    for down in range(min(int(radius), height - 1) + 1):
        most = min(int(math.sqrt(radius**2 - down**2)), width - 1)
        for right in range(-most if down else 1, most + 1):
            yield down, right


def _reduced(values: torch.Tensor, valid: torch.Tensor, scale: int) -> torch.Tensor:
    """(N, C, h, w) means of the valid ones among ``scale`` x ``scale`` px, 0 where there are none."""
    share = valid[:, None].to(values.dtype)
    # both divided by as many px: where a block reaches past the edge as well
    sums = functional.avg_pool2d(values * share, scale, ceil_mode=True)
    return sums / functional.avg_pool2d(share, scale, ceil_mode=True).clamp(min=1e-6)


def _check(inside: torch.Tensor, images: torch.Tensor, valid: torch.Tensor | None, **lengths: float) -> None:
    wrong = {name: value for name, value in lengths.items() if not value > 0}
    if wrong:
        raise ConfigError(f"the CRF loss needs positive {', '.join(lengths)}, got {wrong}")
    shape = inside.shape
    fits = inside.ndim == 3 and images.shape == (shape[0], 3, *shape[1:]) and (valid is None or valid.shape == shape)
    if not fits:
        raise ConfigError(
            "the CRF loss takes probabilities (N, H, W), images (N, 3, H, W) and valid pixels (N, H, W), got "
            f"{tuple(shape)}, {tuple(images.shape)} and {None if valid is None else tuple(valid.shape)}"
        )
