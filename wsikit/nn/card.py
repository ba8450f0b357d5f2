"""Cards: what a model file does not say of itself, in YAML or JSON beside it.

wsinfer-zoo's ``config.json`` is taken as it is. Its format is the JSON schema of spec_version 1.0 in
github.com/SBU-BMI/wsinfer-zoo (``wsinfer_zoo/schemas/model-config.schema.json``); that its models give logits, which go
through a softmax, or a sigmoid where there is one class, is what github.com/SBU-BMI/wsinfer does with them
(``wsinfer/modellib/run_inference.py``).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wsikit.errors import ConfigError
from wsikit.geometry import TileSpec
from wsikit.nn.device import Precision
from wsikit.nn.images import Preprocess
from wsikit.predictions import Label

MPP_TOLERANCE = 0.10
"""Largest relative difference between the um per px that a model was made for and those that it is run at."""
COLORS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (230, 159, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))
"""For labels without a colour, in this order: the palette for the colour-blind of Wong, Nat Methods 8 (2011) 441."""
NONE_OF_THESE = Label("None of these", (225, 225, 225), background=True)
"""Added by ``Card.classes`` where the classes do not exclude one another."""
WSINFER = (
    "spec_version",
    "architecture",
    "num_classes",
    "patch_size_pixels",
    "spacing_um_px",
    "class_names",
    "transform",
)
"""Required keys of a wsinfer-zoo card."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _color(value: object) -> object:
    """#rrggbb to three numbers."""
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        return tuple(bytes.fromhex(value[1:]))
    return value


