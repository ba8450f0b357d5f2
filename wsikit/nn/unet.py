"""The upward half of a U-Net (Ronneberger et al. 2015): from a pyramid of features back to the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn import functional

from wsikit.errors import ConfigError
from wsikit.nn.pyramid import FeatureEncoder, extended

WIDTH = 128
"""Half of what segmentation_models_pytorch takes; with tf_efficientnet_lite0 1.12 against 0.45 MP/s on one core
(512 px, float32, channels last)."""
NARROWEST = 8
"""Channels that no block goes below."""


class MaskDecoder(nn.Module):
    """segmentation_models_pytorch's U-Net decoder on the levels of an encoder, and a 3 x 3 convolution to the classes.

    Args:
        encoder: whose features it takes; not kept.
        classes: K.
        width: channels of the coarsest block; each finer one has half, at least 8.
    """

    def __init__(self, encoder: FeatureEncoder, classes: int = 1, *, width: int = WIDTH) -> None:
        super().__init__()
        self.strides = encoder.strides
        # an encoder that begins at stride 4 has nothing to add at stride 2
        skipped = (0,) * (self.strides[0].bit_length() - 2)
        channels = (0, *skipped, *encoder.channels)
        widths = [max(NARROWEST, width >> i) for i in range(len(channels) - 1)]
        self.decoder = UnetDecoder(channels, widths, n_blocks=len(widths))
        self.head = nn.Conv2d(widths[-1], classes, 3, padding=1)
        initialize_decoder(self.decoder)
        initialize_head(self.head)

    def forward(self, size: Sequence[int], features: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W), a value for every pixel of the picture.

        Args:
            size: (H, W) of the picture that the encoder saw, its ``shape[-2:]``.
            features: the encoder's answer.

        Raises:
            ConfigError: features that are not those of a picture of this size (code wrong_shape).
        """
        levels, (height, width) = _whole(size, features, self.strides), size
        finest, stride = levels[0], self.strides[0]
        # what has no features is there for its size alone
        empty = [
            finest.new_empty(len(finest), 0, finest.shape[-2] * stride // s, finest.shape[-1] * stride // s)
            for s in (1, 2)
        ]
        logits: Tensor = self.head(self.decoder([*empty[: stride.bit_length() - 1], *levels]))
        return logits[..., :height, :width]


class SubpixelDecoder(nn.Module):
    """The blocks of ``MaskDecoder`` as far as the encoder's finest level, where one 3 x 3 convolution gives all pixels
    that a pixel of the level stands for (Shi et al. 2016, arXiv:1609.05158).

    Nothing is computed at the picture's own resolution, where most of the time of a U-Net goes and few of its channels
    are: for the same time the other blocks can be wider.

    Args:
        encoder: whose features it takes; not kept.
        classes: K.
        widths: channels of the blocks, coarsest first, one fewer than the encoder has levels.

    Raises:
        ConfigError: another number of widths.
    """

    def __init__(self, encoder: FeatureEncoder, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != encoder.depth - 1:
            raise ConfigError(
                f"a decoder of {encoder.depth} levels has {encoder.depth - 1} widths, got {len(widths)}: {widths}"
            )
        self.strides = encoder.strides
        # smp's last block would go on to the picture's pixels
        decoder = UnetDecoder((0, *encoder.channels), [*widths, NARROWEST], n_blocks=encoder.depth)
        initialize_decoder(decoder)
        self.blocks = decoder.blocks[:-1]
        self.head = nn.Conv2d(widths[-1], classes * self.strides[0] ** 2, 3, padding=1)
        initialize_head(self.head)

    def forward(self, size: Sequence[int], features: Sequence[Tensor]) -> Tensor:
        """As ``MaskDecoder.forward``."""
        *finer, found = _whole(size, features, self.strides)
        for block, level in zip(self.blocks, reversed(finer), strict=True):
            found = block(found, level.shape[-2], level.shape[-1], level)
        return functional.pixel_shuffle(self.head(found), self.strides[0])[..., : size[0], : size[1]]


def _whole(size: Sequence[int], features: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Levels continued to whole multiples of the coarsest stride, see ``FeatureEncoder``.

    Raises ConfigError: features that are not those of a picture of this size (code wrong_shape).
    """
    height, width = size
    wanted = [(-(-height // s), -(-width // s)) for s in strides]
    given = [tuple(level.shape[-2:]) for level in features]
    if wanted != given:
        raise ConfigError(
            f"a picture of {width} x {height} px has levels of (height, width) {wanted}, got {given}",
            code="wrong_shape",
        )
    full = height + -height % strides[-1], width + -width % strides[-1]
    return [
        extended(level, full[0] // stride - level.shape[-2], full[1] // stride - level.shape[-1])
        for level, stride in zip(features, strides, strict=True)
    ]
