"""The checkpoint: all weights in one file, and a card that says how they came about and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikit.methods.counting.evaluate import count_metrics, evaluate
from wsikit.methods.counting.predict import VERSION, load_predictor
from wsikit.nn.card import CardLabel
from wsikit.training.checkpoint import MethodCard
from wsikit.training.fit import Fitted

if TYPE_CHECKING:
    from wsikit.methods.counting.train import Training

INTENDED = "Counts, points and outlines of one kind of cell in sections stained and scanned like the training images."
LIMITS = "No medical device. Stains, scanners and tissues that the training images lack were not looked at."


def pack(training: Training, fitted: Mapping[str, Fitted], thresholds: Mapping[str, float]) -> Path:
    """Write checkpoint and card, measured on the images that training never saw."""
    card = _card(training, fitted, thresholds)

    def measured(path: Path, split: str) -> dict[str, Any]:
        images = training.images(split)
        if training.config.counter.head != "density":
            # it has no map, and so nothing that could be run on a slide: its counts are measured as they are
            return count_metrics(training.counts_of(images), images, card.facts["median_count"])
        return evaluate(load_predictor(path, device=training.config.device), images)

    state = training.model.state_dict()
    return training.pack(
        state, card, lambda path: measured(path, "test") | {"validation": measured(path, "validation")}
    )


def _card(training: Training, fitted: Mapping[str, Fitted], thresholds: Mapping[str, float]) -> MethodCard:
    config = training.config
    counts = [image.count for image in training.images("train")]
    return training.card(
        fitted,
        {**thresholds, "windows_per_cell": training.per_cell, "median_count": float(np.median(counts))},
        name=f"counting ({config.label})",
        version=VERSION,
        labels=(CardLabel(name=config.label),),
        mpp=config.mpp,
        core=config.core,
        halo=config.halo,
        encoder=training.model.encoder_facts,
        training_data=f"{len(training.data)} images with counts ({training.data.kind})",
        intended_use=INTENDED,
        limits=LIMITS,
    )
