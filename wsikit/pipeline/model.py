"""The model that a configuration asks for."""

from __future__ import annotations

from wsikit.config import RunConfig
from wsikit.predictions import Model
from wsikit.predictors import load_predictor


def load_model(config: RunConfig) -> Model:
    """Make the predictor of a run, not yet bound to a slide.

    Raises:
        UnknownNameError: no such model; the message lists the choices.
        ConfigError: settings that the model cannot work with.
    """
    return load_predictor(config.model, mpp=config.mpp, min_tissue=config.min_tissue, device=config.device)
