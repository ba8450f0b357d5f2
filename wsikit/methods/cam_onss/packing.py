"""The checkpoint: the segmenter's weights, and a card that says how they came about and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wsikit.errors import ConfigError
from wsikit.methods.cam_onss.evaluate import evaluate
from wsikit.methods.cam_onss.predict import VERSION, load_predictor
from wsikit.nn.card import CardLabel
from wsikit.training.checkpoint import MethodCard
from wsikit.training.fit import Fitted
from wsikit.training.kept import last_weights

if TYPE_CHECKING:
    from wsikit.methods.cam_onss.model import TissueSegmenter
    from wsikit.methods.cam_onss.train import Training

INTENDED = "Areas of tissue classes in sections stained and scanned like the training patches."
LIMITS = "No medical device. Stains, scanners and tissues that the patches lack were not looked at."
STEP = 32
"""Windows are whole multiples of it, px."""


def pack(training: Training, model: TissueSegmenter, fitted: Mapping[str, Fitted]) -> Path:
    """Write checkpoint and card, measured on the patches that training never saw: with the chosen epoch, and the last.

    The checkpoint holds the chosen one.
    """
    card = _card(training, model, fitted)
    patches = training.images("test")

    def measured(path: Path) -> dict[str, float]:
        predictor = load_predictor(path, device=training.config.device)
        # a class that no test patch holds has no IoU, and JSON has no NaN
        return {name: value for name, value in evaluate(predictor, patches).items() if value == value}

    last = training.measured(last_weights(training.out / "segmenter"), card, measured)
    return training.pack(model.state_dict(), card, lambda path: {**measured(path), "last": last})


def window(training: Training) -> int:
    """Side of the windows on slides: the largest multiple of 32 px that all training patches hold.

    Raises ConfigError where a patch is smaller than 32 px.
    """
    least = min(side for patch in training.images("train") for side in patch.source.size)
    if least < STEP:
        raise ConfigError(f"a training patch has a side of {least} px", remedy=f"leave out patches below {STEP} px")
    return least // STEP * STEP


def _card(training: Training, model: TissueSegmenter, fitted: Mapping[str, Fitted]) -> MethodCard:
    config, side = training.config, window(training)
    labels = config.tissue.labels(config.palette)
    train = training.images("train")
    return training.card(
        fitted,
        {"single_label": sum(sum(patch.present) == 1 for patch in train) / len(train)},
        name=f"cam_onss ({config.tissue.name})",
        version=VERSION,
        labels=tuple(CardLabel(name=label.name, color=label.color) for label in labels),
        mpp=config.mpp,
        core=side // 2,
        halo=side // 4,
        encoder=model.encoder_facts,
        training_data=f"{len(training.data)} patches with labels ({training.data.kind})",
        intended_use=INTENDED,
        limits=LIMITS,
    )
