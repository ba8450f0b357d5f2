"""The model that a configuration asks for."""

from __future__ import annotations

from typing import cast

from wsikit.config import RunConfig
from wsikit.predictions import Predictor
from wsikit.predictors import load_predictor
from wsikit.predictors.normalised import normalised
from wsikit.stain.reference import load_target


def load_model(config: RunConfig) -> Predictor:
    """Make the predictor of a run, not yet bound to a slide; it normalises stains where that is asked for.

    Raises:
        UnknownNameError: no such model or stain method; the message lists the choices.
        ConfigError: settings that the model cannot work with, or a stain reference that says nothing.
    """
    model = load_predictor(config.model, mpp=config.mpp, min_tissue=config.min_tissue, device=config.device)
    return cast(Predictor, normalised(model, load_target(config.stain))) if config.stain else model
