"""Planted scenes and the simple predictors that see them: known answers for stitching and the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import shapely
from scipy import ndimage

from wsikit.geometry import Region, TileSpec
from wsikit.outlines import moments, outlines
from wsikit.predictions import Bag, BagScore, Batch, Label, Objects, Points, ScoreMap
from wsikit.slides import Pixels, Slide
from wsikit.slides.array import ArrayReader
from wsikit.slides.resample import area_average
from wsikit.tissue import TissueMask

Box = tuple[int, int, int, int]
INK = (40, 30, 90)
PAPER = (235, 235, 235)


def scene(width: int, height: int, boxes: Sequence[Box], mpp: float = 0.5, **reader: Any) -> Slide:
    """A slide with a dark rectangle (x, y, width, height; level-0 px) for every box."""
    pixels = np.full((height, width, 3), PAPER, np.uint8)
    for x, y, w, h in boxes:
        pixels[y : y + h, x : x + w] = INK
    return Slide(ArrayReader([pixels], mpp, path="scene.svs", **reader))


@dataclass(frozen=True)
class Planted:
    """What the planted predictors share."""

    core: int = 64
    halo: int = 24
    mpp: float = 0.5
    phase: tuple[int, int] = (0, 0)
    prepared: bool = False

    name: ClassVar[str] = "planted"
    labels: ClassVar[tuple[Label, ...]] = (Label("Blob", (200, 0, 0)), Label("Other", (0, 120, 0)))

    @property
    def tile(self) -> TileSpec:
        return TileSpec(self.mpp, self.core, self.halo, 0.0, self.phase)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {}

    @property
    def bound(self) -> Mapping[str, Any]:
        return {"prepared": True} if self.prepared else {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        return replace(self, prepared=True)


@dataclass(frozen=True)
class BlobPredictor(Planted):
    """Every connected dark thing of a patch, those cut by its border included."""

    produces: ClassVar[type[Objects]] = Objects

    def predict(self, batch: Batch) -> list[Objects]:
        return [self._one(image, region) for image, region in zip(batch.images, batch.regions, strict=True)]

    def _one(self, image: np.ndarray[Any, Any], region: Region) -> Objects:
        found, count = ndimage.label(image[..., 0] < 128)
        _, shapes = outlines(found, tolerance=0)
        sums = moments(found, count)
        size = sums[:, 2].astype(float)
        labels = sums[:, 2] % 2
        return Objects(region, shapes, labels, np.full(count, 0.5), sums, {"Area um^2": size * region.mpp**2})


@dataclass(frozen=True)
class ShakyPredictor(Planted):
    """Draws the planted boxes shifted away from the window it sees them in, so that two cores claim those at a seam."""

    boxes: tuple[Box, ...] = ()
    shift: int = 2
    produces: ClassVar[type[Objects]] = Objects

    def predict(self, batch: Batch) -> list[Objects]:
        return [self._one(region) for region in batch.regions]

    def _one(self, region: Region) -> Objects:
        shapes, sums, scores = [], [], []
        for x, y, w, h in self.boxes:
            # towards the window's middle: each window believes the thing is more its own than it is
            dx = self.shift if x + w / 2 < region.x + region.width / 2 else -self.shift
            left, top = x + dx - region.x, y - region.y
            if left < 0 or top < 0 or left + w > region.width or top + h > region.height:
                continue
            shapes.append(shapely.box(left, top, left + w, top + h))
            n = w * h
            sums.append((n * left + h * w * (w - 1) // 2, n * top + w * h * (h - 1) // 2, n))
            scores.append(0.9 if dx > 0 else 0.8)
        count = len(shapes)
        moments_ = np.array(sums, np.int64).reshape(count, 3)
        outlines_ = np.array([None, *shapes], object)[1:]
        return Objects(region, outlines_, np.zeros(count, np.int64), np.array(scores, float), moments_, {})


@dataclass(frozen=True)
class PointPredictor(Planted):
    """The centre of every connected dark thing, shifted by a window-dependent amount below the radius."""

    wobble: float = 0.0
    produces: ClassVar[type[Points]] = Points

    def predict(self, batch: Batch) -> list[Points]:
        return [self._one(image, region) for image, region in zip(batch.images, batch.regions, strict=True)]

    def _one(self, image: np.ndarray[Any, Any], region: Region) -> Points:
        found, count = ndimage.label(image[..., 0] < 128)
        sums = moments(found, count)
        xy = sums[:, :2] / np.maximum(sums[:, 2:], 1) + 0.5
        middle = np.array([region.width, region.height]) / 2
        xy = xy + np.sign(middle - xy) * self.wobble
        return Points(region, xy, np.zeros(count, np.int64), np.full(count, 0.7), {}, radius=3.0)


@dataclass(frozen=True)
class RampPredictor(Planted):
    """Scores that depend on the place in the patch, so that blending them right or wrong makes a difference."""

    produces: ClassVar[type[ScoreMap]] = ScoreMap

    def predict(self, batch: Batch) -> list[ScoreMap]:
        return [self._one(image, region) for image, region in zip(batch.images, batch.regions, strict=True)]

    def _one(self, image: np.ndarray[Any, Any], region: Region) -> ScoreMap:
        return ScoreMap(region, ramp_scores(image, region))


def ramp_scores(image: np.ndarray[Any, Any], region: Region) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(H, W, 2) scores: the picture's brightness mixed with the distance from the patch's corner."""
    rows, columns = np.mgrid[: region.height, : region.width]
    place = (rows + columns) / (region.height + region.width)
    first = (0.5 * place + 0.5 * image[..., 0] / 255).astype(np.float32)
    return np.stack([first, 1 - first], axis=2)


