"""From some points of an image to all of them: the detector, its rounds of self-training, and the points that it adds.

1. Round 0 learns extended Gaussians on the given points.
2. Every round after it learns, beside them, the background that the one before was sure of on the training images, and
   begins with its weights. Rounds end after ``detector.rounds``, or where neither the background nor the number of
   points changes any more.
3. The threshold is chosen on the given points of the validation images; masks have no say in it.
4. Images get the points that are found and that no given one stands for.

Each round has a folder with its maps, ``detector-R/maps/NAME.png``, 0 to 255 at ``at_mpp``; what is there is not made
again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from wsikit.annotations.instances import read_image
from wsikit.atomic import output_errors, replace_file
from wsikit.methods.points.background import LARGEST, LEAST, merged_points, propagated_background
from wsikit.methods.points.background import detect as blobs
from wsikit.methods.points.data import PointImage
from wsikit.methods.points.lessons import Heat, Lesson, Points
from wsikit.methods.points.model import CENTRE
from wsikit.methods.points.targets import heat_loss
from wsikit.methods.points.train import Images, Pieces, Training, nearest
from wsikit.metrics import match_points
from wsikit.training.fit import Fitted
from wsikit.training.recipe import Recipe

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(3, 17))
"""Of the heat, that are tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What the detector came to."""

    fitted: dict[str, Fitted]
    """Round -> its training."""
    points: dict[str, Points]
    """Name -> all points of each training and validation image, px of the image."""
    facts: dict[str, Any]
    """For the card."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round says of the training images."""

    background: float
    """Share of their pixels that is surely none."""
    found: int
    """Points in all of them."""

    def near(self, other: Round, change: float) -> bool:
        """Whether both numbers differ by less than a share."""
        pairs = ((self.background, other.background), (self.found, other.found))
        return all(abs(a - b) <= change * max(a, b) for a, b in pairs)


def detect(training: Training) -> Detected:
    """Train all rounds, and add what the last one finds to the given points."""
    config = training.config
    options, fitted, rounds = config.detector, dict[str, Fitted](), list[Round]()
    train, validation = training.images("train"), training.images("validation")
    again = options.rounds if options.target == "extended" else 0
    for number in range(again + 1):
        stage = f"detector-{number}"
        backgrounds = [None] * len(train) if not number else list(_backgrounds(training, f"detector-{number - 1}"))
        fitted[stage] = _fit(training, stage, backgrounds, options.again if number else options.recipe)
        _write_maps(training, stage, [*train, *validation])
        threshold = best_threshold(training, stage, validation)
        rounds.append(_round(training, stage, train, threshold))
        if number and rounds[-1].near(rounds[-2], options.change):
            break
    points = {
        image.name: completed(training, stage, image, threshold).astype(np.float64) for image in (*train, *validation)
    }
    facts = {
        "detector_threshold": threshold,
        "rounds": [{"background": r.background, "found": r.found} for r in rounds],
    }
    return Detected(fitted, points, facts)


def _fit(training: Training, stage: str, backgrounds: Sequence[NDArray[np.bool_] | None], recipe: Recipe) -> Fitted:
    train, validation = training.images("train"), training.images("validation")
    radius, side = training.config.radius_um / training.config.mpp, training.config.crop
    target = training.config.detector.target

    def lessons(images: Images, known: Sequence[NDArray[np.bool_] | None]) -> list[Lesson]:
        pairs = zip(images, known, strict=True)
        return [Heat(one.points, one.source.size, radius, side, target, part) for one, part in pairs]

    def step(batch: Pieces) -> Mapping[str, torch.Tensor]:
        logits = training.model(batch[0])
        return {"loss": heat_loss(logits[:, CENTRE], batch[1][:, 0], batch[1][:, 1])}

    learned, held_out = lessons(train, backgrounds), lessons(validation, [None] * len(validation))
    return training.fit(
        training.model,
        stage,
        step=step,
        train=lambda epoch: training.pieces(train, learned, epoch, recipe.batch_size),
        validate=lambda: training.mean_loss(validation, held_out, step),
        monitor="loss",
        better="lower",
        recipe=recipe,
    )


def _path(training: Training, stage: str, image: PointImage) -> Path:
    # with its suffix: a.png and a.tif are two images
    name = image.name.replace("/", "__")
    return training.out / stage / "maps" / f"{name}.png"


def _write_maps(training: Training, stage: str, images: Images) -> None:
    for image in images:
        path = _path(training, stage, image)
        if path.is_file():
            continue
        heat = np.rint(255 * training.maps(image)[CENTRE]).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(heat).save(out, "PNG")
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, out.getvalue())


def _heat(training: Training, stage: str, image: PointImage) -> NDArray[np.float32]:
    """(h, w) of an image at ``at_mpp``."""
    return np.asarray(read_image(_path(training, stage, image)) / 255, np.float32)


def _backgrounds(training: Training, stage: str) -> Iterator[NDArray[np.bool_]]:
    """(H, W) pixels of each training image that a round is sure are none."""
    for image in training.images("train"):
        width, height = image.source.size
        known = propagated_background(_heat(training, stage, image), largest_px=LARGEST * _radius(training) ** 2)
        yield nearest(known, (height, width))


def _radius(training: Training) -> float:
    """Of a nucleus, px at ``at_mpp``."""
    return training.config.radius_um / training.config.at_mpp


def found_in(training: Training, stage: str, image: PointImage, threshold: float) -> Points:
    """(N, 2) x, y in px of the image."""
    heat, radius = _heat(training, stage, image), _radius(training)
    said = blobs(heat, threshold=threshold, least_px=LEAST * radius**2, largest_px=LARGEST * radius**2)
    return np.asarray(said.points * (np.array(image.source.size, np.float64) / heat.shape[::-1]))


def completed(training: Training, stage: str, image: PointImage, threshold: float) -> Points:
    """(N, 2) the given points of an image and those that are found beside them."""
    found = found_in(training, stage, image, threshold)
    return merged_points(image.points, found, training.config.radius_um / training.config.mpp)


def _round(training: Training, stage: str, images: Images, threshold: float) -> Round:
    largest = LARGEST * _radius(training) ** 2
    known = [propagated_background(_heat(training, stage, image), largest_px=largest) for image in images]
    share = sum(int(one.sum()) for one in known) / sum(one.size for one in known)
    return Round(share, sum(len(found_in(training, stage, image, threshold)) for image in images))


def best_threshold(training: Training, stage: str, images: Images) -> float:
    """The threshold with the largest recall^2 / points found, of equal ones the highest.

    Where only some nuclei are marked, precision cannot be seen; but recall^2 / P(positive) is precision times recall up
    to a factor that is the same for all thresholds (Lee and Liu, ICML 2003), and needs no more than the given points
    and the number of those found.
    """
    radius = training.config.radius_um / training.config.mpp

    def worth(threshold: float) -> float:
        pairs = [(image.points, found_in(training, stage, image, threshold)) for image in images]
        given, found = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
        met = sum(len(match_points(*pair, radius=radius).pairs) for pair in pairs)
        return (met / given) ** 2 / found if given and found else 0.0

    return max(reversed(THRESHOLDS), key=worth)
