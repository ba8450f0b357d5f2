"""Everything that the tissue method can be told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from wsikit.methods.cam_onss.classes import LUAD_HISTOSEG, Palette, Schema
from wsikit.training.recipe import Recipe


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Classifier(_Part):
    """Stage 1: which classes are in a patch."""

    output_stride: Literal[8, 16] = 8
    """px of the patch for a pixel of its activation maps."""
    dropout_attention: bool = True
    """Progressive dropout attention: what is most active is taken away, more of it in every epoch, so that less obvious
    tissue is learned too."""
    first_epoch: int = Field(default=4, ge=1)
    """Of the dropout attention."""
    decay: float = Field(default=0.98, gt=0, le=1)
    """Of its threshold, a share of the largest activation, in each epoch."""
    least: float = Field(default=0.65, gt=0, le=1)
    """Below which the threshold does not fall."""
    coordinate_attention: bool = True
    """Gates by row and by column (Hou et al., CVPR 2021)."""
    cam: Literal["plus", "linear"] = "linear"
    """Activation maps: Grad-CAM++ in closed form, as published, or CAM."""
    recipe: Recipe = Recipe(epochs=20, batch_size=16, learning_rate=1e-3)


class Voting(_Part):
    """From activation maps to pseudo masks."""

    scales: tuple[float, ...] = Field(default=(0.75, 1.0, 1.25), min_length=1)
    """Of the patch; 1 has the casting vote, and if it is not there the first."""
    flips: bool = True
    """Each scale mirrored left to right as well."""
    joint: bool = False
    """Maps of a scale are normalised over all classes together, as published, or else class by class."""
    white: int = Field(default=200, ge=0, le=255)
    """Grey level above which a pixel is background, where the schema has one."""
    white_um2: float = Field(default=50.0, ge=0)
    """Smaller pieces of background are none."""
    least_agreement: float = Field(default=0.0, ge=0, le=1)
    """Pixels on which fewer maps agree are ignored in stage 3."""


class Segmenter(_Part):
    """Stage 3: which class a pixel has, learned from pseudo masks."""

    decoder: Literal["pspnet", "deeplabv3plus", "upernet"] = "pspnet"
    width: int = Field(default=128, ge=8)
    """Channels of the decoder."""
    auxiliary: float = Field(default=0.4, ge=0)
    """Weight of the loss of a second, shallow head; 0 has none."""
    loss: Literal["ce", "oeem", "onss"] = "onss"
    """Cross entropy, weighted by the label's probability (OEEM), or by that and how sure the network is (ONSS)."""
    warmup: int = Field(default=10, ge=0)
    """First epochs in which all pixels weigh alike; published with none."""
    renormalise: bool = False
    """Weights of an image have the mean 1."""
    class_floor: float = Field(default=0.3, ge=0, le=1)
    """Least mean weight of a class in an image."""
    zoom: tuple[float, float] = (0.75, 1.5)
    """Patches are resized by a factor from this range, and cut or mirrored to their size."""
    iterations: int | None = Field(default=None, ge=1)
    """Batches of the whole training, rounded up to epochs, in place of the recipe's epochs: papers count so."""
    recipe: Recipe = Recipe(epochs=20, batch_size=16, learning_rate=1e-3)


class Config(_Part):
    """Everything that ``wsikit train cam_onss`` can be told."""

    verb: ClassVar[str] = "train"

    data: Path | None = None
    """Folder of patches with labels in their names, or of patches and a table."""
    labels: Path | None = None
    """The table: image, and one column for each class or ``labels``; patient, slide, split where they are known."""
    tissue: Schema = LUAD_HISTOSEG
    """The classes: luad_histoseg, bcss_wsss, wsss4luad, or a schema of your own."""
    mpp: float = Field(default=1.0, gt=0)
    """Micrometres per pixel of the patches, and then of slides."""
    licence: str = ""
    """Of the patches, for the card."""
    stain: Literal["he", "ihc"] = "he"
    """he moves haematoxylin and eosin in training, ihc leaves stains as they are."""
    palette: Palette = "qupath"
    """Names and colours on slides: qupath, or dataset."""
    test_share: float = Field(default=0.15, ge=0, lt=1)
    """Of the patches (whole patients, where they are known) that training never sees, unless splits say so;
    0 for none, and then nothing says how good the model is."""
    validation_share: float = Field(default=0.15, gt=0, lt=1)
    """Of the patches that choose the epochs."""
    encoder: str = "tf_efficientnet_lite0"
    """timm architecture, of both networks."""
    depth: int = Field(default=4, ge=3, le=5)
    """Levels of it that are used."""
    weights: str = "imagenet"
    """imagenet, none (random), or a file of the architecture's weights."""
    classifier: Classifier = Classifier()
    voting: Voting = Voting()
    segmenter: Segmenter = Segmenter()
    least_um2: float = Field(default=5000.0, ge=0)
    """Smaller areas on slides are given to what surrounds them."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
