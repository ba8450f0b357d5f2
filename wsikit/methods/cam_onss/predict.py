"""The segmenter on slides: scores of classes in overlapping windows, blended by the stitcher, outlined as areas.

A window is as large as the patches of training, since pooling over the whole of it makes what the network says depend
on its size; the next one begins half of it further on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsikit.methods.cam_onss.config import Config
from wsikit.methods.cam_onss.pseudo import white_pixels
from wsikit.predictions import AreaSpec, Batch, Label, ScoreMap
from wsikit.training.checkpoint import load_checkpoint
from wsikit.training.on_slides import OnSlides

if TYPE_CHECKING:
    from torch import nn

    from wsikit.nn.feed import Forward

VERSION = 1
"""Of the network: a checkpoint of another is refused."""
TOLERANCE = 0.10
"""Largest relative difference between the card's um per px and those that a slide is run at."""


@dataclass(frozen=True, slots=True)
class TissueMapper(OnSlides[Config]):
    """Classes of tissue, pixel by pixel."""

    produces: ClassVar[type[ScoreMap]] = ScoreMap

    @property
    def labels(self) -> tuple[Label, ...]:
        """The schema's classes, and its background where it has one."""
        return self.config.tissue.labels(self.config.palette, background=self.config.tissue.background)

    @property
    def areas(self) -> AreaSpec:
        """Every connected area of a class is an annotation."""
        return AreaSpec(self.config.least_um2)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Method, version, sha256 of the weights, and what is done with their answers."""
        told = {"palette": self.config.palette, "least_um2": self.config.least_um2}
        return {"method": "cam_onss", "version": VERSION, "sha256": self.card.sha256, **told}

    def predict(self, batch: Batch) -> Sequence[ScoreMap]:
        """Probabilities of each patch."""
        if not len(batch):
            return []
        scores = self.probabilities(self.seen(batch))
        return [ScoreMap(*pair) for pair in zip(batch.regions, scores, strict=True)]

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, labels) of (N, H, W, 3) RGB: those of classes, but white pixels are background where the schema
        has one."""
        scores = self.class_probabilities(images)
        if not self.config.tissue.background:
            return np.ascontiguousarray(scores)
        white = np.stack([white_pixels(image, self.config.voting, self.tile.mpp) for image in images])[..., None]
        return np.concatenate([scores * ~white, white.astype(np.float32)], axis=3)

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, classes) that the network gives, whatever is white."""
        return np.moveaxis(self.ask(_network, images), 1, 3)


def _network(config: dict[str, Any]) -> tuple[nn.Module, Forward]:
    """The network of a card's configuration, not yet its weights, and what it says of pixels."""
    import torch

    from wsikit.methods.cam_onss.model import TissueSegmenter

    network = TissueSegmenter(Config.model_validate(config))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network(pixels), dim=1)

    return network, forward


def load_predictor(
    path: Path, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> TissueMapper:
    """The predictor of a checkpoint.

    Args:
        path: ``cam_onss.safetensors`` with its card beside it.
        mpp: micrometres per pixel, at most 10 % off those it was trained at; they are taken if not given.
        min_tissue: smallest share of a window's core that is tissue; any tissue at all if not given.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: no such file, no card, weights that are not the card's, a checkpoint of another method or version,
            or a resolution that it was not trained at.
    """
    _, card = load_checkpoint(path)
    card.check_method("cam_onss", VERSION)
    card.check_mpp(mpp, TOLERANCE)
    config = Config.model_validate(card.config)
    return TissueMapper.made(card, config, path, mpp=mpp, min_tissue=min_tissue, device=device)
