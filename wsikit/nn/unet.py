"""The upward half of a U-Net (Ronneberger et al. 2015): from a pyramid of features back to the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

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
        height, width = size
        self._check(height, width, features)
        last = self.strides[-1]
        full = height + -height % last, width + -width % last
        levels = [
            extended(level, full[0] // stride - level.shape[-2], full[1] // stride - level.shape[-1])
            for level, stride in zip(features, self.strides, strict=True)
        ]
        # what has no features is there for its size alone
        empty = [levels[0].new_empty(len(levels[0]), 0, full[0] // s, full[1] // s) for s in (1, 2)]
        logits: Tensor = self.head(self.decoder([*empty[: self.strides[0].bit_length() - 1], *levels]))
        return logits[..., :height, :width]

    def _check(self, height: int, width: int, features: Sequence[Tensor]) -> None:
        wanted = [(-(-height // s), -(-width // s)) for s in self.strides]
        given = [tuple(level.shape[-2:]) for level in features]
        if wanted != given:
            raise ConfigError(
                f"a picture of {width} x {height} px has levels of (height, width) {wanted}, got {given}",
                code="wrong_shape",
            )