@dataclass(frozen=True)
class InkEncoder(Planted):
    """Mean red of a patch and its place, so that a vector tells which patch it is of."""

    halo: int = 0
    width: int = 3

    labels: ClassVar[tuple[Label, ...]] = ()

    def embed(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        red = batch.images[..., 0].mean(axis=(1, 2))
        return np.array([(r, region.x, region.y) for r, region in zip(red, batch.regions, strict=True)], np.float32)


@dataclass(frozen=True)
class InkBag(InkEncoder):
    """Attends to ink: weight and score of a patch are its share of ink."""

    labels: ClassVar[tuple[Label, ...]] = (Label("Ink", (200, 0, 0)), Label("Paper", (0, 120, 0)))

    def score(self, bag: Bag) -> BagScore:
        ink = np.clip((PAPER[0] - bag.features[:, 0].astype(float)) / (PAPER[0] - INK[0]), 0, 1)
        mean = np.array([ink.mean(), 1 - ink.mean()])
        return BagScore(bag.regions, mean, ink, np.stack([ink, 1 - ink], axis=1))


def blob_density(image: np.ndarray[Any, Any], cell: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(H / cell, W / cell) in which every connected dark thing is spread over its own pixels, so that it counts 1."""
    found, count = ndimage.label(image[..., 0] < 128)
    share = np.append(0.0, 1 / np.maximum(moments(found, count)[:, 2], 1))[found]
    height, width = (n // cell for n in found.shape)
    return share.reshape(height, cell, width, cell).sum(axis=(1, 3)).astype(np.float32)


@dataclass(frozen=True)
class BlobCounter(BlobPredictor):
    """Blobs, and how many there are in each cell."""

    density_cell: int = 8

    def predict(self, batch: Batch) -> list[Objects]:
        found = super().predict(batch)
        return [
            replace(f, density=blob_density(i, self.density_cell)) for f, i in zip(found, batch.images, strict=True)
        ]


@dataclass(frozen=True)
class PointCounter(PointPredictor):
    """Points, and how many there are in each cell."""

    density_cell: int = 8

    def predict(self, batch: Batch) -> list[Points]:
        found = super().predict(batch)
        return [
            replace(f, density=blob_density(i, self.density_cell)) for f, i in zip(found, batch.images, strict=True)
        ]


def write_pyramid(path: Path, base: Pixels, mpp: float, *, levels: int = 2) -> Path:
    """(H, W, 3) as a tiled, lossless, pyramidal TIFF with downsamples 1, 2, ...; um per px of its first level."""
    import tifffile

    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            scale = 2**level
            height, width = base.shape[0] // scale, base.shape[1] // scale
            pixels = area_average(base, (0, 0), scale, (0, 0, width, height)) if level else base
            per_cm = 1e4 / (mpp * scale)
            file.write(
                pixels, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", subfiletype=level > 0, **options
            )
    return path
