"""Training: a ``wsikit.training.fit`` for each stage, in a folder of its own, so that one that was ended goes on where
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.methods.points.config import Config
from wsikit.methods.points.crf import SXY, crf_loss
from wsikit.methods.points.crops import cut, draw_box
from wsikit.methods.points.data import PointData, PointImage, read_points
from wsikit.methods.points.evaluate import mask_scores
from wsikit.methods.points.inner import offsets
from wsikit.methods.points.instances import separate
from wsikit.methods.points.lessons import DEPTH, NUMBER, Kind, Labels, Lesson, Masks, Planes, Points
from wsikit.methods.points.losses import CENTRE_WEIGHT, foreground_loss, inner_loss, label_loss, offset_loss
from wsikit.methods.points.model import CENTRE, FOREGROUND, OFFSETS, NucleiNet, build_model
from wsikit.methods.points.paler import paler
from wsikit.methods.points.shown import NuclearStain
from wsikit.methods.points.targets import heat_loss
from wsikit.methods.points.taught import (
    WEIGHT,
    Teachers,
    begin_with,
    digest_of,
    load_network,
    read_unlabelled,
    taught_loss,
)
from wsikit.metrics import Ratio
from wsikit.nn.weights import sha256
from wsikit.slides.array import array_slide
from wsikit.tissue import TissueMask
from wsikit.training.batches import recoloured, tensor, turned
from wsikit.training.fit import Fitted, Watch
from wsikit.training.images import TrainingImage
from wsikit.training.recipe import Recipe
from wsikit.training.splits import Splits, split_images
from wsikit.training.stages import Stages

SPREAD = 0.3
"""Sigma of the logarithm of thresholds of stain in training: another field of a slide would give another."""
OTHER = 0.3
"""Share of the pieces of training that are shown by colour deconvolution even where there is one stain: noisier, as
sections of two stains are."""
MARGIN = 32
"""px around a validation image that the network sees, mirrored, as on slides."""
KINDS: Mapping[str, tuple[Kind, ...]] = {
    "both": ("voronoi", "cluster"),
    "voronoi": ("voronoi",),
    "cluster": ("cluster",),
}
"""Of labels from points, by ``segmenter.labels``."""
V = TypeVar("V", bound=np.generic)
Images = list[PointImage]
Pictures = list[NDArray[np.uint8]]
"""(S, S, 3) RGB each."""
Pieces = tuple[torch.Tensor, torch.Tensor, tuple[float, ...]]
"""(N, 3, S, S) pixels in [0, 1], (N, K, S, S) what the lesson says of them, and the nuclear radius in px of each."""
Unlabelled = tuple[torch.Tensor, torch.Tensor]
"""(N, 3, S, S) pixels in [0, 1], and the same pieces stained otherwise."""


class Step(Protocol):
    """What is learned from a batch."""

    def __call__(self, batch: Pieces, logits: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Its losses; ``logits`` are the network's of it, where they are known."""
        ...


