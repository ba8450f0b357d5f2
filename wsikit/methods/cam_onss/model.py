"""The two networks: a classifier of patches whose activation maps are looked at, and a segmenter.

Both take (N, 3, H, W) RGB in [0, 1] and have the encoder's normalisation inside, so that no stage can see other colours
than another.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from wsikit.methods.cam_onss.cam import Kind, activation_maps
from wsikit.methods.cam_onss.config import Classifier, Config, Segmenter
from wsikit.nn.pyramid import FeatureEncoder, extended, load_weights

REDUCTION = 16
"""Channels of the coordinate attention's bottleneck, of the features' (Hou et al., CVPR 2021)."""
LEAST_CHANNELS = 8
WHOLE = 32
"""Pictures are continued to multiples of it, px."""


class CoordinateAttention(nn.Module):
    """Gates from means along rows and along columns: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(LEAST_CHANNELS, channels // REDUCTION)
        self.shared = nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.BatchNorm2d(narrow), nn.Hardswish())
        self.rows = nn.Conv2d(narrow, channels, 1)
        self.columns = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gated features."""
        height, width = x.shape[-2:]
        by_row, by_column = x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True).transpose(2, 3)
        both = self.shared(torch.cat([by_row, by_column], dim=2))
        rows, columns = both.split([height, width], dim=2)
        gated: torch.Tensor = x * torch.sigmoid(self.rows(rows)) * torch.sigmoid(self.columns(columns.transpose(2, 3)))
        return gated


class TissueClassifier(nn.Module):
    """Which classes are in a patch; dropout attention and coordinate attention are on in training and for the maps
    alike."""

    gamma: torch.Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.options: Classifier = config.classifier
        self.encoder = FeatureEncoder(config.encoder, depth=config.depth, output_stride=self.options.output_stride)
        channels = self.encoder.channels[-1]
        self.gates = CoordinateAttention(channels) if self.options.coordinate_attention else nn.Identity()
        self.drop = nn.Dropout2d(0.5)
        self.layer = nn.Conv2d(channels, len(config.tissue.classes), 1, bias=False)
        self.register_buffer("gamma", torch.ones(()))
        self.encoder_facts: dict[str, Any] = {}

    def begin_epoch(self, epoch: int) -> None:
        """Set the threshold of the dropout attention; epochs count from 1. At 1 nothing is taken away."""
        options = self.options
        self.gamma.fill_(1.0 if epoch < options.first_epoch else max(options.least, options.decay ** (epoch - 1)))

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) what is pooled."""
        return cast(torch.Tensor, self.gates(self._dropped(torch.relu(self.encoder(x)[-1]))))

    def _dropped(self, features: torch.Tensor) -> torch.Tensor:
        """Features times the mean over classes of their activations, where those above a share of the largest are 0;
        the mean is taken as a share of its largest value, so that features keep their size."""
        if not self.options.dropout_attention or float(self.gamma) >= 1:
            return features
        maps = torch.relu(self.layer(features))
        kept = maps * (maps <= self.gamma * maps.amax(dim=(2, 3), keepdim=True))
        attention = kept.mean(dim=1, keepdim=True)
        return features * (attention / attention.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, K) logits."""
        pooled = self.drop(self.attended(x)).mean(dim=(2, 3), keepdim=True)
        return cast(torch.Tensor, self.layer(pooled)).flatten(1)

    def maps(self, x: torch.Tensor, kind: Kind) -> torch.Tensor:
        """(N, K, h, w) non-negative activations."""
        return activation_maps(self.attended(x).float(), self.layer.weight.float().flatten(1), kind)


class TissueSegmenter(nn.Module):
    """Which class a pixel has."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        options, classes = config.segmenter, len(config.tissue.classes)
        self.encoder = FeatureEncoder(config.encoder, depth=config.depth, output_stride=8)
        self.decoder = _decoder(options, self.encoder)
        self.head = nn.Conv2d(options.width, classes, 1)
        middle = self.encoder.channels[-2]
        self.auxiliary = (
            nn.Sequential(
                nn.Conv2d(middle, options.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(options.width),
                nn.ReLU(),
                nn.Dropout2d(0.1),
                nn.Conv2d(options.width, classes, 1),
            )
            if options.auxiliary
            else None
        )
        self.encoder_facts: dict[str, Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, K, H, W) logits."""
        return self.both(x)[0]

    def both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N, K, H, W) logits, and those of the auxiliary head while there is one."""
        height, width = x.shape[-2:]
        # levels of whole pixels, whose sizes the decoders can tell from one another
        x = extended(x, -height % WHOLE, -width % WHOLE)
        features = self.encoder(x)
        logits = [self.head(self.decoder([x, *features]))]
        logits += [] if self.auxiliary is None else [self.auxiliary(features[-2])]
        wide = [
            functional.interpolate(one.float(), size=x.shape[-2:], mode="bilinear")[..., :height, :width]
            for one in logits
        ]
        return wide[0], None if self.auxiliary is None else wide[1]


def _decoder(options: Segmenter, encoder: FeatureEncoder) -> Any:
    """segmentation_models_pytorch's; they take the picture and the levels, finest first."""
    channels = [3, *encoder.channels]
    if options.decoder == "pspnet":
        from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder

        return PSPDecoder(channels, out_channels=options.width, dropout=0.1)
    if options.decoder == "upernet":
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        return UPerNetDecoder(channels, encoder_depth=encoder.depth, decoder_channels=options.width)
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

    return DeepLabV3PlusDecoder(
        channels,
        encoder_depth=encoder.depth,
        out_channels=options.width,
        atrous_rates=(12, 24, 36),
        output_stride=8,
        aspp_separable=True,
        aspp_dropout=0.1,
    )


def build_classifier(config: Config) -> TissueClassifier:
    """With the encoder's weights. Raises ConfigError: an architecture or weights that are not there."""
    model = TissueClassifier(config)
    model.encoder_facts = load_weights(model.encoder, config.weights)
    return model


def build_model(config: Config) -> TissueSegmenter:
    """The segmenter, with the encoder's weights. Raises ConfigError: an architecture or weights that are not there."""
    model = TissueSegmenter(config)
    model.encoder_facts = load_weights(model.encoder, config.weights)
    return model
