"""The checkpoint: all weights in one file, and a card that says how they came about and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.methods.points.evaluate import evaluate
from wsikit.methods.points.predict import VERSION, load_predictor
from wsikit.nn.card import CardLabel
from wsikit.training.checkpoint import MethodCard, load_checkpoint, save_checkpoint
from wsikit.training.fit import Fitted

if TYPE_CHECKING:
    from wsikit.methods.points.train import Training

FILE = "points.safetensors"
INTENDED = "Outlines of nuclei in sections stained and scanned like the training images."
LIMITS = "No medical device. Stains, scanners and tissues that the training images lack were not looked at."


def pack(training: Training, fitted: Mapping[str, Fitted], facts: Mapping[str, Any]) -> Path:
    """Write checkpoint and card, measured on the images that training never saw; ``facts`` go into the card."""
    path, state = training.out / FILE, training.model.state_dict()
    card = _card(training, fitted, facts)
    save_checkpoint(path, state, card)
    predictor = load_predictor(path, device=training.config.device)
    metrics = evaluate(predictor, training.images("test"))
    measured = {**metrics, "validation": evaluate(predictor, training.images("validation")), **card.metrics}
    return save_checkpoint(path, state, card.model_copy(update={"metrics": measured}))


def packed(training: Training) -> Path | None:
    """The checkpoint that an earlier call of this very training wrote; None where it did not come so far."""
    path = training.out / FILE
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    _, card = load_checkpoint(path)
    return path if card.facts.get("training") == training.name else None


def _card(training: Training, fitted: Mapping[str, Fitted], facts: Mapping[str, Any]) -> MethodCard:
    config, splits = training.config, training.splits
    return MethodCard(
        method="points",
        name=f"points ({config.label})",
        version=VERSION,
        labels=(CardLabel(name=config.label),),
        mpp=config.at_mpp,
        core=config.core,
        halo=config.halo,
        config=config.model_dump(mode="json"),
        encoder=training.model.encoder_facts,
        facts={**facts, "data_sha256": training.data.digest, "training": training.name},
        split={**splits.record, "warnings": [*training.data.warnings, *splits.warnings]},
        training_data=f"{len(training.data)} images ({training.data.kind})",
        licence=config.licence,
        metrics={"stages": {name: dict(one.metrics) for name, one in fitted.items()}},
        intended_use=INTENDED,
        limits=LIMITS,
    )