class Training(Stages[Config, PointImage]):
    """What the stages share.

    Args:
        config: of the training.
        out: folder for stages and checkpoint.
        model: with the encoder's weights.
        watch: is told of every step.
    """

    method = "points"
    silent = frozenset({"data", "points", "start", "unlabelled", "teachers", "device"})

    def __init__(self, config: Config, out: Path, model: NucleiNet, watch: Watch | None) -> None:
        _check(config)
        self.unlabelled = read_unlabelled(config.unlabelled) if config.unlabelled else ()
        self.teachers = Teachers([load_network(path, config, teaches=True) for path in config.teachers])
        told: dict[str, Any] = {"encoder": dict(model.encoder_facts)}
        if config.start:
            told["start"] = sha256(config.start)
        if self.unlabelled:
            told |= {"unlabelled": digest_of(self.unlabelled), "teachers": [sha256(path) for path in config.teachers]}
        super().__init__(config, out, *split_data(config), watch, **told)
        self._known_stains: dict[TrainingImage, tuple[NuclearStain, NuclearStain]] = {}
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teachers.to(self.device)

    def pieces(self, images: Images, lessons: Sequence[Lesson], epoch: int, size: int) -> Iterator[Pieces]:
        """The batches of an epoch of training.

        Every image gives as many pieces as it has pixels for; each is resized to a resolution of its own, turned and
        recoloured.
        """
        rng, own = np.random.default_rng([self.config.seed, epoch]), self.config.mpp
        order = rng.permutation(np.repeat(np.arange(len(images)), [self._count(image, own) for image in images]))
        # as even as can be: a batch of one has little to be normalised by
        for part in np.array_split(order, -(-len(order) // size)):
            pixels, planes, radii = self._cut(images, lessons, part.tolist(), rng, self.config.seen_mpp)
            seen, turned_planes = turned(pixels, planes, rng)
            assert turned_planes is not None
            seen = self._shown(recoloured(seen, self.config.stain, rng), [images[i] for i in part], rng)
            if self.config.paler:
                seen = [
                    paler(one, planes[..., NUMBER].astype(np.int64), planes[..., DEPTH], rng, self.config.paler)
                    for one, planes in zip(seen, turned_planes, strict=True)
                ]
            yield self._batch(seen, turned_planes, radii)

    def unlabelled_pieces(self, seed: int, number: int) -> Unlabelled:
        """Pieces of images without labels, drawn by their area, at resolutions as in training."""
        rng = np.random.default_rng(seed)
        area = np.array([width * height for width, height in (one.source.size for one in self.unlabelled)], float)
        images = [self.unlabelled[i] for i in rng.choice(len(area), number, p=area / area.sum())]
        side, (least, most) = self.config.crop, np.log(self.config.seen_mpp)
        sides = side / self.config.mpp * np.exp(rng.uniform(least, most, number))
        boxes = [draw_box(one.source.size, own, rng) for one, own in zip(images, sides.tolist(), strict=True)]
        pixels = [cut([one.read()], box, side)[0] for one, box in zip(images, boxes, strict=True)]
        pixels, _ = turned(pixels, None, rng)
        changed = self._shown(recoloured(pixels, self.config.stain, rng), images, rng)
        return tensor(self._shown(pixels, images), self.device), tensor(changed, self.device)

    def plain_pieces(self, images: Images, lessons: Sequence[Lesson]) -> Iterator[Pieces]:
        """Pieces that are the same at each call, at ``at_mpp`` and as they are, one by one."""
        rng, at = np.random.default_rng(self.config.seed), self.config.at_mpp
        for index in np.repeat(np.arange(len(images)), [self._count(image, at) for image in images]).tolist():
            pixels, planes, radii = self._cut(images, lessons, [index], rng, (at, at))
            yield self._batch(self._shown(pixels, [images[index]]), planes, radii)

    def _count(self, image: PointImage, mpp: float) -> int:
        """How many pieces cover an image that has so many um per px."""
        width, height = (side * self.config.mpp / mpp for side in image.source.size)
        return max(1, round(width * height / self.config.crop**2))

    def _cut(
        self,
        images: Images,
        lessons: Sequence[Lesson],
        indices: Sequence[int],
        rng: np.random.Generator,
        mpp: tuple[float, float],
    ) -> tuple[Pictures, list[Planes], tuple[float, ...]]:
        """Pixels, planes and nuclear radius (px) of a random piece of each image, at a resolution between two."""
        scale = self.config.crop / self.config.mpp
        sides = [scale * float(np.exp(rng.uniform(*np.log(mpp)))) for _ in indices]
        boxes = [draw_box(images[i].source.size, side, rng) for i, side in zip(indices, sides, strict=True)]
        pairs = list(zip(indices, boxes, strict=True))
        pixels = [cut([images[i].read()], box, self.config.crop)[0] for i, box in pairs]
        radii = tuple(self.config.radius_um * scale / side for side in sides)
        return pixels, [lessons[i](box) for i, box in pairs], radii

    def _shown(
        self, pixels: Pictures, images: Sequence[TrainingImage], rng: np.random.Generator | None = None
    ) -> Pictures:
        """What the network sees of pieces of images; with ``rng``, as if their thresholds had been found a little
        otherwise."""
        if self.config.sees == "colours":
            return pixels
        stains = [self._stains(image) for image in images]
        if rng is None:
            return [own.shown(one) for one, (own, _) in zip(pixels, stains, strict=True)]
        other, errors = rng.random(len(images)) < OTHER, np.exp(rng.normal(0, SPREAD, len(images)))
        return [
            pair[int(second)].shown(one, error)
            for one, pair, second, error in zip(pixels, stains, other, errors, strict=True)
        ]

    def _stains(self, image: TrainingImage) -> tuple[NuclearStain, NuclearStain]:
        """As the predictor finds it on slides; and as if the image held eosin, too."""
        if image not in self._known_stains:
            slide = array_slide(image.read(), self.config.mpp)
            given = slide, TissueMask.whole(slide), self.config.mpp
            self._known_stains[image] = NuclearStain.of(*given), NuclearStain.haematoxylin(*given)
        return self._known_stains[image]

    def _batch(self, pixels: Sequence[NDArray[np.uint8]], planes: Sequence[Planes], radii: tuple[float, ...]) -> Pieces:
        # (N, S, S, K) -> (N, K, S, S)
        learned = torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2)
        return tensor(pixels, self.device), learned.to(self.device), radii

    def mean_loss(
        self, images: Images, lessons: Sequence[Lesson], step: Callable[[Pieces], Mapping[str, torch.Tensor]]
    ) -> dict[str, float]:
        """Of images that are not learned from."""
        losses = [step(batch)["loss"] for batch in self.plain_pieces(images, lessons)]
        return {"loss": float(torch.stack(losses).mean())}

    # Segmenter

    def segment(self, points: Mapping[str, Points]) -> dict[str, Fitted]:
        """Learn which pixels are nuclei, and their middles.

        Args:
            points: image name -> all of its points, px of the image; empty where masks are learned.
        """
        options = self.config.segmenter
        if options.labels == "masks":
            return {"segmenter": self._segment("segmenter", self.masks_of, self._mask_step, options.recipe, points)}
        fitted = {"segmenter": self._segment("segmenter", self.labels_of, self._label_step, options.recipe, points)}
        if options.crf:
            fitted["crf"] = self._segment("crf", self.labels_of, self._crf_step, options.crf_recipe, points)
        return fitted

    def _segment(
        self,
        stage: str,
        lessons: Callable[[Images, Mapping[str, Points]], list[Lesson]],
        step: Step,
        recipe: Recipe,
        points: Mapping[str, Points],
    ) -> Fitted:
        train, validation = self.images("train"), self.images("validation")
        learned, held_out = lessons(train, points), lessons(validation, points)
        masks = self.config.segmenter.labels == "masks"
        return self.fit(
            self.model,
            stage,
            step=self._taught_step(step) if self.unlabelled else step,
            train=lambda epoch: self.pieces(train, learned, epoch, recipe.batch_size),
            validate=lambda: self.scored(validation) if masks else self.mean_loss(validation, held_out, step),
            # where points are learned, no mask may choose the epoch
            monitor="object_f1" if masks else "loss",
            better="higher" if masks else "lower",
            recipe=recipe,
        )

    def masks_of(self, images: Images, points: Mapping[str, Points]) -> list[Lesson]:
        """Lessons from full masks."""
        radius, side = self.config.radius_um / self.config.mpp, self.config.crop
        return [Masks(partial(known_labels, image), radius, side, image.keep) for image in images]

    def labels_of(self, images: Images, points: Mapping[str, Points]) -> list[Lesson]:
        """Lessons from points that are all there."""
        kinds = KINDS[self.config.segmenter.labels]
        radius = self.config.radius_um / self.config.mpp
        return [
            Labels(points[one.name], one.source.size, one.read, radius, self.config.crop, kinds, self.config.seed)
            for one in images
        ]

    def _taught_step(self, step: Step) -> Callable[[Pieces], dict[str, torch.Tensor]]:
        """The step of labels, and beside it what teachers say of as many pieces without labels."""

        def both(batch: Pieces) -> dict[str, torch.Tensor]:
            # torch's generator is the one that is put back where an ended training goes on
            plain, changed = self.unlabelled_pieces(int(torch.randint(1 << 31, ())), len(batch[0]))
            # one pass: normalised by statistics of both, as the network will be on slides
            logits, others = self.model(torch.cat([batch[0], changed])).split(len(batch[0]))
            found = step(batch, logits)
            taught = taught_loss(others, self.teachers(plain))
            return found | {"loss": found["loss"] + WEIGHT * taught, "taught": taught}

        return both

    def _mask_step(self, batch: Pieces, logits: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.model(batch[0]) if logits is None else logits
        inside, inner, meeting, number = batch[1].unbind(dim=1)
        foreground = foreground_loss(logits[:, FOREGROUND], inside, meeting)
        centre = inner_loss(logits[:, CENTRE], inner, meeting)
        # of pieces as they lie now: turned ones point elsewhere
        numbers = number.cpu().numpy().astype(np.int32)
        away = torch.from_numpy(np.stack([offsets(one) for one in numbers])).to(self.device)
        beside = offset_loss(logits[:, OFFSETS], away, (number > 0).float(), meeting)
        return {"loss": foreground + centre + beside, "foreground": foreground, "centre": centre, "offsets": beside}

    def _label_step(self, batch: Pieces, logits: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.model(batch[0]) if logits is None else logits
        target, weight, *labels = batch[1].unbind(dim=1)
        centre = CENTRE_WEIGHT * heat_loss(logits[:, CENTRE], target, weight)
        foreground = torch.stack([label_loss(logits[:, FOREGROUND], label) for label in labels]).mean()
        return {"loss": foreground + centre, "foreground": foreground, "centre": centre}

    def _crf_step(self, batch: Pieces, logits: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.model(batch[0]) if logits is None else logits
        found = self._label_step(batch, logits)
        at, inside = self.config.radius_um / self.config.at_mpp, torch.sigmoid(logits[:, FOREGROUND].float())
        # a piece with twice the px per um has four times as many pairs: all weigh as they do at at_mpp
        losses = [
            (at / radius) ** 2 * crf_loss(inside[i : i + 1], batch[0][i : i + 1], sxy=SXY * radius)
            for i, radius in enumerate(batch[2])
        ]
        pairs = torch.stack(losses).mean()
        return found | {"loss": found["loss"] + self.config.segmenter.crf * pairs, "crf": pairs}

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
        (pixels,) = self._shown([slide.read(slide.plane(slide.resolve(self.config.at_mpp)))], [image])
        logits = self.model(tensor([pixels], self.device, MARGIN))[:, : OFFSETS.start]
        found = torch.sigmoid(logits.float())
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


def nearest(labels: NDArray[V], shape: Sequence[int]) -> NDArray[V]:
    """(h, w) labels, or any map, at another size: those under the middles of the new pixels."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.int64)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def _check(config: Config) -> None:
    if bool(config.teachers) != bool(config.unlabelled):
        raise ConfigError(
            "teachers and unlabelled belong together: what some say, and the images that they say it of",
            remedy="give a folder of images and one checkpoint or more, or neither",
        )
    if config.paler and not (config.sees == "stain" and config.segmenter.labels == "masks"):
        raise ConfigError(
            f"paler changes nuclei whose masks are known in pictures of stain; this training sees {config.sees} and "
            f"learns from {config.segmenter.labels}",
            remedy="set sees=stain and segmenter.labels=masks, or paler=0",
        )
    least, most = config.seen_mpp
    if not max(least, config.mpp) <= config.at_mpp <= most:
        raise ConfigError(
            f"at_mpp is {config.at_mpp:g} um per px; the training images have {config.mpp:g} and are resized to "
            f"{least:g} to {most:g}",
            remedy="give an at_mpp within seen_mpp, and not finer than mpp",
        )


def split_data(config: Config) -> tuple[PointData, Splits]:
    """All images, and which of them are for training, validation and test. Those of the test keep all of their points,
    the others the share that is learned from.

    Raises ConfigError: no data, data that cannot be read, or a split that shares a patient.
    """
    data = read_points(config.data, labels=config.points, mpp=config.mpp, allow_empty=config.allow_empty)
    splits = split_images(data, validation=config.validation_share, test=config.test_share, seed=config.seed)
    images = (
        image if part == "test" else image.sampled(config.ratio, config.seed)
        for image, part in zip(data, splits.assigned, strict=True)
    )
    return replace(data, images=tuple(images)), splits


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
    from wsikit.methods.points.detect import detect
    from wsikit.methods.points.packing import pack

    torch.manual_seed(config.seed)
    model = build_model(config)
    if config.start:
        begin_with(model, load_network(config.start, config))
    training = Training(config, out, model, watch)
    fitted: dict[str, Fitted] = {}
    points: dict[str, Points] = {}
    facts: dict[str, Any] = {}
    if config.segmenter.labels != "masks":
        found = detect(training)
        fitted, points, facts = found.fitted, found.points, found.facts
    fitted |= training.segment(points)
    return training.packed() or pack(training, fitted, facts)
