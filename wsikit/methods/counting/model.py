"""One encoder and the heads of the three stages.

The encoder is cut off before its coarsest level: what a place is said to hold depends on what is near it. So a density
has to lie where the cells are, windows of a slide agree with each other, and counts add up. All heads but the mask's
speak in cells of 4 x 4 px.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
from torch import nn
from torch.nn import functional

from wsikit.methods.counting.config import LYSTO_EDGES, Config
from wsikit.methods.counting.instances import STRIDE, Windows
from wsikit.nn.pyramid import FeatureEncoder
from wsikit.nn.unet import MaskDecoder

Stage = Literal["counter", "instances", "segmenter"]
WIDTH = 64
"""Channels of the density neck and hidden units of the heads."""
INSTANCE_LEVELS = 2
"""Levels that windows are described by, from the finest on: strides 4 and 8. Coarser ones see far past a cell."""
WHOLE = 32
"""Multiples of it are whole cells on every level of the encoder, px."""
ONE = 0.5413
"""First bias of the density: softplus of it is 1, so that training begins with the mean of the training images."""


def inner(maps: torch.Tensor, margin: int) -> torch.Tensor:
    """(..., H, W) without so many cells at each border."""
    return maps[..., margin : maps.shape[-2] - margin, margin : maps.shape[-1] - margin]


class DensityHead(nn.Module):
    """(N, h, w) expected cells in every cell of the finest map: non-negative, and their sum is the count.

    Coarse levels are brought to the finest one top down, as in feature pyramids (Lin et al. 2017). The map is a
    multiple of ``scale``, the training images' mean: with plain cells, of which thousands are summed, learning took
    three times as long.
    """

    scale: torch.Tensor

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, WIDTH, 1) for count in channels)
        self.smooth = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.out = nn.Conv2d(WIDTH, 1, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.constant_(cast(torch.Tensor, self.out.bias), ONE)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Levels, finest first."""
        joined = self.lateral[-1](features[-1])
        for lateral, level in zip(self.lateral[-2::-1], features[-2::-1], strict=True):
            joined = lateral(level) + functional.interpolate(joined, size=level.shape[-2:], mode="nearest")
        # (N, 1, h, w) -> (N, h, w)
        return functional.softplus(self.out(self.smooth(joined)).squeeze(1).float()) * self.scale


class PooledHead(nn.Module):
    """One number of an image from its coarsest level, average and maximum pooled, as published."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(channels),
            nn.Dropout(0.25),
            nn.ReLU(),
            nn.Linear(channels, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.Dropout(0.5),
            nn.Linear(WIDTH, outputs),
        )

    def forward(self, coarsest: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, outputs)."""
        pooled = coarsest.mean(dim=(2, 3)) + coarsest.amax(dim=(2, 3))
        return cast(torch.Tensor, self.layers(pooled.float()))


