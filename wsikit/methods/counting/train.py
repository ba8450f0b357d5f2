"""Training: counter, instance classifier, pseudo masks, segmenter, one after another over one encoder.

Each stage is a ``wsikit.training.fit`` in a folder of its own, so that a training which was ended goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from wsikit.methods.counting.config import LYSTO_EDGES, Config
from wsikit.methods.counting.data import CountedImage, CountingData, read_counts
from wsikit.methods.counting.instances import STRIDE, Selection, count_threshold, select, windows_per_cell
from wsikit.methods.counting.losses import count_loss, dice_loss
from wsikit.methods.counting.model import CountingNet, build_model, inner
from wsikit.methods.counting.pseudo import cleaned, colour_level, pseudo_mask, spread, strength
from wsikit.metrics import bin_counts, quadratic_weighted_kappa
from wsikit.training.batches import of_one_shape, recoloured, tensor, turned
from wsikit.training.fit import Fitted, Watch
from wsikit.training.splits import Splits, split_images
from wsikit.training.stages import Stages

DENSITY_EPOCHS = 2
"""First epochs of stage 2 rank windows by the counter's density: a classifier that has learned nothing ranks at
random."""
HEATS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds of the heat that are tried."""
MARGIN = 16
"""px around a training image that the network sees, mirrored, and that counts for nothing. On slides there is tissue
around whatever is counted: the errors of two networks that always saw images end rose from 0.30 and 0.18 of a
constant's to 0.37 and 0.25 when they saw something around them. 32 px were no better in two trainings."""
CALIBRATED_ON = 256
"""Training images at most that scale and thresholds are set by."""
Images = list[CountedImage]


@dataclass(frozen=True, slots=True, eq=False)
class Windowed:
    """The windows of some images, in row order, image after image."""

    vectors: torch.Tensor
    """(N, C) on the CPU."""
    density: NDArray[np.float32]
    """(N,) cells that the counter sees in each window; NaN where it has no map."""
    images: NDArray[np.int64]
    """(N,) index of the image."""
    counts: tuple[int, ...]
    """Of the images."""


