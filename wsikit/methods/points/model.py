"""One network for both stages: an encoder, a decoder, and two values for each pixel.

The detector learns the second of them alone, the segmenter both, over weights that the detector may have learned. Where
masks are learned there are two more, the offsets of a pixel from the middle of its nucleus: what teaches the network to
tell nuclei apart and is not asked for on slides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from wsikit.methods.points.config import Config
from wsikit.nn.pyramid import FeatureEncoder, load_weights
from wsikit.nn.unet import SubpixelDecoder

if TYPE_CHECKING:
    from wsikit.nn.weights import State

FOREGROUND, CENTRE = 0, 1
"""Channels of the network: whether a pixel belongs to a nucleus, and how near it is to the middle of one."""
OFFSETS = slice(2, 4)
"""Channels that are learned beside: x and y as seen from the middle, no logits."""


class NucleiNet(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 2, H, W) logits, ``FOREGROUND`` and ``CENTRE``. Normalises itself.

    Args:
        encoder: timm's name of the architecture.
        widths: channels of the decoder's blocks, coarsest first, one fewer than levels are used of the encoder.
        beside: channels after those two, for training.

    Raises:
        UnknownNameError: no such architecture.
        ConfigError: one without so many levels (code no_levels).
    """

    def __init__(self, encoder: str, widths: Sequence[int], beside: int = 0) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(encoder, depth=len(widths) + 1)
        self.decoder = SubpixelDecoder(self.encoder, 2 + beside, widths)
        self.encoder_facts: dict[str, Any] = {}

    @classmethod
    def of(cls, config: Config) -> NucleiNet:
        """As slides are asked of it, with random weights."""
        return cls(config.encoder, config.widths)

    def state_on_slides(self) -> State:
        """Weights of the same network without what is learned beside."""
        kept = 2 * self.decoder.strides[0] ** 2
        return {
            name: value[:kept] if name.startswith("decoder.head.") else value
            for name, value in self.state_dict().items()
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every pixel, for any H and W."""
        return cast(torch.Tensor, self.decoder(x.shape[-2:], self.encoder(x)))


def build_model(config: Config) -> NucleiNet:
    """The network to train: random weights, but the encoder's where ``config.weights`` names some.

    Raises:
        ConfigError: an architecture or weights that are not there.
    """
    beside = OFFSETS.stop - OFFSETS.start if config.segmenter.labels == "masks" else 0
    model = NucleiNet(config.encoder, config.widths, beside)
    model.encoder_facts = load_weights(model.encoder, config.weights)
    return model
