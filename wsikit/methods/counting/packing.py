"""The checkpoint: all weights in one file, and a card that says how they came about and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikit.methods.counting.evaluate import count_metrics, evaluate
from wsikit.methods.counting.predict import VERSION, load_predictor
from wsikit.nn.card import CardLabel
from wsikit.training.checkpoint import MethodCard, load_checkpoint, save_checkpoint
from wsikit.training.fit import Fitted

if TYPE_CHECKING:
    from wsikit.methods.counting.train import Training

FILE = "counting.safetensors"
INTENDED = "Counts, points and outlines of one kind of cell in sections stained and scanned like the training images."
LIMITS = "No medical device. Stains, scanners and tissues that the training images lack were not looked at."


def pack(training: Training, fitted: Mapping[str, Fitted], thresholds: Mapping[str, float]) -> Path:
    """Write checkpoint and card, measured on the images that training never saw."""
    path = training.out / FILE
    card = _card(training, fitted, thresholds)
    save_checkpoint(path, training.model.state_dict(), card)
    metrics = _measured(training, card, path, "test") | {"validation": _measured(training, card, path, "validation")}
    return save_checkpoint(
        path, training.model.state_dict(), card.model_copy(update={"metrics": metrics | card.metrics})
    )


def _measured(training: Training, card: MethodCard, path: Path, split: str) -> dict[str, Any]:
    images = training.images(split)
    if training.config.counter.head != "density":
        # it has no map, and so nothing that could be run on a slide: its counts are measured as they are
        return count_metrics(training.counts_of(images), images, card.facts["median_count"])
    return evaluate(load_predictor(path, device=training.config.device), images)


def packed(training: Training) -> Path | None:
    """The checkpoint that an earlier call of this very training wrote; None where it did not come so far."""
    path = training.out / FILE
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    _, card = load_checkpoint(path)
    return path if card.facts.get("training") == training.name else None


def _card(training: Training, fitted: Mapping[str, Fitted], thresholds: Mapping[str, float]) -> MethodCard:
    config, splits = training.config, training.splits
    counts = [image.count for image in training.images("train")]
    facts: dict[str, Any] = {
        **thresholds,
        "windows_per_cell": training.per_cell,
        "median_count": float(np.median(counts)),
        "data_sha256": training.data.digest,
        "training": training.name,
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