Number = Annotated[float, AfterValidator(_finite)]
Channel = Annotated[int, Field(ge=0, le=255)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CardLabel(_Frozen):
    """One class; a name alone will do."""

    name: str = Field(min_length=1)
    color: Annotated[tuple[Channel, Channel, Channel] | None, BeforeValidator(_color)] = None
    """[red, green, blue] or "#rrggbb"."""
    background: bool = False
    """True for what is none of the other classes: left out of pictures."""


def _label(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Card(_Frozen):
    """What a model is, wants and gives."""

    name: str = Field(min_length=1)
    task: Literal["classification", "segmentation", "embedding", "bag"]
    """classification gives (N, K), one row per patch; segmentation (N, K, patch, patch); embedding (N, D); bag gives
    scores of all patches of a slide together (``wsikit.nn.attention``)."""
    labels: tuple[Annotated[CardLabel, BeforeValidator(_label)], ...] = ()
    """The K classes in the order of the model's channels; none for embedding."""
    mpp: Number = Field(gt=0)
    """Micrometres per pixel that the model was trained at."""
    patch: int = Field(ge=1)
    """Side of the square patch, px at ``mpp``."""
    halo: int = Field(default=0, ge=0)
    """Border of the patch whose answers are left to the neighbours, px; for segmentation."""
    least_um2: Number | None = Field(default=None, ge=0)
    """Connected areas below this, um^2, are cleaned away, and each that stays is outlined; null makes no areas of the
    map. For segmentation."""
    mean: tuple[Number, Number, Number]
    """RGB, of values in [0, 1]; [0, 0, 0] where the model takes them as they are."""
    std: tuple[Number, Number, Number]
    """RGB, of values in [0, 1]; [1, 1, 1] where the model takes them as they are."""
    size: int | None = Field(default=None, ge=1)
    """Side in px that patches are resized to; null leaves them as they are."""
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    """What turns the model's output into scores; none where it gives scores in [0, 1] itself."""
    precision: Precision = "float32"
    """What the model computes in: bfloat16 or float16, which are faster on a GPU, where it was found to bear them."""
    min_tissue: Number = Field(default=0.0, ge=0, le=1)
    """Smallest share of tissue of a patch."""
    sha256: str | None = None
    """Of the model file, hex."""
    description: str = ""
    licence: str = ""
    training_data: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """What was measured, and on what."""
    source: str = ""
    """Where the model is from."""
    citation: str = ""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        embeds, names = self.task == "embedding", [label.name for label in self.labels]
        if embeds and self.labels:
            raise ValueError("labels: a model that embeds has none")
        if not embeds and not self.labels:
            raise ValueError(f"labels: {self.task} needs the names of its classes")
        if len(set(names)) != len(names):
            raise ValueError(f"labels: names must differ, got {', '.join(names)}")
        if not embeds and self.activation is None:
            raise ValueError(
                "activation: say softmax or sigmoid where the model gives logits, none where it gives scores in [0, 1]"
            )
        if self.activation == "softmax" and len(names) == 1:
            raise ValueError("activation: a softmax over one class is always 1; one class needs sigmoid or none")
        if self.task == "bag" and self.precision != "float32":
            raise ValueError("precision: a head over bags computes in its own; its encoder's stands under encoder")
        if self.task != "segmentation" and self.halo:
            raise ValueError(f"halo: only segmentation has one, {self.task} looks at patches one by one")
        if self.task != "segmentation" and self.least_um2 is not None:
            raise ValueError(f"least_um2: only the class maps of segmentation have areas, {self.task} gives none")
        if self.task == "segmentation" and self.size not in {None, self.patch}:
            raise ValueError("size: segmentation gives a score per pixel of the patch, which cannot be resized")
        _ = self.preprocess, self.tile()
        return self

    @property
    def classes(self) -> tuple[Label, ...]:
        """The labels of the scores. A sigmoid's classes may all be unlikely: one label more stands for that."""
        named = tuple(
            Label(label.name, label.color or COLORS[i % len(COLORS)], label.background)
            for i, label in enumerate(self.labels)
        )
        return (*named, NONE_OF_THESE) if self.activation == "sigmoid" or len(named) == 1 else named

    @property
    def preprocess(self) -> Preprocess:
        """From pixels to what the model takes."""
        return Preprocess(self.mean, self.std, self.size)

    def tile(self, mpp: float | None = None, min_tissue: float | None = None) -> TileSpec:
        """How slides are cut, at the card's mpp or another near it.

        Raises:
            ConfigError: an mpp that is more than 10 % off the card's (code wrong_mpp).
        """
        wanted = self.mpp if mpp is None else mpp
        self.check_mpp(wanted)
        share = self.min_tissue if min_tissue is None else min_tissue
        return TileSpec(wanted, self.patch - 2 * self.halo, self.halo, share)

    def check_mpp(self, mpp: float) -> None:
        """Raise ConfigError (code wrong_mpp) for an mpp that is more than 10 % off the card's."""
        if abs(mpp - self.mpp) > MPP_TOLERANCE * self.mpp + 1e-9:
            raise ConfigError(
                f"the model {self.name!r} was made for {self.mpp:g} um per px and would see {mpp:.4g}, which is "
                f"{abs(mpp / self.mpp - 1):.0%} off; up to {MPP_TOLERANCE:.0%} is allowed",
                code="wrong_mpp",
                remedy=f"leave out --mpp, or run it at {self.mpp:g}",
            )


AnyCard = TypeVar("AnyCard", bound=BaseModel)


def find_card(model: Path) -> Path:
    """The card of a model file: ``model.card.*`` or ``model.*`` (json, yaml, yml) beside it, else ``config.json``.

    Raises:
        ConfigError: there is none, or there are several (code no_card).
    """
    own = [model.with_name(f"{model.stem}{mid}.{end}") for mid in (".card", "") for end in ("json", "yaml", "yml")]
    found = [path for path in own if path.is_file()]
    shared = model.with_name("config.json")
    if len(found) > 1:
        raise ConfigError(
            f"{model} has {len(found)} cards beside it: {', '.join(path.name for path in found)}",
            code="no_card",
            remedy="keep one of them",
        )
    if not found and not shared.is_file():
        raise ConfigError(
            f"{model} has no card beside it that says its classes, resolution and preprocessing",
            code="no_card",
            remedy=f"write {model.stem}.json or {model.stem}.yaml (docs/cards.md); wsinfer-zoo's config.json will do",
        )
    return found[0] if found else shared


def read_card(path: Path) -> Card:
    """Read a card, wsikit's own or wsinfer-zoo's. Raises as ``read_card_as``."""
    return read_card_as(path, Card)


def read_card_as(path: Path, kind: type[AnyCard]) -> AnyCard:
    """Read a card of another kind: one with more keys, or of another family.

    Raises:
        ConfigError: it cannot be read, lacks a key, has an unknown one (the nearest is named) or a value that does not
            fit (code bad_card).
    """
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the card {path} cannot be read: {error}", code="bad_card") from error
    if not isinstance(values, dict):
        raise _bad(path, f"it must hold keys and values at the top, got a {type(values).__name__}")
    if "spec_version" in values or "patch_size_pixels" in values:
        values = _from_wsinfer(values, path)
    for key in values:
        if key not in kind.model_fields:
            near = difflib.get_close_matches(str(key), kind.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are: {', '.join(kind.model_fields)}"
            raise _bad(path, f"it has an unknown key {key!r}; {hint}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _bad(path, "; ".join(_said(item) for item in error.errors())) from error
    except ConfigError as error:
        raise _bad(path, str(error)) from error


def _bad(path: Path, wrong: str) -> ConfigError:
    return ConfigError(
        f"the card {path} is wrong: {wrong}", code="bad_card", remedy="docs/cards.md describes every key"
    )


def _said(item: Any) -> str:
    place = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return f"{place} is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, got {item['input']!r}" if place else message


def _from_wsinfer(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    missing = [key for key in WSINFER if key not in values]
    if missing:
        raise _bad(path, f"a wsinfer-zoo card needs {', '.join(missing)}")
    if values["spec_version"] != "1.0":
        raise _bad(path, f"wsinfer-zoo cards of spec_version '1.0' are read, got {values['spec_version']!r}")
    names, count = values["class_names"], values["num_classes"]
    if not isinstance(names, list) or len(names) != count:
        raise _bad(path, f"num_classes is {count!r} and class_names are {names!r}")
    return {
        "name": values.get("name") or f"{values['architecture']} ({', '.join(map(str, names))})",
        "task": "classification",
        "labels": names,
        "mpp": values["spacing_um_px"],
        "patch": values["patch_size_pixels"],
        "activation": "softmax" if count > 1 else "sigmoid",
        **_from_transforms(values["transform"], path),
    }


def _from_transforms(steps: object, path: Path) -> dict[str, Any]:
    """What Resize, ToTensor and Normalize, in this order, mean for a card."""
    order = ("Resize", "ToTensor", "Normalize")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise _bad(path, f"transform must be a list of transforms, got {steps!r}")
    names = [step.get("name") for step in steps]
    unknown = [name for name in names if name not in order]
    if unknown:
        raise _bad(path, f"the transform {unknown[0]!r} is not one of {', '.join(order)}")
    if names != sorted(set(names), key=order.index) or "ToTensor" not in names:
        raise _bad(path, f"transforms must be {', '.join(order)}, each once and in this order, got {', '.join(names)}")
    given = {step["name"]: step.get("arguments") or {} for step in steps}
    allowed: dict[str, Sequence[str]] = {"Resize": ("size",), "ToTensor": (), "Normalize": ("mean", "std")}
    for name, arguments in given.items():
        if sorted(arguments) != sorted(allowed[name]):
            wants = ", ".join(allowed[name]) or "no arguments"
            raise _bad(path, f"the transform {name!r} takes {wants}, got {', '.join(arguments) or 'none'}")
    size = given.get("Resize", {}).get("size")
    if isinstance(size, list):
        if len(set(size)) != 1:
            raise _bad(path, f"the transform 'Resize' must give a square, got {size}")
        size = size[0]
    return {"size": size, "mean": (0, 0, 0), "std": (1, 1, 1), **given.get("Normalize", {})}
