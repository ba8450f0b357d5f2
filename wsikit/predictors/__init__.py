"""Predictors by name, from a file of the user's, or from a model file with its card.

To add a built-in one: one file here and one row in ``PREDICTORS``. A predictor class is a frozen dataclass that meets
``wsikit.predictions.Predictor``, has a one-line ``description`` and can be made by
``create(mpp=None, min_tissue=None)``, where None leaves the class's own default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsikit.errors import ConfigError, PluginError, UnknownNameError, WsikitError
from wsikit.geometry import TileSpec
from wsikit.predictions import (
    AreaSpec,
    BagPredictor,
    Encoder,
    Label,
    Model,
    Objects,
    Points,
    Predictor,
    ScoreMap,
    area_spec,
    density_cell,
)
from wsikit.registry import Registry

__all__ = ["FORMS", "METHODS", "PREDICTORS", "load_predictor"]

PREDICTORS = Registry(
    "predictor",
    [
        ("nuclei", "wsikit.predictors.nuclei:Nuclei"),
        ("nuclei-classical", "wsikit.predictors.nuclei_classical:ClassicalNuclei"),
        ("stain-area", "wsikit.predictors.stain_area:StainAreaPredictor"),
    ],
    group="wsikit.predictors",
)
"""Predictor name -> class."""
METHODS = Registry(
    "method",
    [
        ("counting", "wsikit.methods.counting"),
        ("cam_onss", "wsikit.methods.cam_onss"),
        ("points", "wsikit.methods.points"),
    ],
    group="wsikit.methods",
)
"""Name of a method that is trained -> its module, see ``wsikit.methods``. ``NAME:CHECKPOINT`` runs what it trained."""
FORMS = {
    "path/to/predictor.py:MyPredictor": "a class of your own file; CONTRIBUTING.md has an example",
    "METHOD:model.safetensors": "of `wsikit train METHOD`, with its card beside it; METHOD: counting, cam_onss, points",
    "abmil:model.safetensors": "an attention head over bags with its card beside it (docs/cards.md)",
    "model.pt, model.onnx": "TorchScript or ONNX with its card beside it (model.json, model.yaml, config.json)",
}
"""What -m takes beside the names of ``PREDICTORS``."""
MODEL_SUFFIXES = (".pt", ".ts", ".torchscript", ".onnx")


def load_predictor(
    name: str, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> Model:
    """Make a model; ``prepare`` then binds it to a slide.

    Args:
        name: a name of ``PREDICTORS``; ``METHOD:CHECKPOINT``; ``path/to/predictor.py:MyPredictor``; or the path of a
            TorchScript or ONNX file that has its card beside it. A Python or TorchScript file is code, and loading it
            runs that code.
        mpp: micrometres per pixel to work at, by default the model's own.
        min_tissue: smallest share of a window's core that must be tissue, by default the model's own.
        device: auto, cpu or cuda. Models without weights run on the CPU and refuse cuda.

    Raises:
        UnknownNameError: no such predictor; the message lists the choices.
        PluginError: a file or package that cannot be loaded, or a class that is no predictor.
        ConfigError: a resolution, a share, a device or a card that the model cannot work with, or a network without
            torch (code no_torch).
    """
    if name.startswith("abmil:"):
        _check_torch(name)
        from wsikit.nn.attention import load_attention

        return load_attention(Path(name.removeprefix("abmil:")), mpp=mpp, min_tissue=min_tissue, device=device)
    method, colon, checkpoint = name.partition(":")
    if colon and method in METHODS:
        _check_torch(name)
        trained: Model = METHODS.load(method).load_predictor(
            Path(checkpoint), mpp=mpp, min_tissue=min_tissue, device=device
        )
        return trained
    if name not in PREDICTORS and Path(name).suffix.lower() in MODEL_SUFFIXES:
        from wsikit.nn.carded import load_carded

        return load_carded(Path(name), mpp=mpp, min_tissue=min_tissue, device=device)
    cls, origin = _named(name)
    return _made(cls, origin, {"mpp": mpp, "min_tissue": min_tissue}, device)


def _check_torch(name: str) -> None:
    if find_spec("torch") is None:
        raise ConfigError(
            f"{name} is a network, and torch is not installed",
            code="no_torch",
            remedy='pip install "wsikit[nn]", or take a model without weights: nuclei-classical or stain-area',
        )


def _named(name: str) -> tuple[Callable[..., Any], str]:
    """A class, and how messages call it."""
    from wsikit.predictors.files import NAMED, load_class

    named = NAMED.fullmatch(name)
    if named and name not in PREDICTORS:
        return load_class(named["file"], named["name"] or "", _looks_like_one), f"{named['name']} of {named['file']}"
    try:
        found: Callable[..., Any] = PREDICTORS.load(name)
    except UnknownNameError as error:
        error.remedy = f"or give a file: {'; '.join(f'{form} ({what})' for form, what in FORMS.items())}"
        raise
    return found, f"{name!r} of {PREDICTORS.origin(name)}"


def _looks_like_one(cls: type) -> bool:
    return any(callable(getattr(cls, verb, None)) for verb in ("predict", "embed"))


def _made(cls: Callable[..., Any], origin: str, settings: Mapping[str, float | None], device: str) -> Model:
    """Call ``create`` of a class, or the class, with what was asked for, and hold the outcome to its protocol."""
    make = getattr(cls, "create", cls)
    asked: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    taken = inspect.signature(make).parameters
    if "device" in taken:
        asked["device"] = device
    elif device == "cuda":
        raise ConfigError(f"the predictor {origin} runs on the CPU: device is auto or cpu, got 'cuda'")
    refused = [key for key in asked if key not in taken]
    if refused:
        raise ConfigError(
            f"the predictor {origin} has its own {' and '.join(refused)} and takes no other",
            remedy=f"leave it out, or give {make.__qualname__} a parameter {refused[0]!r}",
        )
    try:
        model = make(**asked)
        lacking = _lacking(model)
    except WsikitError:
        raise
    except Exception as error:  # a plug-in may raise anything, and the message must say whose error it was
        raise PluginError(
            f"the predictor {origin} raised {type(error).__name__} when it was made: {error}",
            remedy=f"it is made by {make.__qualname__}({', '.join(f'{k}={v!r}' for k, v in asked.items())})",
        ) from error
    if lacking:
        raise PluginError(
            f"the predictor {origin} does not keep the contract of predictors: {'; '.join(lacking)}",
            remedy="see wsikit.predictions: Predictor, Encoder and BagPredictor; Stateless fills in what is trivial",
        )
    made: Model = model
    return made


def _lacking(model: Any) -> list[str]:
    """What is missing or wrong in something that should be a model; empty where it is one."""
    if not _looks_like_one(type(model)):
        return [f"{type(model).__name__} has neither predict nor embed"]
    kind: type[Any] = Predictor
    if not callable(getattr(model, "predict", None)):
        kind = BagPredictor if callable(getattr(model, "score", None)) else Encoder
    needed = sorted({name for base in kind.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))})
    missing = [name for name in needed if not name.startswith("_") and not hasattr(model, name)]
    if missing:
        return [f"{type(model).__name__} has no {', '.join(missing)}"]
    labelled = isinstance(model.labels, tuple) and all(isinstance(label, Label) for label in model.labels)
    checks = {
        "name must be a text that is not empty": isinstance(model.name, str) and bool(model.name),
        "tile must be a wsikit.geometry.TileSpec": isinstance(model.tile, TileSpec),
        "labels must be a tuple of wsikit.predictions.Label": labelled,
        "labels must have different names": not labelled or len({x.name for x in model.labels}) == len(model.labels),
    }
    if kind is Predictor:
        cell = density_cell(model)
        checks["density_cell must be a whole number of px, or 0 for none"] = isinstance(cell, int) and cell >= 0
        spec = area_spec(model)
        checks["areas must be a wsikit.predictions.AreaSpec, or None"] = spec is None or isinstance(spec, AreaSpec)
        checks["produces must be ScoreMap, Points or Objects"] = model.produces in (ScoreMap, Points, Objects)
    else:
        checks["width must be a positive whole number"] = isinstance(model.width, int) and model.width > 0
    return [message for message, kept in checks.items() if not kept]