class Training(Stages[Config, CountedImage]):
    """What the stages share.

    Args:
        config: of the training.
        out: folder for stages and checkpoint.
        model: with the encoder's weights.
        watch: is told of every step.
    """

    method = "counting"
    silent = frozenset({"data", "counts", "device"})

    def __init__(self, config: Config, out: Path, model: CountingNet, watch: Watch | None) -> None:
        super().__init__(config, out, *split_data(config), watch, encoder=dict(model.encoder_facts))
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.per_cell = windows_per_cell(config.instances, config.mpp)
        # a pooled counter knows no place: what is in the margin would count
        self.margin = 0 if self.model.density is None else MARGIN
        self.cells = self.margin // STRIDE

    def _features(self, pixels: Sequence[NDArray[np.uint8]]) -> list[torch.Tensor]:
        """Of images (H, W, 3) of one size, with the margin."""
        features: list[torch.Tensor] = self.model.features(tensor(pixels, self.device, self.margin))
        return features

    # Stage 1

    def count(self) -> Fitted:
        """Learn to count."""
        self.model.stage("counter")
        train, validation = self.images("train"), self.images("validation")
        if self.model.density is not None:
            cells = [math.prod(-(-side // STRIDE) for side in image.source.size) for image in train]
            self.model.density.scale.fill_(max(sum(image.count for image in train), 1) / sum(cells))

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
            rng = np.random.default_rng([self.config.seed, epoch])
            order = self._order(train, epoch, rng)
            # pooled features of a single image have no deviation that they could be normalised by
            least = 1 if self.model.bins is None and self.model.density is not None else 2
            for indices in of_one_shape(train, order, self.config.counter.recipe.batch_size, least):
                pixels = [train[i].read() for i in indices]
                if self.config.counter.augment:
                    pixels = recoloured(turned(pixels, None, rng)[0], self.config.stain, rng)
                counts = torch.tensor([float(train[i].count) for i in indices], device=self.device)
                seen, margin = self._zoomed(tensor(pixels, self.device, self.margin), rng)
                yield seen, counts, margin

        return self.fit(
            self.model,
            "counter",
            step=self._count_step,
            train=batches,
            validate=lambda: counted(validation, self.counts_of(validation)),
            monitor="mae",
            better="lower",
            recipe=self.config.counter.recipe,
        )

    def _zoomed(self, pixels: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
        """Images with the margin, resized by a factor drawn from the configuration's, and the margin that they have
        then: whole cells, since both are in quarters."""
        factor = float(rng.choice(self.config.counter.zoom))
        if factor == 1 or not self.margin:
            return pixels, self.margin
        seen = functional.interpolate(pixels, scale_factor=factor, mode="bilinear", antialias=factor < 1)
        return seen.to(memory_format=torch.channels_last), round(self.margin * factor)

    def _count_step(self, batch: tuple[torch.Tensor, torch.Tensor, int]) -> Mapping[str, torch.Tensor]:
        pixels, counts, margin = batch
        found, bins = self.model.count(self.model.features(pixels), margin)
        loss = count_loss(found, counts, self.config.counter.loss)
        if bins is None:
            return {"loss": loss}
        edges = torch.tensor(LYSTO_EDGES, device=counts.device)
        of_bin = functional.cross_entropy(bins, torch.bucketize(counts.long(), edges, right=True))
        return {"loss": loss + of_bin, "count": loss, "bin": of_bin}

    def _order(self, images: Images, epoch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every image once; with ``hard``, so many of them give way to images with the largest errors."""
        order = rng.permutation(len(images))
        replaced = round(self.config.counter.hard * len(images))
        if not replaced or epoch == 1:
            return order
        # scored anew with what was learned, so that going on after an end needs no memory of the epoch before
        errors = np.abs(self.counts_of(images) - np.array([image.count for image in images]))
        self.model.train()
        hardest = np.argsort(-errors, kind="stable")[:replaced]
        return np.asarray(rng.permutation(np.concatenate([order[replaced:], hardest])))

    @torch.no_grad()
    def counts_of(self, images: Images, margin: int | None = None) -> NDArray[np.float64]:
        """(N,) counts that the model finds; seen with so many px around them, as in training if not given."""
        margin = self.margin if margin is None else margin
        self.model.eval()
        found = np.zeros(len(images))
        for indices in of_one_shape(images, range(len(images)), self.config.counter.recipe.batch_size):
            pixels = tensor([images[i].read() for i in indices], self.device, margin)
            found[indices] = self.model.count(self.model.features(pixels), margin)[0].cpu().numpy()
        return found

    def calibrate(self) -> None:
        """Scale the density so that the training images, seen as on slides, hold as many cells as their labels say."""
        if self.model.density is None:
            return
        images = _spread_over(self.images("train"))
        found = self.counts_of(images, self.config.halo).sum()
        if found > 0:
            self.model.density.scale *= sum(image.count for image in images) / found

    # Stage 2

    def classify(self) -> Fitted:
        """Learn which windows hold a cell."""
        self.model.stage("instances")
        train, validation = self.windows_of(self.images("train")), self.windows_of(self.images("validation"))
        self.model.standardise(train.vectors)

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            rng = np.random.default_rng([self.config.seed, epoch])
            chosen = self.selected(train, epoch, rng)
            rows = np.concatenate([chosen.positive, chosen.negative])
            targets = np.repeat([1.0, 0.0], [len(chosen.positive), len(chosen.negative)])
            order = rng.permutation(len(rows))
            size = self.config.instances.recipe.batch_size
            for start in range(0, len(order), size):
                part = order[start : start + size]
                yield (
                    train.vectors[torch.from_numpy(rows[part])].to(self.device),
                    torch.from_numpy(targets[part]).float().to(self.device),
                )

        def step(batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            logits = self.model.instance_logits(batch[0])
            return {"loss": functional.binary_cross_entropy_with_logits(logits, batch[1])}

        def validate() -> Mapping[str, float]:
            threshold = count_threshold(self.scores(train), train.counts, self.per_cell)
            above = np.bincount(validation.images, self.scores(validation) >= threshold, len(validation.counts))
            return counted(self.images("validation"), above / self.per_cell)

        return self.fit(
            self.model,
            "instances",
            step=step,
            train=batches,
            validate=validate,
            monitor="mae",
            better="lower",
            recipe=self.config.instances.recipe,
        )

    @torch.no_grad()
    def windows_of(self, images: Images) -> Windowed:
        """All training windows of images, described by the frozen encoder."""
        self.model.eval()
        vectors, density, owners = [], [], []
        for index, image in enumerate(images):
            features = self._features([image.read()])
            # (1, C, h', w') -> (C, h', w')
            dense = inner(self.model.window_vectors(features), self.cells)[0]
            around = self.model.windows.tile - 1
            at = np.ix_(*self.model.windows.grid(dense.shape[1] + around, dense.shape[2] + around))
            vectors.append(dense[:, at[0], at[1]].flatten(1).T.cpu())
            density.append(self._window_density(features, dense.shape[-2:])[at].ravel())
            owners.append(np.full(len(vectors[-1]), index))
        counts = tuple(image.count for image in images)
        return Windowed(torch.cat(vectors), np.concatenate(density), np.concatenate(owners), counts)

    def _window_density(self, features: list[torch.Tensor], shape: Sequence[int]) -> NDArray[np.float32]:
        """(h', w') cells in the window that begins at each cell of the map."""
        cells = self.model.density_map(features)
        if cells is None:
            return np.full(shape, np.nan, np.float32)
        tile = self.model.windows.tile
        summed = functional.avg_pool2d(cells[:, None], tile, stride=1)[0, 0] * tile**2
        return np.asarray(inner(summed, self.cells).cpu().numpy())

    def scores(self, windows: Windowed) -> NDArray[np.float32]:
        """(N,) probability of a cell in each window."""
        with torch.no_grad():
            logits = self.model.instance_logits(windows.vectors.to(self.device))
            return np.asarray(torch.sigmoid(logits).cpu().numpy())

    def selected(self, windows: Windowed, epoch: int, rng: np.random.Generator) -> Selection:
        """What an epoch learns from."""
        by_density = epoch <= DENSITY_EPOCHS and not np.isnan(windows.density).any()
        return select(
            windows.density if by_density else self.scores(windows),
            windows.images,
            windows.counts,
            per_cell=self.per_cell,
            config=self.config.instances,
            rng=rng,
        )

    # Stage 3

    def thresholds(self) -> dict[str, float]:
        """Of heat and colour, taken from the training images."""
        train = _spread_over(self.images("train"))
        level = colour_level((image.read() for image in train), self.config.pseudo)
        asked = self.config.pseudo.threshold
        return {"heat": self._heat_threshold(train, level) if asked == "counts" else float(asked), "colour": level}

    def _heat_threshold(self, images: Images, level: float) -> float:
        """The threshold with which masks fall into as many pieces as the labels count, over all images; of equally good
        ones the lowest."""
        pieces = np.zeros(len(HEATS), np.int64)
        for image in images:
            pixels = image.read()
            heat = spread(self.heat_of(image), pixels.shape[:2])
            coloured = strength(pixels, self.config.pseudo.channel) >= level
            masks = (cleaned(coloured & (heat >= least), self.config.pseudo, self.config.mpp) for least in HEATS)
            pieces += [ndimage.label(mask)[1] for mask in masks]
        return HEATS[int(np.argmin(np.abs(pieces - sum(image.count for image in images))))]

    @torch.no_grad()
    def heat_of(self, image: CountedImage) -> NDArray[np.float32]:
        """(h, w) probability of a cell in every 4 x 4 px."""
        self.model.eval()
        heat = self.model.centred_heat(tensor([image.read()], self.device, self.margin))
        return np.asarray(inner(heat, self.cells)[0].cpu().numpy())

    def pseudo_masks(self, images: Images, thresholds: Mapping[str, float]) -> list[NDArray[np.bool_]]:
        """(H, W) of each image; an image whose label says that it has no cells has none in its mask."""
        masks = []
        for image in images:
            pixels = image.read()
            if not image.count:
                masks.append(np.zeros(pixels.shape[:2], np.bool_))
                continue
            masks.append(
                pseudo_mask(
                    self.heat_of(image),
                    pixels,
                    threshold=thresholds["heat"],
                    level=thresholds["colour"],
                    config=self.config.pseudo,
                    mpp=self.config.mpp,
                )
            )
        return masks

    def _mask_logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W) of images with the margin."""
        logits = self.model.mask_logits(self.model.features(pixels), (pixels.shape[2], pixels.shape[3]))
        return inner(logits, self.margin)

    def segment(self, thresholds: Mapping[str, float]) -> Fitted:
        """Learn the pseudo masks."""
        self.model.stage("segmenter")
        train, validation = self.images("train"), self.images("validation")
        # made when they are first asked for: a stage that is done asks for none
        masks = cache(lambda: self.pseudo_masks(train, thresholds))
        held_out = cache(lambda: self.pseudo_masks(validation, thresholds))

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            rng = np.random.default_rng([self.config.seed, epoch])
            masks()
            self.model.train()  # making them left it in eval mode
            for indices in of_one_shape(train, rng.permutation(len(train)), self.config.segmenter.recipe.batch_size):
                pixels, targets = turned([train[i].read() for i in indices], [masks()[i] for i in indices], rng)
                assert targets is not None
                pixels = recoloured(pixels, self.config.stain, rng)
                yield (
                    tensor(pixels, self.device, self.margin),
                    torch.from_numpy(np.stack(targets)).float().to(self.device),
                )

        def step(batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            return {"loss": dice_loss(self._mask_logits(batch[0]), batch[1])}

        def validate() -> Mapping[str, float]:
            both = either = 0.0
            for image, mask in zip(validation, held_out(), strict=True):
                logits = self._mask_logits(tensor([image.read()], self.device, self.margin))
                found = logits[0].cpu().numpy() > 0
                both, either = both + 2.0 * (found & mask).sum(), either + float(found.sum() + mask.sum())
            return {"pseudo_dice": both / either if either else 1.0}

        return self.fit(
            self.model,
            "segmenter",
            step=step,
            train=batches,
            validate=validate,
            monitor="pseudo_dice",
            better="higher",
            recipe=self.config.segmenter.recipe,
        )


def _spread_over(images: Images) -> Images:
    """So many of them as calibration takes, evenly over all."""
    return images[:: -(-len(images) // CALIBRATED_ON)]


def counted(images: Images, found: NDArray[np.float64]) -> dict[str, float]:
    """Mean absolute error of counts, and quadratically weighted kappa of LYSTO's bins."""
    truth = np.array([image.count for image in images])
    bins = [bin_counts(np.rint(values).astype(np.int64), LYSTO_EDGES) for values in (truth, found)]
    kappa = quadratic_weighted_kappa(bins[0], bins[1], len(LYSTO_EDGES) + 1)
    return {"mae": float(np.abs(found - truth).mean()), "kappa": kappa}


def split_data(config: Config) -> tuple[CountingData, Splits]:
    """All images, and which of them are for training, validation and test.

    Raises ConfigError: no data, data that cannot be read, or a split that shares a patient.
    """
    data = read_counts(config.data, counts=config.counts, mpp=config.mpp)
    splits = split_images(data, validation=config.validation_share, test=config.test_share, seed=config.seed)
    return data, splits


def train(config: Config, out: Path, watch: Watch | None = None) -> Path:
    """Train all stages and write ``counting.safetensors`` with its card; goes on where an earlier call was ended.

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
    from wsikit.methods.counting.packing import pack

    torch.manual_seed(config.seed)
    training = Training(config, out, build_model(config), watch)
    fitted = {"counter": training.count()}
    if done := training.packed():
        return done
    training.calibrate()
    fitted["instances"] = training.classify()
    thresholds = training.thresholds()
    if config.segmenter.enabled:
        fitted["segmenter"] = training.segment(thresholds)
    return pack(training, fitted, thresholds)
