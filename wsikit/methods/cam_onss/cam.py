"""Class activation maps behind global average pooling and a linear layer, in closed form: one pass forward for all
classes, none backward.

With logits ``s_k = sum_c w_kc mean(A_c)`` the gradient of s_k in every pixel of channel c is ``g = w_kc / (H W)``, the
same everywhere. So Grad-CAM is CAM (Zhou et al., CVPR 2016), and Grad-CAM++ (Chattopadhay et al., WACV 2018) is CAM
with channel weights ``sum_ij relu(g) alpha``, ``alpha = g^2 / (2 g^2 + g^3 sum(A_c))``.
"""

from __future__ import annotations

from typing import Literal

import torch

Kind = Literal["linear", "plus"]
EPSILON = 1e-6
"""Of Grad-CAM++'s denominator, as released."""


def channel_weights(features: torch.Tensor, weight: torch.Tensor, kind: Kind) -> torch.Tensor:
    """(N, K, C) share of each channel in each class's map.

    Args:
        features: (N, C, H, W) what is pooled.
        weight: (K, C) of the linear layer.
        kind: linear takes the layer's weights, plus those of Grad-CAM++.
    """
    if kind == "linear":
        return weight[None].expand(len(features), -1, -1)
    # in double precision: g is about 1e-6, and its cube is added to a constant of that size
    pixels = features.shape[2] * features.shape[3]
    g = weight.double()[None] / pixels
    total = features.double().sum(dim=(2, 3))[:, None]
    alpha = g.square() / (2 * g.square() + total * g**3 + EPSILON)
    return (pixels * torch.relu(g) * alpha).to(features.dtype)


def activation_maps(features: torch.Tensor, weight: torch.Tensor, kind: Kind = "plus") -> torch.Tensor:
    """(N, K, H, W) non-negative activations; see ``channel_weights`` for the arguments."""
    return torch.relu(torch.einsum("nkc,nchw->nkhw", channel_weights(features, weight, kind), features))