class CountingNet(nn.Module):
    """Encoder, counter, instance classifier and mask decoder. Takes (N, 3, H, W) RGB in [0, 1]."""

    vector_mean: torch.Tensor
    vector_scale: torch.Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(config.encoder, depth=config.depth)
        self.finest = self.encoder.strides.index(STRIDE)
        """Level of the encoder with a cell every 4 px."""
        channels = list(self.encoder.channels)
        self.windows = Windows.of(config.instances, config.mpp)
        density = config.counter.head == "density"
        self.density = DensityHead(channels[self.finest :]) if density else None
        self.pooled = None if density else PooledHead(channels[-1], 1)
        self.bins = PooledHead(channels[-1], len(LYSTO_EDGES) + 1) if config.counter.bins else None
        self.described = sum(channels[self.finest : self.finest + INSTANCE_LEVELS])
        self.register_buffer("vector_mean", torch.zeros(self.described))
        self.register_buffer("vector_scale", torch.ones(self.described))
        self.instance = nn.Sequential(nn.Linear(self.described, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
        width = config.segmenter.width
        self.decoder = MaskDecoder(self.encoder, classes=1, width=width) if config.segmenter.enabled else None
        self._stage: Stage = "counter"
        self._trained: list[nn.Module] | None = None
        self.encoder_facts: dict[str, object] = {}

    def stage(self, stage: Stage) -> Self:
        """Train the parts of a stage only; all others are frozen, their batch-norm statistics included."""
        self._stage = stage
        parts: dict[Stage, list[nn.Module | None]] = {
            "counter": [self.encoder, self.density, self.pooled, self.bins],
            "instances": [self.instance],
            "segmenter": [self.decoder],
        }
        self.requires_grad_(False)
        self._trained = [part for part in parts[stage] if part is not None]
        for part in self._trained:
            part.requires_grad_(True)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Only what the stage trains leaves eval mode: a frozen encoder's running statistics must not drift."""
        if self._trained is None:
            return super().train(mode)
        super().train(False)
        self.training = mode
        for part in self._trained:
            part.train(mode)
        return self

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Levels of the encoder, finest first; without gradients where the stage does not train it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._stage == "counter"):
            return cast(list[torch.Tensor], self.encoder(x))

    def count(self, features: list[torch.Tensor], margin: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N,) counts without what lies in a margin of so many px, and (N, bins) logits where bins are learned."""
        bins = None if self.bins is None else self.bins(features[-1])
        cells = self.density_map(features)
        if cells is not None:
            return inner(cells, margin // STRIDE).sum(dim=(1, 2)), bins
        assert self.pooled is not None
        return torch.relu(self.pooled(features[-1]).squeeze(1)), bins

    def density_map(self, features: list[torch.Tensor]) -> torch.Tensor | None:
        """(N, h, w) expected cells in every 4 x 4 px; None where the counter is pooled."""
        return None if self.density is None else cast(torch.Tensor, self.density(features[self.finest :]))

    def window_vectors(self, features: list[torch.Tensor]) -> torch.Tensor:
        """(N, C, h - t + 1, w - t + 1) mean of what the finest levels say in the window that begins at each cell."""
        fine, *coarse = features[self.finest : self.finest + INSTANCE_LEVELS]
        wide = (functional.interpolate(level, size=fine.shape[-2:], mode="nearest") for level in coarse)
        return functional.avg_pool2d(torch.cat([fine, *wide], 1).float(), self.windows.tile, stride=1)

    def instance_logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (...)."""
        return cast(torch.Tensor, self.instance((vectors - self.vector_mean) / self.vector_scale).squeeze(-1))

    def standardise(self, vectors: torch.Tensor) -> None:
        """Take mean and deviation of the training windows (N, C) for those of all windows."""
        self.vector_mean.copy_(vectors.mean(dim=0))
        self.vector_scale.copy_(vectors.std(dim=0).clamp(min=1e-6))

    def heat(self, features: list[torch.Tensor]) -> torch.Tensor:
        """(N, h, w) probability of a cell: in each cell of the map that of the surest window which holds it.

        A window's score is a function of the mean over its cells, so all of them come from one pass of the encoder, and
        each is what that window alone would get.
        """
        # (N, C, h', w') -> (N, h', w', C) -> (N, h', w')
        scores = torch.sigmoid(self.instance_logits(self.window_vectors(features).permute(0, 2, 3, 1)))
        around = self.windows.tile - 1
        return functional.max_pool2d(functional.pad(scores, (around,) * 4), self.windows.tile, stride=1)

    def centred_heat(self, x: torch.Tensor) -> torch.Tensor:
        """(N, ceil(H / 4), ceil(W / 4)) mean of the heat of (N, 3, H, W) images and of their mirror images, each
        mirrored back.

        Counts do not tell where in a window its cell lies, so the encoder may learn to see all cells shifted by as much
        as their radius to one side. Mirrored, they are shifted to the other one.
        """
        height, width = x.shape[-2:]
        # whole cells, or those of the mirror images lie elsewhere
        x = functional.pad(x, (0, -width % WHOLE, 0, -height % WHOLE), "replicate")
        turns = ((), (-1,), (-2,), (-2, -1))
        heats = [self.heat(self.features(x.flip(turn))).flip(turn) for turn in turns]
        return torch.stack(heats).mean(dim=0)[:, : -(-height // STRIDE), : -(-width // STRIDE)]

    def mask_logits(self, features: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """(N, H, W) for images of ``size`` (H, W)."""
        assert self.decoder is not None
        return cast(torch.Tensor, self.decoder(size, features)).squeeze(1)


def build_model(config: Config) -> CountingNet:
    """The network with random weights, but the encoder's where ``config.weights`` names some.

    Raises:
        ConfigError: an architecture or weights that are not there.
    """
    from wsikit.nn.pyramid import load_weights

    model = CountingNet(config)
    model.encoder_facts = load_weights(model.encoder, config.weights)
    return model
