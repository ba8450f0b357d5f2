"""Training: classifier, pseudo masks by voting, segmenter.

Each network is a ``wsikit.training.fit`` in a folder of its own, so that a training which was ended goes on where it
was; pseudo masks are palette PNGs to be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from wsikit.errors import ConfigError
from wsikit.methods.cam_onss.classes import IGNORED
from wsikit.methods.cam_onss.config import Config, Segmenter
from wsikit.methods.cam_onss.data import LabelledPatch, PatchData, read_patches
from wsikit.methods.cam_onss.losses import noise_suppressed_loss, presence_loss
from wsikit.methods.cam_onss.masks import Mask, read_mask, write_mask
from wsikit.methods.cam_onss.model import TissueClassifier, TissueSegmenter, build_classifier, build_model
from wsikit.methods.cam_onss.pseudo import learnable, pseudo_mask
from wsikit.metrics import confusion_matrix, mean_iou
from wsikit.training.batches import of_one_shape, recoloured, tensor, turned
from wsikit.training.fit import Fitted, Watch
from wsikit.training.recipe import Recipe
from wsikit.training.splits import Splits, split_images
from wsikit.training.stages import Stages

PSEUDO = "pseudo"
"""Folder of the pseudo masks."""
Patches = list[LabelledPatch]


class Training(Stages[Config, LabelledPatch]):
    """What the stages share.

    Args:
        config: of the training.
        out: folder for stages and checkpoint.
        watch: is told of every step.
    """

    method = "cam_onss"
    silent = frozenset({"data", "labels", "device", "licence", "palette"})
    shown = frozenset({"licence", "palette"})

    def __init__(self, config: Config, out: Path, watch: Watch | None) -> None:
        super().__init__(config, out, *split_data(config), watch)

    def _pixels(self, patches: Patches, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        return [patches[i].read() for i in indices]

    # Stage 1

    def classify(self, model: TissueClassifier) -> Fitted:
        """Learn which classes are in a patch."""
        train, validation = self.images("train"), self.images("validation")
        size = self.config.classifier.recipe.batch_size

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            model.begin_epoch(epoch)
            rng = np.random.default_rng([self.config.seed, epoch])
            # a batch of one has nothing that the gates could be normalised by
            for indices in of_one_shape(train, rng.permutation(len(train)), size, least=2):
                pixels = recoloured(turned(self._pixels(train, indices), None, rng)[0], self.config.stain, rng)
                yield tensor(pixels, self.device), self._present(train, indices)

        def validate() -> Mapping[str, float]:
            total, correct = 0.0, 0.0
            for indices in of_one_shape(validation, range(len(validation)), size):
                logits = model(tensor(self._pixels(validation, indices), self.device))
                present = self._present(validation, indices)
                total += float(presence_loss(logits, present)) * len(indices)
                correct += float(((logits > 0) == (present > 0)).float().mean()) * len(indices)
            return {"loss": total / len(validation), "accuracy": correct / len(validation)}

        return self.fit(
            model,
            "classifier",
            step=lambda batch: {"loss": presence_loss(model(batch[0]), batch[1])},
            train=batches,
            validate=validate,
            monitor="loss",
            better="lower",
            recipe=self.config.classifier.recipe,
        )

    def _present(self, patches: Patches, indices: Sequence[int]) -> torch.Tensor:
        return torch.tensor([patches[i].present for i in indices], dtype=torch.float32, device=self.device)

    # Stage 2

    def vote(self, model: TissueClassifier) -> None:
        """Write the pseudo masks of training and validation patches that are not there yet."""
        model.to(self.device).eval()
        for patch in [*self.images("train"), *self.images("validation")]:
            path = self.mask_path(patch)
            if not path.is_file():
                mask, agreement = pseudo_mask(model, patch.read(), patch.present, self.config)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_mask(path, learnable(mask, agreement, self.config.tissue, self.config.voting), self.config.tissue)

    def mask_path(self, patch: LabelledPatch) -> Path:
        """Of a patch's pseudo mask."""
        return self.out / PSEUDO / f"{Path(patch.name).with_suffix('').as_posix().replace('/', '__')}.png"

    def mask(self, patch: LabelledPatch) -> Mask:
        """(H, W) pseudo mask of a patch, 255 where nothing is learned."""
        mask = read_mask(self.mask_path(patch), self.config.tissue, patch.source.size)
        return np.where(mask < len(self.config.tissue.classes), mask, np.uint8(IGNORED))

    # Stage 3

    def segment(self, model: TissueSegmenter) -> Fitted:
        """Learn the pseudo masks."""
        options = self.config.segmenter
        train, validation = self.images("train"), self.images("validation")

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, str]]:
            rng = np.random.default_rng([self.config.seed, epoch])
            mode = "ce" if epoch <= options.warmup else options.loss
            for indices in of_one_shape(train, rng.permutation(len(train)), options.recipe.batch_size, least=2):
                masks = [self.mask(train[i]) for i in indices]
                pixels, turned_masks = turned(self._pixels(train, indices), masks, rng)
                assert turned_masks is not None
                pairs = [zoomed(*pair, options.zoom, rng) for pair in zip(pixels, turned_masks, strict=True)]
                seen = recoloured([pair[0] for pair in pairs], self.config.stain, rng)
                targets = torch.from_numpy(np.stack([pair[1] for pair in pairs])).long()
                yield tensor(seen, self.device), targets.to(self.device), mode

        def loss(logits: torch.Tensor, target: torch.Tensor, mode: Any) -> torch.Tensor:
            return noise_suppressed_loss(
                logits, target, mode, renormalise=options.renormalise, class_floor=options.class_floor
            )

        def step(batch: tuple[torch.Tensor, torch.Tensor, str]) -> Mapping[str, torch.Tensor]:
            pixels, target, mode = batch
            logits, second = model.both(pixels)
            first = loss(logits, target, mode)
            if second is None:
                return {"loss": first}
            auxiliary = loss(second, target, mode)
            return {"loss": first + options.auxiliary * auxiliary, "main": first, "auxiliary": auxiliary}

        def validate() -> Mapping[str, float]:
            classes = len(self.config.tissue.classes)
            totals = {"pseudo_miou": np.zeros((classes, classes), np.int64)}
            for patch in validation:
                found = model(tensor([patch.read()], self.device))[0].argmax(dim=0).cpu().numpy()
                totals["pseudo_miou"] += confusion_matrix(self.mask(patch), found, classes, IGNORED)
                truth = patch.mask()
                if truth is not None:
                    more = confusion_matrix(truth, found, classes, (*self.config.tissue.unscored,))
                    totals["miou"] = totals.get("miou", 0) + more
            return {name: mean_iou(total) for name, total in totals.items()}

        truth = any(patch.truth is not None for patch in validation)
        return self.fit(
            model,
            "segmenter",
            step=step,
            train=batches,
            validate=validate,
            # as published, epochs are chosen on masks of the validation patches where there are any
            monitor="miou" if truth else "pseudo_miou",
            better="higher",
            recipe=_counted(options, len(train)),
        )


