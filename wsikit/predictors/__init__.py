"""Built-in predictors that need no weights. To add one: one file here and one row in ``PREDICTORS``.

A predictor class is a frozen dataclass that meets ``wsikit.predictions.Predictor``, has a one-line ``description`` and
can be made by ``create(mpp=None, min_tissue=None)``, where None leaves the class's own default.
"""

from __future__ import annotations

from wsikit.errors import ConfigError
from wsikit.predictions import Predictor
from wsikit.registry import Registry

__all__ = ["PREDICTORS", "load_predictor"]

PREDICTORS = Registry(
    "predictor",
    [
        ("nuclei", "wsikit.predictors.nuclei:NucleiPredictor"),
        ("stain-area", "wsikit.predictors.stain_area:StainAreaPredictor"),
    ],
)
"""Predictor name -> class."""


def load_predictor(
    name: str, *, mpp: float | None = None, min_tissue: float | None = None, device: str = "auto"
) -> Predictor:
    """Make a predictor by name; ``prepare`` then binds it to a slide.

    Args:
        name: a name of ``PREDICTORS``.
        mpp: micrometres per pixel to work at, by default the predictor's own.
        min_tissue: smallest share of a window's core that must be tissue, by default the predictor's own.
        device: auto, cpu or cuda. The predictors without weights run on the CPU and refuse cuda.

    Raises:
        UnknownNameError: no such predictor; the message lists the choices.
        ConfigError: a resolution or a share that the predictor cannot work with.
    """
    if device not in {"auto", "cpu"}:
        PREDICTORS[name]  # an unknown name is the more useful error
        raise ConfigError(
            f"the predictor {name!r} has no weights and runs on the CPU: device is auto or cpu, got {device!r}"
        )
    predictor: Predictor = PREDICTORS.load(name).create(mpp=mpp, min_tissue=min_tissue)
    return predictor
