"""Everything that the points method can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wsikit.training.recipe import Recipe


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 < span[0] <= span[1]:
        raise ValueError(f"a span is two numbers above 0, the smaller first, got {span}")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_rising)]


class Detector(_Part):
    """From some points of an image to all of them. Not needed, and left out, where masks are learned."""

    target: Literal["extended", "naive"] = "extended"
    """extended: what is far from every point is ignored, since nuclei without a point lie there; naive: it is taken for
    background, which is right only where every nucleus has a point."""
    rounds: int = Field(default=3, ge=0)
    """Trainings after the first, each with the background that the one before is sure of; none for naive targets."""
    change: float = Field(default=0.01, ge=0, lt=1)
    """Rounds end where both the share of background and the number of points found change by less than this share."""
    recipe: Recipe = Recipe(epochs=60, batch_size=8, learning_rate=1e-3)
    """Of the first training."""
    again: Recipe = Recipe(epochs=30, batch_size=8, learning_rate=5e-4)
    """Of each round, which begins with the weights of the one before."""


class Segmenter(_Part):
    """Which pixels are nuclei, and where one ends and the next begins."""

    labels: Literal["masks", "voronoi", "cluster", "both"] = "cluster"
    """What is learned from. masks: full masks; else labels that are made of the points and of those that the detector
    adds: voronoi, the edges between points; cluster, the colours around points."""
    recipe: Recipe = Recipe(epochs=90, batch_size=8, learning_rate=1e-3)
    crf: float = Field(default=0.0, ge=0)
    """Weight of the dense CRF loss in ``crf_recipe``, which follows where it is above 0; the original took 0.001 to
    0.005, twice as much here (``wsikit.methods.points.crf``). Pieces of all resolutions weigh alike, as at
    ``at_mpp``. Not for masks."""
    crf_recipe: Recipe = Recipe(epochs=20, batch_size=8, learning_rate=1e-4)


class Instances(_Part):
    """From the network's two maps to nuclei, see ``wsikit.methods.points.instances``."""

    cut: float = Field(default=0.5, gt=0, lt=1)
    """Probability of the foreground from which on a pixel is nucleus."""
    smoothing_um: float = Field(default=0.25, gt=0)
    """Sigma of the Gaussian over the centre map."""
    depth: float = Field(default=0.25, ge=0)
    """A summit of the centre map is a nucleus of its own where it rises by so much above the pass to a higher one."""
    least_um2: float = Field(default=4.0, ge=0)
    """Smaller objects are dropped."""
    most_um2: float = Field(default=300.0, gt=0)
    """Larger objects are dropped, as are longer and less round ones: keratin, folds and fibres are dark, too."""
    most_um: float = Field(default=24.0, gt=0)
    """Longest side of an object's bounding box."""
    circularity: float = Field(default=0.25, ge=0, le=1)
    """Least 4 pi area / perimeter^2 of an object's outline."""
    least_stain: float = Field(default=0.0, ge=0)
    """Least mean density of the stain of an object, in units of the slide's threshold; counts with ``sees: stain``."""
    least_score: float = Field(default=0.0, ge=0, le=1)
    """Least score of an object, the mean probability of its pixels. What a network is unsure of is seldom a
    nucleus, small things least of all."""
    hole_um2: float = Field(default=6.0, ge=0)
    """Smaller holes are filled: nucleoli and vesicular chromatin."""


class Config(_Part):
    """Everything that ``wsikit train points`` can be told."""

    verb: ClassVar[str] = "train"

    data: Path | None = None
    """A folder of images with points or instance labels, see ``wsikit.methods.points.data``."""
    points: Path | None = None
    """The table of points, or the folder of files of points or labels, where they lie elsewhere or have other names."""
    allow_empty: bool = False
    """Whether files of points or labels may be empty: images without any nucleus."""
    mpp: float = Field(default=0.25, gt=0)
    """Micrometres per pixel of the training images."""
    start: Path | None = None
    """A checkpoint of this method, of the same encoder and widths, whose weights the network begins with."""
    unlabelled: Path | None = None
    """A folder of images without labels, of ``mpp`` um per px as well, say of other laboratories: the segmenter learns
    beside its labels what its teachers say of these (``wsikit.methods.points.taught``)."""
    teachers: tuple[Path, ...] = ()
    """Checkpoints of this method whose answers on ``unlabelled`` are averaged."""
    ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the points of each image for training or validation that is known, drawn by the seed."""
    radius_um: float = Field(default=2.75, gt=0)
    """Mean radius of a nucleus; every length that targets and labels of points have is a multiple of it."""
    licence: str = ""
    """Of the training images, for the card."""
    name: str = ""
    """Of the model, as reports show it; points and the label if empty."""
    label: str = "Nucleus"
    """Name of what is found, as QuPath shows it."""
    stain: Literal["he", "ihc"] = "he"
    """What the images are stained with: he moves haematoxylin and eosin in training, ihc leaves stains as they are."""
    sees: Literal["colours", "stain"] = "colours"
    """What the network is shown. stain: only how much of the stain of nuclei there is, in units of the slide's own
    threshold, which looks alike in images of other laboratories and stains (``wsikit.methods.points.shown``)."""
    paler: float = Field(default=0.0, ge=0, lt=1)
    """Most of its contrast with the ground that a nucleus loses in half of the pieces, where slides have paler nuclei
    than the training images (``wsikit.methods.points.paler``); for masks and stain."""
    test_share: float = Field(default=0.15, ge=0, lt=1)
    """Of the images (whole patients, where they are known) that training never sees, unless a split column says so;
    0 for none, and then nothing says how good the model is."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Of the images that choose the epoch."""
    encoder: str = "tf_efficientnet_lite0"
    """timm architecture."""
    weights: str = "imagenet"
    """imagenet, none (random), or a file of the architecture's weights."""
    widths: tuple[Annotated[int, Field(ge=8)], ...] = Field(default=(96, 64, 48, 32), min_length=1, max_length=4)
    """Channels of the decoder's blocks, coarsest first. One level more of the encoder is used, each with half the
    resolution of the one before."""
    at_mpp: float = Field(default=0.5, gt=0)
    """Micrometres per pixel that slides are run at where nothing else is asked for."""
    seen_mpp: Span = (0.18, 0.7)
    """Micrometres per pixel that training images are resized to, drawn evenly on a logarithmic scale. The model can be
    run at any resolution in between."""
    crop: int = Field(default=160, gt=0, multiple_of=32)
    """Side of the pieces that are learned from, px. An image gives as many in an epoch as cover it."""
    detector: Detector = Detector()
    segmenter: Segmenter = Segmenter()
    instances: Instances = Instances()
    core: int = Field(default=1088, gt=0, multiple_of=32)
    """Side of the windows that slides are cut into, px."""
    halo: int = Field(default=96, ge=0, multiple_of=32)
    """Context around them, px."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the network computes in on slides. auto: bfloat16 on processors that multiply it by themselves, about twice
    as fast, else float32. Training has ``recipe.precision``."""
    stored: Literal["float32", "float16"] = "float32"
    """What the checkpoint keeps its weights in. float16 makes half as large a file, and the card's figures are those of
    the rounded weights."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
