"""From patch labels to masks on planted textures: classifier, voting, segmenter, and what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.methods import planted_tissue as planted
from wsikit.methods.cam_onss.config import Classifier, Config, Segmenter, Voting
from wsikit.methods.cam_onss.masks import Mask
from wsikit.methods.cam_onss.model import TissueClassifier, TissueSegmenter, build_classifier, build_model
from wsikit.methods.cam_onss.pseudo import pseudo_mask
from wsikit.methods.cam_onss.train import Training
from wsikit.metrics import confusion_matrix, mean_iou
from wsikit.training.batches import tensor
from wsikit.training.recipe import Recipe

CLASSES, SIDE = 4, 96
PARTS = (("train", 240), ("validation", 40), ("test", 60))
RESCALED = (0.9, 1.1)


def patches(seed: int) -> list[planted.PlantedPatch]:
    """Of all splits."""
    return [
        one
        for part, (split, count) in enumerate(PARTS)
        for one in planted.scenes(10 * seed + part, count, side=SIDE, classes=CLASSES, split=split)  # type: ignore[arg-type]
    ]


def shuffled(patches: Sequence[planted.PlantedPatch], seed: int) -> list[planted.PlantedPatch]:
    """Each with the label of another."""
    order = np.random.default_rng(seed).permutation(len(patches))
    return [replace(one, present=patches[i].present) for one, i in zip(patches, order, strict=True)]


@dataclass(frozen=True)
class Chain:
    """A training in a folder."""

    training: Training
    patches: list[planted.PlantedPatch]

    @classmethod
    def of(cls, folder: Path, seed: int, patches: list[planted.PlantedPatch]) -> Chain:
        """Ready to be trained, on these patches with the labels that they say."""
        schema = planted.schema_of(CLASSES)
        planted.write_folder(folder / "data", patches, schema)
        config = Config(
            data=folder / "data",
            tissue=schema,
            mpp=1.0,
            stain="ihc",
            encoder="test_efficientnet",
            weights="none",
            depth=3,
            classifier=Classifier(
                cam="plus",
                dropout_attention=False,
                coordinate_attention=False,
                recipe=Recipe(epochs=20, batch_size=16, learning_rate=3e-3, threads=1),
            ),
            voting=Voting(joint=False, flips=True),
            # grains say what a texture is: patches are not resized
            segmenter=Segmenter(
                width=32, zoom=(1, 1), recipe=Recipe(epochs=30, batch_size=8, learning_rate=3e-3, threads=1)
            ),
            seed=seed,
        )
        return cls(Training(config, folder / "out", None), patches)

    def classified(self) -> TissueClassifier:
        """The classifier, trained."""
        torch.manual_seed(self.training.config.seed)  # as train() does
        model = build_classifier(self.training.config)
        self.training.classify(model)
        return model

    def segmented(self, classifier: TissueClassifier) -> TissueSegmenter:
        """The segmenter, trained on the masks that the classifier's maps vote for."""
        self.training.vote(classifier)
        torch.manual_seed(self.training.config.seed)
        model = build_model(self.training.config)
        self.training.segment(model)
        return model

    def voted(self, model: TissueClassifier, one: planted.PlantedPatch, voting: Voting | None = None) -> Mask:
        """The pseudo mask of a patch."""
        config = self.training.config
        told = config if voting is None else config.model_copy(update={"voting": voting})
        return pseudo_mask(model, one.image, one.present, told)[0]

    @property
    def single(self) -> Voting:
        """Its voting, by the base scale alone."""
        return self.training.config.voting.model_copy(update={"scales": (1.0,), "flips": False})


def miou(patches: Sequence[planted.PlantedPatch], masks: Sequence[Mask]) -> float:
    """Mean IoU over classes, of all pixels together."""
    total = sum(confusion_matrix(one.truth, mask, CLASSES) for one, mask in zip(patches, masks, strict=True))
    return mean_iou(total)


def constant(patches: Sequence[planted.PlantedPatch], seed: int) -> float:
    """mIoU of masks that are one of the label's classes, drawn."""
    rng = np.random.default_rng(seed)
    return miou(patches, [np.full_like(one.truth, rng.choice(np.flatnonzero(one.present))) for one in patches])


def flips(chain: Chain, model: TissueClassifier, patches: Sequence[planted.PlantedPatch], voting: Voting) -> float:
    """Share of pixels whose class changes when the patch is a tenth smaller or larger."""
    changed = []
    for one in patches:
        before = chain.voted(model, one, voting)
        for factor in RESCALED:
            size = round(SIDE * factor)
            image = np.asarray(Image.fromarray(one.image).resize((size, size), Image.Resampling.BILINEAR))
            after = chain.voted(model, replace(one, image=image), voting)
            back = np.asarray(Image.fromarray(after).resize((SIDE, SIDE), Image.Resampling.NEAREST))
            changed.append(float((back != before).mean()))
    return float(np.mean(changed))


def found(model: TissueSegmenter, patches: Sequence[planted.PlantedPatch]) -> list[Mask]:
    """The segmenter's masks."""
    with torch.inference_mode():
        return [
            model(tensor([one.image], torch.device("cpu")))[0].argmax(dim=0).numpy().astype(np.uint8) for one in patches
        ]
