"""The trained network on slides: outlines or points of cells, and a map of how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region
from wsikit.methods.counting.config import Config
from wsikit.methods.counting.instances import STRIDE
from wsikit.outlines import moments, outlines
from wsikit.predictions import Batch, Label, Objects, Points
from wsikit.predictors.basins import basins, without_holes
from wsikit.training.checkpoint import MethodCard, load_checkpoint
from wsikit.training.on_slides import OnSlides

if TYPE_CHECKING:
    from torch import nn

    from wsikit.nn.feed import Forward

VERSION = 1
"""Of the network: a checkpoint of another is refused."""
MASK_CUT = 0.5
"""Of the mask's probability."""
MARKER_SHARE = 0.25
"""Two cells that touch are told apart where the distance to the edge falls between them by this share of a radius."""
SMOOTHING = 0.25
"""Sigma of the Gaussian over distances, in radii of a cell."""
TOLERANCE = 0.10
"""Largest relative difference between the card's um per px and those that a slide is run at."""


@dataclass(frozen=True, slots=True)
class _Counting(OnSlides[Config]):
    """What both kinds share."""

    density_cell: ClassVar[int] = STRIDE

    @property
    def labels(self) -> tuple[Label, ...]:
        """The cells that were counted."""
        return tuple(Label(label.name, label.color or (213, 94, 0)) for label in self.card.labels)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Method, version and sha256 of the weights."""
        return {"method": "counting", "version": VERSION, "sha256": self.card.sha256, "facts": dict(self.card.facts)}

    def maps(self, batch: Batch) -> NDArray[np.float32]:
        """(N, 2, H, W): probability of a cell's pixel (of the mask, or heat where there is none), expected cells."""
        return self.ask(_network, self.seen(batch))

    def density_of(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) expected cells per pixel to those of each 4 x 4 px."""
        return cells[::STRIDE, ::STRIDE] * np.float32(STRIDE**2)


@dataclass(frozen=True, slots=True)
class CellOutlines(_Counting):
    """Cells with outlines, from the segmenter."""

    produces: ClassVar[type[Objects]] = Objects

    def predict(self, batch: Batch) -> Sequence[Objects]:
        """Cells of each patch, those cut by its border left out."""
        if not len(batch):
            return []
        pairs = zip(self.maps(batch), batch.regions, strict=True)
        return [self._objects(probability, cells, region) for (probability, cells), region in pairs]

    def _objects(self, probability: NDArray[np.float32], cells: NDArray[np.float32], region: Region) -> Objects:
        labels = separated(probability, self.config, region.mpp)
        ids, polygons = outlines(labels)
        sums = moments(labels, len(polygons))
        total = np.bincount(labels.ravel(), probability.ravel(), len(polygons) + 1)[1:]
        measured = {"Area um^2": sums[:, 2].astype(np.float64) * region.mpp**2}
        scores = np.clip(total / np.maximum(sums[:, 2], 1), 0, 1)
        classes = np.zeros(len(ids), np.int64)
        return Objects(region, polygons, classes, scores, sums, measured, density=self.density_of(cells))


@dataclass(frozen=True, slots=True)
class CellPoints(_Counting):
    """Cells as points, from the heat map; for checkpoints without a segmenter."""

    produces: ClassVar[type[Points]] = Points

    def predict(self, batch: Batch) -> Sequence[Points]:
        """Cells of each patch."""
        if not len(batch):
            return []
        pairs = zip(self.maps(batch), batch.regions, strict=True)
        return [self._points(heat, cells, region) for (heat, cells), region in pairs]

    def _points(self, heat: NDArray[np.float32], cells: NDArray[np.float32], region: Region) -> Points:
        radius = self.config.instances.cell_radius_um / region.mpp
        xy, scores = peaks(heat, least=float(self.card.facts["heat"]), radius=radius)
        return Points(region, xy, np.zeros(len(xy), np.int64), scores, radius=radius, density=self.density_of(cells))


def separated(probability: NDArray[np.float32], config: Config, mpp: float) -> NDArray[np.int32]:
    """(H, W) labels of cells from 1 in row order: the mask cut where it is narrow, without what is too small.

    Objects that touch the border are left out: how large they are, another window knows.
    """
    radius = config.instances.cell_radius_um / mpp
    mask = without_holes(probability >= MASK_CUT, config.pseudo.hole_um2 / mpp**2)
    height: NDArray[np.float32] = ndimage.distance_transform_edt(mask).astype(np.float32)
    height = ndimage.gaussian_filter(height, SMOOTHING * radius, mode="nearest", truncate=3.0)
    labels = basins(height, mask, MARKER_SHARE * radius)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= max(config.pseudo.least_um2 / mpp**2, 1)
    # basins leave out the outermost pixels, so that a cut cell ends one pixel before them
    for border in (labels[1], labels[-2], labels[:, 1], labels[:, -2]):
        keep[border] = False
    keep[0] = False
    number = np.cumsum(keep, dtype=np.int32) * keep
    return np.asarray(number[labels], np.int32)


def peaks(heat: NDArray[np.float32], *, least: float, radius: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points where the heat is highest within a radius and at least ``least``.

    Returns:
        (N, 2) x, y in px, pixel-corner convention, by row; and (N,) the heat there.
    """
    smooth = ndimage.gaussian_filter(heat, radius / 2, mode="nearest", truncate=3.0)
    side = 2 * round(radius) + 1
    highest = (smooth == ndimage.maximum_filter(smooth, side, mode="nearest")) & (smooth >= least)
    parts, count = ndimage.label(highest, np.ones((3, 3)))
    if not count:
        return np.zeros((0, 2)), np.zeros(0)
    centres = np.array(ndimage.center_of_mass(highest, parts, np.arange(1, count + 1)))
    scores = ndimage.maximum(smooth, parts, np.arange(1, count + 1))
    return centres[:, ::-1] + 0.5, np.clip(np.asarray(scores, np.float64), 0, 1)


