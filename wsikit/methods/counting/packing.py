"""The checkpoint: all weights in one file, and a card that says how they came about and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikit.methods.counting.evaluate import measure
from wsikit.methods.counting.predict import VERSION, load_predictor
from wsikit.nn.card import CardLabel
from wsikit.training.checkpoint import MethodCard, save_checkpoint
from wsikit.training.fit import Fitted

if TYPE_CHECKING:
    from wsikit.methods.counting.train import Training

INTENDED = "Counts, points and outlines of one kind of cell in sections stained and scanned like the training images."
LIMITS = "No medical device. Stains, scanners and tissues that the training images lack were not looked at."


def pack(training: Training, fitted: Mapping[str, Fitted], thresholds: Mapping[str, float]) -> Path:
    """Write checkpoint and card, measured on the images that training never saw."""
    path = training.out / "counting.safetensors"
    card = _card(training, fitted, thresholds)
    state = training.model.state_dict()
    save_checkpoint(path, state, card)
    if training.config.counter.head != "density":
        # it has no map, and so nothing that could be run; its counts are measured as they are
        return path
    predictor = load_predictor(path, device=training.config.device)
    chosen_by = {"validation": measure(predictor, training.images("validation"))}
    metrics = measure(predictor, training.images("test")) | chosen_by | card.metrics
    return save_checkpoint(path, state, card.model_copy(update={"metrics": metrics}))


def _card(training: Training, fitted: Mapping[str, Fitted], thresholds: Mapping[str, float]) -> MethodCard:
    config, splits = training.config, training.splits
    counts = [image.count for image in training.images("train")]
    facts: dict[str, Any] = {
        **thresholds,
        "windows_per_cell": training.per_cell,
        "median_count": float(np.median(counts)),
        "data_sha256": training.data.digest,
    }
    return MethodCard(
        method="counting",
        name=f"counting ({config.label})",
        version=VERSION,
        labels=(CardLabel(name=config.label),),
        mpp=config.mpp,
        core=config.core,
        halo=config.halo,
        config=config.model_dump(mode="json"),
        encoder=training.model.encoder_facts,
        facts=facts,
        split={**splits.record, "warnings": [*training.data.warnings, *splits.warnings]},
        training_data=f"{len(training.data)} images with counts ({training.data.kind})",
        licence=config.licence,
        metrics={"stages": {name: dict(one.metrics) for name, one in fitted.items()}},
        intended_use=INTENDED,
        limits=LIMITS,
    )
