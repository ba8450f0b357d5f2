"""Training: a ``wsikit.training.fit`` for each stage, in a folder of its own, so that one that was ended goes on where
it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.methods.points.config import Config
from wsikit.methods.points.crops import Box, cut, draw_box
from wsikit.methods.points.data import PointData, PointImage, read_points
from wsikit.methods.points.evaluate import mask_scores
from wsikit.methods.points.inner import inner_distance
from wsikit.methods.points.instances import separate
from wsikit.methods.points.losses import foreground_loss, inner_loss
from wsikit.methods.points.model import CENTRE, FOREGROUND, NucleiNet, build_model
from wsikit.metrics import Ratio
from wsikit.nn.device import choose_device
from wsikit.slides.array import array_slide
from wsikit.training.batches import recoloured, tensor, turned
from wsikit.training.fit import Fitted, Watch, fit
from wsikit.training.splits import Splits, split_images

MARGIN = 32
"""px around a validation image that the network sees, mirrored, as on slides."""
Images = list[PointImage]
Planes = NDArray[np.float32]
"""(H, W, K) what is learned of a piece, pixel by pixel."""
Lesson = Callable[[int, Box], Planes]
"""What is learned of a box of a training image, by its index, at the size of the pieces."""


class Training:
    """What the stages share.

    Args:
        config: of the training.
        out: folder for stages and checkpoint.
        model: with the encoder's weights.
        watch: is told of every step.
    """

    def __init__(self, config: Config, out: Path, model: NucleiNet, watch: Watch | None) -> None:
        _check(config)
        self.config, self.out, self.watch = config, out, watch
        self.device = choose_device(config.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.data, self.splits = split_data(config)

    def images(self, split: str) -> Images:
        """Of a split."""
        return [self.data[i] for i in self.splits.of(split)]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a training that goes on must share with the one that began."""
        told = self.config.model_dump(mode="json", exclude={"data", "device"})
        return {"config": told, "data": self.data.digest, "encoder": dict(self.model.encoder_facts)}

    @property
    def name(self) -> str:
        """sha256 of the identity, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def _fit(self, stage: str, **options: Any) -> Fitted:
        return fit(
            self.model,
            out=self.out / stage,
            seed=self.config.seed,
            device=self.device,
            identity=self.identity | {"stage": stage},
            watch=self.watch,
            **options,
        )

    def pieces(
        self, images: Images, lesson: Lesson, epoch: int, size: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch: (N, 3, S, S) pixels in [0, 1], and (N, K, S, S) what the lesson says of them.

        Every image gives as many pieces as cover it at ``at_mpp``; each is resized to a resolution of its own, turned
        and recoloured.
        """
        rng = np.random.default_rng([self.config.seed, epoch])
        order = rng.permutation(np.repeat(np.arange(len(images)), [self._count(image) for image in images]))
        # as even as can be: a batch of one has nothing to be normalised by
        for part in np.array_split(order, -(-len(order) // size)):
            boxes = [draw_box(images[i].source.size, self._side(rng), rng) for i in part]
            pairs = list(zip(part.tolist(), boxes, strict=True))
            pixels = [cut([images[i].read()], box, self.config.crop)[0] for i, box in pairs]
            seen, planes = turned(pixels, [lesson(*pair) for pair in pairs], rng)
            assert planes is not None
            # (N, S, S, K) -> (N, K, S, S)
            learned = torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2).to(self.device)
            yield tensor(recoloured(seen, self.config.stain, rng), self.device), learned

    def _count(self, image: PointImage) -> int:
        width, height = (side * self.config.mpp / self.config.at_mpp for side in image.source.size)
        return max(1, round(width * height / self.config.crop**2))

    def _side(self, rng: np.random.Generator) -> float:
        """Side of a piece in px of the image, for a resolution drawn from those that are learned."""
        mpp = float(np.exp(rng.uniform(*np.log(self.config.seen_mpp))))
        return self.config.crop * mpp / self.config.mpp

    # Segmenter

    def segment(self) -> Fitted:
        """Learn which pixels are nuclei, and their middles."""
        recipe = self.config.segmenter.recipe
        train, validation = self.images("train"), self.images("validation")

        @cache
        def known(index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            labels = known_labels(train[index])
            return (labels > 0).astype(np.float32), inner_distance(labels)

        def lesson(index: int, box: Box) -> Planes:
            return np.stack(cut(known(index), box, self.config.crop), axis=2)

        def step(batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            logits = self.model(batch[0])
            foreground = foreground_loss(logits[:, FOREGROUND], batch[1][:, 0])
            centre = inner_loss(logits[:, CENTRE], batch[1][:, 1])
            return {"loss": foreground + centre, "foreground": foreground, "centre": centre}

        return self._fit(
            "segmenter",
            step=step,
            train=lambda epoch: self.pieces(train, lesson, epoch, recipe.batch_size),
            validate=lambda: self.scored(validation),
            monitor="object_f1",
            better="higher",
            recipe=recipe,
        )

    def scored(self, images: Images) -> dict[str, float]:
        """Scores of the model's nuclei at ``at_mpp``, pooled over images with masks."""
        ratios: dict[str, Ratio] = {}
        for image in images:
            foreground, centre = self.maps(image)
            found = separate(foreground, centre, self.config.at_mpp, self.config.instances, border=True)
            truth = nearest(known_labels(image), found.labels.shape)
            for name, ratio in mask_scores(truth, found.labels).items():
                ratios[name] = ratios[name] + ratio if name in ratios else ratio
        return {name: ratio.value for name, ratio in ratios.items()}

    @torch.no_grad()
    def maps(self, image: PointImage) -> NDArray[np.float32]:
        """(2, h, w) what the model says of an image at ``at_mpp``; it is left in eval mode."""
        self.model.eval()
        slide = array_slide(image.read(), self.config.mpp)
        pixels = slide.read(slide.plane(slide.resolve(self.config.at_mpp)))
        found = torch.sigmoid(self.model(tensor([pixels], self.device, MARGIN)).float())
        return np.asarray(found[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN].cpu().numpy())


def known_labels(image: PointImage) -> NDArray[np.int64]:
    """(H, W) masks of an image. Raises ConfigError where it has none."""
    labels = image.instances()
    if labels is None:
        raise ConfigError(
            f"{image.name} has points and no masks, and segmenter.labels is masks",
            code="bad_points",
            remedy="give instance labels beside every image (NAME_labels.png)",
        )
    return labels


def nearest(labels: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
    """Labels at another size: those under the middles of the new pixels."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.int64)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def _check(config: Config) -> None:
    least, most = config.seen_mpp
    if not max(least, config.mpp) <= config.at_mpp <= most:
        raise ConfigError(
            f"at_mpp is {config.at_mpp:g} um per px; the training images have {config.mpp:g} and are resized to "
            f"{least:g} to {most:g}",
            remedy="give an at_mpp within seen_mpp, and not finer than mpp",
        )


def split_data(config: Config) -> tuple[PointData, Splits]:
    """All images, and which of them are for training, validation and test.

    Raises ConfigError: no data, data that cannot be read, or a split that shares a patient.
    """
    data = read_points(config.data, mpp=config.mpp)
    splits = split_images(data, validation=config.validation_share, test=config.test_share, seed=config.seed)
    return data, splits


def train(config: Config, out: Path, watch: Watch | None = None) -> Path:
    """Train all stages and write ``points.safetensors`` with its card; goes on where an earlier call was ended.

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
    from wsikit.methods.points.packing import pack, packed

    torch.manual_seed(config.seed)
    training = Training(config, out, build_model(config), watch)
    fitted = {"segmenter": training.segment()}
    return packed(training) or pack(training, fitted)
