"""The model that a configuration asks for."""

from __future__ import annotations

from wsikit.config import EmbedConfig, RunConfig
from wsikit.predictions import Model
from wsikit.predictors import load_predictor


def load_model(config: RunConfig) -> Model:
    """Make the model of a run, not yet bound to a slide; it sees normalised stains where that is asked for.

    Raises:
        UnknownNameError: no such model or stain method; the message lists the choices.
        ConfigError: settings that the model cannot work with, or a stain reference that says nothing.
    """
    model = _encoder(config) if isinstance(config, EmbedConfig) else _predictor(config)
    if config.stain is None:
        return model
    from wsikit.predictors.normalised import normalised
    from wsikit.stain.reference import load_target

    return normalised(model, load_target(config.stain))


def _predictor(config: RunConfig) -> Model:
    return load_predictor(config.model, mpp=config.mpp, min_tissue=config.min_tissue, device=config.device)


def _encoder(config: EmbedConfig) -> Model:
    from wsikit.nn.encoders import load_encoder

    return load_encoder(
        config.model,
        mpp=config.mpp,
        patch=config.patch,
        overlap=config.overlap,
        min_tissue=config.min_tissue,
        device=config.device,
        batch_size=config.batch_size,
        precision=config.precision,
    )
