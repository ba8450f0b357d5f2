"""Everything that the counting method can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from wsikit.training.recipe import Recipe

LYSTO_EDGES = (1, 6, 11, 21, 51, 201)
"""LYSTO's bins of counts, 0 | 1-5 | 6-10 | 11-20 | 21-50 | 51-200 | more: first count of each bin but the first."""
Quarters = Annotated[float, Field(ge=0.25, le=4, multiple_of=0.25)]
"""A factor that leaves the margin around training images in whole cells of the map."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counter(_Part):
    """Stage 1: how many cells an image holds."""

    head: Literal["density", "pooled"] = "density"
    """density: a map whose sum is the count, additive over tiles; pooled: one number from pooled features, as
    published, which knows no place and is no more than a count of an image."""
    bins: bool = False
    """Learn the bin of the count (LYSTO's) beside it."""
    loss: Literal["smooth_l1", "mse", "poisson"] = "smooth_l1"
    """Between the sum of the map, or the pooled number, and the count."""
    augment: bool = True
    """Flips, quarter turns, brightness, contrast and amounts of stain (``wsikit.stain.augment``)."""
    zoom: tuple[Quarters, ...] = Field(default=(0.75, 1.0, 1.25), min_length=1)
    """Factors that training images are resized by, one drawn for each batch, in quarters: cells get larger or smaller,
    and remain as many. (1.0,) leaves them as they are. A pooled counter's are not resized."""
    hard: float = Field(default=0.0, ge=0, lt=1)
    """Share of an epoch that is drawn from the images with the largest errors of the epoch before; 0 takes every image
    once."""
    recipe: Recipe = Recipe(epochs=60, batch_size=8, learning_rate=1e-3)


class Instances(_Part):
    """Stage 2: which windows hold a cell, learned from the windows that count."""

    tile_um: float = Field(default=8.0, gt=0)
    """Side of the windows; rounded to whole cells of the finest feature map, 4 px."""
    interval_um: float = Field(default=4.0, gt=0)
    """Step between windows in training, rounded likewise. Heat maps have a window at every cell."""
    cell_radius_um: float = Field(default=4.0, gt=0)
    """Radius of a cell. How many windows a cell fills follows from it: ``wsikit.methods.counting.instances.k_p``."""
    k_p: float | None = Field(default=None, gt=0)
    """Windows per cell; null is what the geometry says."""
    k_n: int = Field(default=30, ge=1)
    """Windows of an image without cells that are learned as negative: those with the highest scores."""
    ratio: float | None = Field(default=0.5, gt=0)
    """Positive windows per negative one, by leaving out at random what is too many; null keeps all."""
    negatives: Literal["auto", "zero", "lowest"] = "auto"
    """Where negatives come from: zero, images without cells; lowest, the windows with the lowest scores of all images;
    auto, zero where there are such images, else lowest."""
    recipe: Recipe = Recipe(epochs=30, batch_size=256, learning_rate=1e-3)


class Pseudo(_Part):
    """From the heat map to the masks that stage 3 learns from."""

    threshold: Literal["counts"] | float = "counts"
    """Of the heat map. counts: where the masks fall into as many pieces as the labels count; the original took 0.95."""
    channel: Literal["value", "dab", "haematoxylin"] = "value"
    """What a pixel must be beside hot: dark (value of HSV), brown, or blue."""
    level: Literal["otsu"] | float = "otsu"
    """Where that begins: otsu over the training images, or a number: the largest HSV value (the original took 170) or
    the least optical density."""
    refine: bool = True
    """Pixel-adaptive refinement of the masks (``wsikit.methods.counting.refine``)."""
    least_um2: float = Field(default=10.0, ge=0)
    """Smaller objects are removed."""
    hole_um2: float = Field(default=6.0, ge=0)
    """Smaller holes are filled."""


class Segmenter(_Part):
    """Stage 3: which pixels are cells."""

    enabled: bool = True
    """False ends after stage 2, and the model gives points."""
    width: int = Field(default=64, ge=8)
    """Channels of the decoder's coarsest block; each finer one has half."""
    recipe: Recipe = Recipe(epochs=20, batch_size=8, learning_rate=1e-3)


class Config(_Part):
    """Everything that ``wsikit train counting`` can be told."""

    verb: ClassVar[str] = "train"

    data: Path | None = None
    """A LYSTO ``training.h5``, a folder of images, or a folder of images with instance labels beside them."""
    counts: Path | None = None
    """CSV with the columns image and count, and patient, slide, organ, split where they are known; null looks for
    counts.csv or training_labels.csv in the folder, then for instance labels."""
    mpp: float = Field(default=0.25, gt=0)
    """Micrometres per pixel of the training images, and then of slides."""
    licence: str = ""
    """Of the training images, for the card."""
    label: str = "Positive"
    """Name of the cells that were counted."""
    stain: Literal["he", "ihc"] = "he"
    """What the images are stained with: he moves haematoxylin and eosin in training, ihc leaves stains as they are."""
    test_share: float = Field(default=0.15, ge=0, lt=1)
    """Of the images (whole patients, where they are known) that training never sees, unless a split column says so;
    0 for none, and then nothing says how good the model is."""
    validation_share: float = Field(default=0.15, gt=0, lt=1)
    """Of the images that choose the epoch."""
    encoder: str = "tf_efficientnet_lite0"
    """timm architecture."""
    depth: int = Field(default=4, ge=2, le=5)
    """Levels of it that are used, each with half the resolution of the one before. The fewer, the better a density
    lies on the cells; the more, the better it counts. Five know hardly where a cell is (docs/measured.md)."""
    weights: str = "imagenet"
    """imagenet, none (random), or a file of the architecture's weights."""
    counter: Counter = Counter()
    instances: Instances = Instances()
    pseudo: Pseudo = Pseudo()
    segmenter: Segmenter = Segmenter()
    core: int = Field(default=768, gt=0, multiple_of=32)
    """Side of the windows that slides are cut into, px."""
    halo: int = Field(default=128, ge=0, multiple_of=32)
    """Context around them, px."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