def _network(config: dict[str, Any]) -> tuple[nn.Module, Forward]:
    """The network of a card's configuration, not yet its weights, and what it says of pixels."""
    import torch
    from torch.nn import functional

    from wsikit.methods.counting.model import CountingNet

    network = CountingNet(Config.model_validate(config))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        features = network.features(pixels)
        size = pixels.shape[-2], pixels.shape[-1]
        cells = network.density_map(features)
        if cells is None:
            raise PredictionError("a pooled counter knows no place")
        wide = functional.interpolate(cells[:, None] / STRIDE**2, scale_factor=STRIDE, mode="nearest")
        if network.decoder is not None:
            shown = torch.sigmoid(network.mask_logits(features, size))[:, None]
        else:
            shown = functional.interpolate(network.centred_heat(pixels)[:, None], size=size, mode="bilinear")
        return torch.cat([shown.float(), wide.float()], dim=1)

    return network, forward


def load_predictor(
    path: Path, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> CellOutlines | CellPoints:
    """The predictor of a checkpoint.

    Args:
        path: ``counting.safetensors`` with its card beside it.
        mpp: micrometres per pixel, at most 10 % off those it was trained at; they are taken if not given.
        min_tissue: smallest share of a window's core that is tissue; any tissue at all if not given.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: no such file, no card, weights that are not the card's, a checkpoint of another method or version,
            a pooled counter (which cannot be run on slides), or a resolution that it was not trained at.
    """
    _, card = load_checkpoint(path)
    _check(card, path, mpp)
    config = Config.model_validate(card.config)
    kind = CellOutlines if config.segmenter.enabled else CellPoints
    return kind.made(card, config, path, mpp=mpp, min_tissue=min_tissue, device=device)


def _check(card: MethodCard, path: Path, mpp: float | None) -> None:
    card.check_method("counting", VERSION)
    if card.config["counter"]["head"] != "density":
        raise ConfigError(
            f"{path} has a pooled counter, whose counts have no place on a slide",
            code="wrong_method",
            remedy="train with counter: {head: density}",
        )
    card.check_mpp(mpp, TOLERANCE)