def _counted(options: Segmenter, patches: int) -> Recipe:
    """The segmenter's recipe, with the epochs that its iterations come to."""
    if options.iterations is None:
        return options.recipe
    epochs = math.ceil(options.iterations * options.recipe.batch_size / patches)
    return options.recipe.model_copy(update={"epochs": epochs})


def zoomed(
    image: NDArray[np.uint8], mask: Mask, span: tuple[float, float], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Mask]:
    """Resized by a random factor from ``span``, then a random piece of the first size; where it is smaller than that,
    the mask is 255 and the image mirrored."""
    height, width = mask.shape
    factor = float(np.exp(rng.uniform(*np.log(span))))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    missing = [(0, max(0, wanted - side)) for wanted, side in zip((height, width), mask.shape, strict=True)]
    image = np.pad(image, (*missing, (0, 0)), "symmetric")
    mask = np.pad(mask, missing, constant_values=IGNORED)
    y, x = (int(rng.integers(side - wanted + 1)) for wanted, side in zip((height, width), mask.shape, strict=True))
    return image[y : y + height, x : x + width], mask[y : y + height, x : x + width]


def split_data(config: Config) -> tuple[PatchData, Splits]:
    """All patches, and which of them are for training, validation and test.

    Raises ConfigError: no data, data that cannot be read, or a split that shares a patient.
    """
    data = read_patches(config.data, config.tissue, labels=config.labels, mpp=config.mpp)
    splits = split_images(data, validation=config.validation_share, test=config.test_share, seed=config.seed)
    return data, splits


def train(config: Config, out: Path, watch: Watch | None = None) -> Path:
    """Train both networks and write ``cam_onss.safetensors`` with its card; goes on where an earlier call was ended.

    Args:
        config: of the training; ``data`` must be given.
        out: folder for it all.
        watch: is told of every step.

    Returns:
        The path of the checkpoint.

    Raises:
        ConfigError: data that cannot be learned from, a split that shares a patient, an encoder without its weights, or
            a folder that holds another training (code other_training).
        OutputError: the disk refuses.
    """
    from wsikit.methods.cam_onss.packing import pack

    torch.manual_seed(config.seed)
    training = Training(config, out, watch)
    if not training.images("validation"):
        raise ConfigError("no patch is for validation", remedy="give a validation_share, or a split column that has it")
    classifier = build_classifier(config)
    fitted = {"classifier": training.classify(classifier)}
    if done := training.packed():
        return done
    training.vote(classifier)
    torch.manual_seed(config.seed)
    segmenter = build_model(config)
    fitted["segmenter"] = training.segment(segmenter)
    return pack(training, segmenter, fitted)
