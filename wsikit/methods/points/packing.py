"""The checkpoint: all weights in one file, and a card that says how they came about and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wsikit.methods.points.evaluate import evaluate
from wsikit.methods.points.predict import VERSION, load_predictor
from wsikit.nn.card import CardLabel
from wsikit.training.checkpoint import MethodCard
from wsikit.training.fit import Fitted

if TYPE_CHECKING:
    from wsikit.methods.points.train import Training

INTENDED = "Outlines of nuclei in sections stained and scanned like the training images."
LIMITS = "No medical device. Stains, scanners and tissues that the training images lack were not looked at."


def pack(training: Training, fitted: Mapping[str, Fitted], facts: Mapping[str, Any]) -> Path:
    """Write checkpoint and card, measured on the images that training never saw; ``facts`` go into the card."""

    def measured(path: Path) -> dict[str, Any]:
        predictor = load_predictor(path, device=training.config.device)
        metrics = evaluate(predictor, training.images("test"))
        return {**metrics, "validation": evaluate(predictor, training.images("validation"))}

    return training.pack(_stored(training), _card(training, fitted, facts), measured)


def _stored(training: Training) -> dict[str, torch.Tensor]:
    number = getattr(torch, training.config.stored)
    state = training.model.state_on_slides()
    return {name: value.to(number) if value.is_floating_point() else value for name, value in state.items()}


def _card(training: Training, fitted: Mapping[str, Fitted], facts: Mapping[str, Any]) -> MethodCard:
    config = training.config
    return training.card(
        fitted,
        facts,
        name=config.name or f"points ({config.label})",
        version=VERSION,
        labels=(CardLabel(name=config.label),),
        mpp=config.at_mpp,
        core=config.core,
        halo=config.halo,
        encoder=training.model.encoder_facts,
        training_data=f"{len(training.data)} images ({training.data.kind})",
        intended_use=INTENDED,
        limits=LIMITS,
    )
