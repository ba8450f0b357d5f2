"""The trained network on slides: outlines of nuclei. What lies outside of the slide belongs to none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.geometry import Region
from wsikit.methods.points.config import Config
from wsikit.methods.points.instances import means, separate
from wsikit.methods.points.shown import NuclearStain
from wsikit.nn.device import choose_device, fast_precision
from wsikit.outlines import circularity, moments, outlines
from wsikit.predictions import Batch, Label, Objects
from wsikit.training.checkpoint import MethodCard, load_checkpoint
from wsikit.training.on_slides import OnSlides

if TYPE_CHECKING:
    from torch import nn

    from wsikit.nn.feed import Forward
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask

VERSION = 1
"""Of the network: a checkpoint of another is refused."""
COLOR = (64, 96, 208)
"""Of nuclei, where the card says none: that of the predictor without weights."""
TOLERANCE = 0.02
"""A slide's level may be finer or coarser than what was asked for by this share, and is read as it is."""


@dataclass(frozen=True, slots=True)
class NucleiOutlines(OnSlides[Config]):
    """Outlines of nuclei."""

    stain: NuclearStain | None = None
    """The slide's, where the network is shown nothing else; set by ``prepare``."""

    produces: ClassVar[type[Objects]] = Objects

    @property
    def labels(self) -> tuple[Label, ...]:
        """What is found."""
        return tuple(Label(label.name, label.color or COLOR) for label in self.card.labels)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Method, version, sha256 of the weights, and what is done with their answers."""
        told = self.config.instances.model_dump(mode="json")
        return {
            "method": "points",
            "version": VERSION,
            "sha256": self.card.sha256,
            "instances": told,
            "precision": self.precision,
        }

    @property
    def bound(self) -> Mapping[str, Any]:
        """The stain that the network is shown, where it is shown one."""
        return self.stain.facts if self.stain else {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind the slide's size, and the stain of its nuclei where that is what the network sees."""
        mpp = slide.resolve(self.tile.mpp)
        size = slide.size_at(mpp)
        if self.config.sees == "colours":
            return replace(self, size=size)
        return replace(self, size=size, stain=NuclearStain.of(slide, tissue, mpp))

    def predict(self, batch: Batch) -> Sequence[Objects]:
        """Nuclei of each patch, those cut by its border left out. Raises PredictionError before ``prepare``."""
        if not len(batch):
            return []
        plane = self.plane(batch.regions[0].mpp)
        pixels = self.seen(batch)
        near = [_near(region, plane, self.tile.halo) for region in batch.regions]
        whole = [part == region for part, region in zip(near, batch.regions, strict=True)]
        maps = iter(self.maps(pixels[whole]) if any(whole) else ())
        found = []
        for image, region, part in zip(pixels, batch.regions, near, strict=True):
            seen = image[part.slices(region)]
            answer = next(maps) if part == region else self.maps(seen[None])[0]
            found.append(_within(self._objects(_inside(answer, part, plane), seen, part), region))
        return found

    def maps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 2, H, W) probabilities, foreground and centre, of (N, H, W, 3) RGB."""
        if self.stain:
            pixels = np.stack([self.stain.shown(image) for image in pixels])
        return self.ask(_network, pixels)

    def _objects(self, maps: NDArray[np.float32], image: NDArray[np.uint8], region: Region) -> Objects:
        foreground, centre = maps
        rule = self.config.instances
        labels, scores = separate(foreground, centre, region.mpp, rule)
        _, polygons = outlines(labels)
        sums, roundness = moments(labels, len(polygons)), circularity(polygons)
        measured = {"Area um^2": sums[:, 2].astype(np.float64) * region.mpp**2, "Circularity": roundness}
        keep = (roundness >= rule.circularity) & (scores >= rule.least_score)
        if self.stain:
            measured["Stain OD mean"] = held = means(labels, self.stain.density(image))
            keep &= held >= rule.least_stain * self.stain.threshold
        measured = {name: values[keep] for name, values in measured.items()}
        return Objects(region, polygons[keep], np.zeros(int(keep.sum()), np.int64), scores[keep], sums[keep], measured)


def _near(region: Region, plane: Region, halo: int) -> Region:
    """What of a patch lies on the slide, and the halo around that: nothing else is asked for."""
    part = region.intersection(plane)
    return (part and part.padded(halo).intersection(region)) or region


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


def _within(objects: Objects, region: Region) -> Objects:
    """Objects of a part of a patch, in the patch's frame."""
    x, y = objects.region.x - region.x, objects.region.y - region.y
    if (x, y) == (0, 0):
        return replace(objects, region=region)
    sums = objects.moments + objects.moments[:, 2:] * (x, y, 0)
    return replace(
        objects,
        region=region,
        outlines=shapely.transform(objects.outlines, lambda xy: xy + np.array([x, y])),
        moments=sums,
    )


def _network(config: dict[str, Any]) -> tuple[nn.Module, Forward]:
    """The network of a card's configuration, not yet its weights, and what it says of pixels."""
    import torch

    from wsikit.methods.points.model import NucleiNet

    network = NucleiNet.of(Config.model_validate(config))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        # in half precision large probabilities would be equal
        return torch.sigmoid(network(pixels).float())

    return network, forward


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
    where = choose_device(device).type
    precision = fast_precision(where) if config.precision == "auto" else config.precision
    return NucleiOutlines.made(card, config, path, mpp=mpp, min_tissue=min_tissue, device=where, precision=precision)


def _check_mpp(card: MethodCard, config: Config, mpp: float | None) -> None:
    least, most = config.seen_mpp
    if mpp is not None and not least * (1 - TOLERANCE) <= mpp <= most * (1 + TOLERANCE):
        raise ConfigError(
            f"{card.name} was trained at {least:g} to {most:g} um per px and would see {mpp:.4g}",
            code="wrong_mpp",
            remedy=f"leave out --mpp, which takes {card.mpp:g}, or give one in between",
        )
