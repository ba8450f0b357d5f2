"""The trained network on slides: outlines of nuclei.

Windows see the slide mirrored where they reach past its border, so that a nucleus on the border looks like one inside;
what lies outside belongs to none.
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
from wsikit.methods.points.config import Config
from wsikit.methods.points.instances import separate
from wsikit.nn.device import choose_device, pass_size
from wsikit.nn.images import Preprocess
from wsikit.outlines import moments, outlines
from wsikit.predictions import Batch, Label, Objects
from wsikit.predictors.border import mirrored
from wsikit.training.checkpoint import MethodCard, load_checkpoint

if TYPE_CHECKING:
    from wsikit.nn.feed import Feed
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask

VERSION = 1
"""Of the network: a checkpoint of another is refused."""
PASS_PIXELS = 256**2
"""Of a patch that ``pass_size`` is meant for."""
COLOR = (64, 96, 208)
"""Of nuclei, where the card says none: that of the predictor without weights."""
TOLERANCE = 0.02
"""A slide's level may be finer or coarser than what was asked for by this share, and is read as it is."""


@dataclass(frozen=True, slots=True)
class NucleiOutlines:
    """Outlines of nuclei. Pickles as the card, the file's path and its sha256."""

    card: MethodCard
    config: Config
    weights: Path
    tile: TileSpec
    device: str
    size: tuple[int, int] | None = None
    """(width, height) of the slide on its lattice; set by ``prepare``."""

    produces: ClassVar[type[Objects]] = Objects

    @property
    def name(self) -> str:
        """As reports show it."""
        return self.card.name

    @property
    def labels(self) -> tuple[Label, ...]:
        """What is found."""
        return tuple(Label(label.name, label.color or COLOR) for label in self.card.labels)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Method, version, sha256 of the weights, and what is done with their answers."""
        told = self.config.instances.model_dump(mode="json")
        return {"method": "points", "version": VERSION, "sha256": self.card.sha256, "instances": told}

    @property
    def bound(self) -> Mapping[str, Any]:
        """Empty: the slide's size decides nothing that its pixels do not."""
        return {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind the slide's size, so that windows can be mirrored at its border."""
        return replace(self, size=slide.size_at(slide.resolve(self.tile.mpp)))

    def predict(self, batch: Batch) -> Sequence[Objects]:
        """Nuclei of each patch, those cut by its border left out. Raises PredictionError before ``prepare``."""
        if self.size is None:
            raise PredictionError(f"{self.name} has no slide yet: call prepare(slide, tissue) and use its result")
        if not len(batch):
            return []
        plane = Region(0, 0, *self.size, batch.regions[0].mpp)
        pixels = np.stack([mirrored(*pair, plane) for pair in zip(batch.images, batch.regions, strict=True)])
        pairs = zip(self.maps(pixels), batch.regions, strict=True)
        return [self._objects(_inside(found, region, plane), region) for found, region in pairs]

    def maps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 2, H, W) probabilities, foreground and centre, of (N, H, W, 3) RGB."""
        # windows are large, and what the network makes of one at full resolution is many times as large
        patches = max(1, pass_size(self.device) * PASS_PIXELS // (pixels.shape[1] * pixels.shape[2]))
        return _feed(self.weights, self.card.sha256 or "", self.device, patches)(pixels)

    def _objects(self, maps: NDArray[np.float32], region: Region) -> Objects:
        foreground, centre = maps
        labels, scores = separate(foreground, centre, region.mpp, self.config.instances)
        _, polygons = outlines(labels)
        sums = moments(labels, len(polygons))
        measured = {"Area um^2": sums[:, 2].astype(np.float64) * region.mpp**2}
        return Objects(region, polygons, np.zeros(len(polygons), np.int64), scores, sums, measured)


def _inside(found: NDArray[np.float32], region: Region, plane: Region) -> NDArray[np.float32]:
    """(2, H, W) maps that are 0 outside the slide: what was mirrored is there a second time."""
    part = region.intersection(plane)
    if part == region:
        return found
    kept = np.zeros_like(found)
    if part is not None:
        rows, columns = part.slices(region)
        kept[:, rows, columns] = found[:, rows, columns]
    return kept


@cache
def _feed(weights: Path, digest: str, device: str, batch: int) -> Feed:
    """One for a process."""
    import torch

    from wsikit.methods.points.model import NucleiNet
    from wsikit.nn.feed import Feed
    from wsikit.nn.weights import fill, sha256

    if sha256(weights) != digest:
        raise ConfigError(f"the weights {weights} changed while they were in use", code="bad_weights")
    state, card = load_checkpoint(weights)
    network = NucleiNet.of(Config.model_validate(card.config))
    fill(network, state, weights.name)
    network.eval().to(device).to(memory_format=torch.channels_last)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(network(pixels))

    # the encoder normalises itself
    return Feed("points", forward, Preprocess((0, 0, 0), (1, 1, 1), None), device, batch)


def load_predictor(
    path: Path, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> NucleiOutlines:
    """The predictor of a checkpoint.

    Args:
        path: ``points.safetensors`` with its card beside it.
        mpp: micrometres per pixel, within what training images were resized to (``Config.seen_mpp``); those of the card
            if not given.
        min_tissue: smallest share of a window's core that is tissue; any tissue at all if not given.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: no such file, no card, weights that are not the card's, a checkpoint of another method or version,
            or a resolution that it was not trained at.
    """
    _, card = load_checkpoint(path)
    card.check_method("points", VERSION)
    config = Config.model_validate(card.config)
    _check_mpp(card, config, mpp)
    tile = TileSpec(card.mpp if mpp is None else mpp, card.core, card.halo, min_tissue or 0.0)
    return NucleiOutlines(card, config, path.absolute(), tile, choose_device(device).type)


def _check_mpp(card: MethodCard, config: Config, mpp: float | None) -> None:
    least, most = config.seen_mpp
    if mpp is not None and not least * (1 - TOLERANCE) <= mpp <= most * (1 + TOLERANCE):
        raise ConfigError(
            f"{card.name} was trained at {least:g} to {most:g} um per px and would see {mpp:.4g}",
            code="wrong_mpp",
            remedy=f"leave out --mpp, which takes {card.mpp:g}, or give one in between",
        )
