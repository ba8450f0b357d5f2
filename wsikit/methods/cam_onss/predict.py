"""The segmenter on slides: scores of classes in overlapping windows, blended by the stitcher, outlined as areas.

A window is as large as the patches of training, since pooling over the whole of it makes what the network says depend
on its size; the next one begins half of it further on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region, TileSpec
from wsikit.methods.cam_onss.config import Config
from wsikit.methods.cam_onss.pseudo import white_pixels
from wsikit.nn.device import choose_device, pass_size
from wsikit.nn.images import Preprocess
from wsikit.predictions import AreaSpec, Batch, Label, ScoreMap
from wsikit.predictors.border import mirrored
from wsikit.training.checkpoint import MethodCard, load_checkpoint

if TYPE_CHECKING:
    from wsikit.nn.feed import Feed
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask

VERSION = 1
"""Of the network: a checkpoint of another is refused."""
TOLERANCE = 0.10
"""Largest relative difference between the card's um per px and those that a slide is run at."""
PASS_PIXELS = 256**2
"""Of a patch that ``pass_size`` is meant for."""


@dataclass(frozen=True, slots=True)
class TissueMapper:
    """Classes of tissue, pixel by pixel. Pickles as the card, the file's path and its sha256."""

    card: MethodCard
    config: Config
    weights: Path
    tile: TileSpec
    device: str
    size: tuple[int, int] | None = None
    """(width, height) of the slide on its lattice; set by ``prepare``."""

    produces: ClassVar[type[ScoreMap]] = ScoreMap

    @property
    def name(self) -> str:
        """As reports show it."""
        return self.card.name

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

    @property
    def bound(self) -> Mapping[str, Any]:
        """Empty: the slide's size decides nothing that its pixels do not."""
        return {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind the slide's size, so that windows can be mirrored at its border."""
        return replace(self, size=slide.size_at(slide.resolve(self.tile.mpp)))

    def predict(self, batch: Batch) -> Sequence[ScoreMap]:
        """Probabilities of each patch."""
        if not len(batch):
            return []
        if self.size is None:
            raise PredictionError(f"{self.name} has no slide yet: call prepare(slide, tissue) and use its result")
        plane = Region(0, 0, *self.size, batch.regions[0].mpp)
        images = [mirrored(*pair, plane) for pair in zip(batch.images, batch.regions, strict=True)]
        scores = self.probabilities(np.stack(images))
        return [ScoreMap(*pair) for pair in zip(batch.regions, scores, strict=True)]

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, labels) of (N, H, W, 3) RGB."""
        patches = max(1, pass_size(self.device) * PASS_PIXELS // (images.shape[1] * images.shape[2]))
        found = _feed(self.weights, self.card.sha256 or "", self.device, patches)(images)
        scores = np.moveaxis(found, 1, 3)
        if not self.config.tissue.background:
            return np.ascontiguousarray(scores)
        white = np.stack([white_pixels(image, self.config.voting, self.tile.mpp) for image in images])[..., None]
        return np.concatenate([scores * ~white, white.astype(np.float32)], axis=3)


@cache
def _feed(weights: Path, digest: str, device: str, batch: int) -> Feed:
    """One for a process."""
    import torch

    from wsikit.methods.cam_onss.model import TissueSegmenter
    from wsikit.nn.feed import Feed
    from wsikit.nn.weights import fill, sha256

    if sha256(weights) != digest:
        raise ConfigError(f"the weights {weights} changed while they were in use", code="bad_weights")
    state, card = load_checkpoint(weights)
    network = TissueSegmenter(Config.model_validate(card.config))
    fill(network, state, weights.name)
    network.eval().to(device).to(memory_format=torch.channels_last)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network(pixels), dim=1)

    # the encoder normalises itself
    return Feed("cam_onss", forward, Preprocess((0, 0, 0), (1, 1, 1), None), device, batch)


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
    tile = TileSpec(card.mpp if mpp is None else mpp, card.core, card.halo, min_tissue or 0.0)
    return TissueMapper(card, config, path.absolute(), tile, choose_device(device).type)
