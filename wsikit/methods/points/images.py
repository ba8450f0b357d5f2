"""One image and the points of its nuclei; and a share of points, drawn by a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.training.images import PixelSource, TrainingImage
from wsikit.training.labels import read_labels
from wsikit.training.names import barcode
from wsikit.training.tables import SHOWN

CODE = "bad_points"


class InstanceSource(Protocol):
    """Where the instances of an image come from."""

    def __call__(self) -> NDArray[np.int64]:
        """(H, W) number of the instance of each pixel, 0 is background."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What a table or a list says of an image beside its points; None where it says nothing."""

    patient: str | None = None
    slide: str | None = None
    organ: str | None = None
    split: str | None = None
    """train, validation or test."""

    def over(self, other: Facts) -> Facts:
        """These, and what another source says where they say nothing."""
        return Facts(*(getattr(self, f.name) or getattr(other, f.name) for f in fields(self)))


NOTHING = Facts()


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label image for one image."""

    path: Path
    size: tuple[int, int]
    """(width, height) that it must have."""

    def __call__(self) -> NDArray[np.int64]:
        """(H, W). Raises AnnotationError for what is no label image, ConfigError (bad_points) for another size."""
        return read_labels(self.path, self.size, CODE)


@dataclass(frozen=True, eq=False, kw_only=True)
class PointImage(TrainingImage):
    """One image and the points of its nuclei."""

    points: NDArray[np.float64] = field(repr=False)
    """(n, 2) x, y in px of the image, pixel-corner convention, as all annotations of wsikit: pixel (row, column) covers
    [column, column + 1) x [row, row + 1), its middle is (column + 0.5, row + 0.5). All lie in the image, no two in one
    pixel; not to be written to."""
    organ: str | None = None
    truth: InstanceSource | None = field(default=None, repr=False)
    """Instance labels, if there are any."""

    def instances(self) -> NDArray[np.int64] | None:
        """(H, W) number of the nucleus of each pixel, 0 is background; None where they are not known.

        For scoring, and for training on full masks: nothing else learns from them. Numbers may have gaps. Raises
        AnnotationError where they cannot be read, and ConfigError (code bad_points) for those of another size than the
        image.
        """
        return None if self.truth is None else self.truth()

    def sampled(self, ratio: float, seed: int) -> PointImage:
        """The image with a share of its points: see ``sampled``."""
        return replace(self, points=_fixed(sampled(self.points, ratio, seed, self.name)))


def sampled(points: NDArray[np.float64], ratio: float, seed: int, name: str) -> NDArray[np.float64]:
    """A share of points, drawn without replacement, in the order that they had.

    Their number is ``ratio * n`` rounded half up, at least 1 where there is any. The draw is keyed by the seed and the
    image's name alone: it depends neither on the other images, nor on the order of the points. Draws of one seed are
    nested: the points of a smaller ratio are among those of a larger one.

    Args:
        points: (n, 2) x, y.
        ratio: in (0, 1].
        seed: from 0.
        name: of the image.

    Returns:
        (k, 2).

    Raises:
        ConfigError: a ratio outside of (0, 1], or a negative seed.
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f"a share of points is above 0 and at most 1, got {ratio}", remedy="give 0.1 for 10 %")
    if seed < 0:
        raise ConfigError(f"a seed is a whole number from 0 on, got {seed}")
    # the 1e-9: 0.1 * 45 is 4.5, and 0.15 * 30 a little less, as binary fractions have it
    count = max(1, int(ratio * len(points) + 0.5 + 1e-9)) if len(points) else 0
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16])
    drawn = np.random.default_rng(key).permutation(len(points))[:count]
    by_place = np.lexsort((points[:, 0], points[:, 1]))
    chosen: NDArray[np.float64] = points[np.sort(by_place[drawn])]
    return chosen


@dataclass(frozen=True, eq=False)
class Found:
    """One image as a layout gives it, its points as they are in the file."""

    name: str
    source: PixelSource
    where: str
    """File of the points, or file and image, for messages."""
    points: NDArray[np.float64]
    """(n, 2) x, y in px of the image."""
    truth: InstanceSource | None = None
    empty: bool = False
    """Whether the file says that there is none on purpose."""
    facts: Facts = NOTHING

    def image(self, *, allow_empty: bool) -> tuple[PointImage, int]:
        """The image to learn from, and how many points were left out since another lies in their pixel.

        Raises ConfigError (code bad_points): no point where none is not allowed, or one outside of the image.
        """
        if not len(self.points) and not (self.empty or allow_empty):
            raise ConfigError(
                f"{self.where} holds no point",
                code=CODE,
                remedy="mark its nuclei, or take the image out; if it is meant to have none, say so: a row of a table "
                "with the image's name and nothing in x and y, or allow_empty",
            )
        self._refuse_outside()
        _, first = np.unique(np.floor(self.points), axis=0, return_index=True)
        slide, patient = barcode(Path(self.name).name)
        image = PointImage(
            name=self.name,
            source=self.source,
            points=_fixed(self.points[np.sort(first)]),
            truth=self.truth,
            patient=self.facts.patient or patient,
            slide=self.facts.slide or slide,
            organ=self.facts.organ,
            split=self.facts.split,
        )
        return image, len(self.points) - len(first)

    def _refuse_outside(self) -> None:
        width, height = self.source.size
        outside = ~((self.points >= 0) & (self.points < (width, height))).all(axis=1)
        if not outside.any():
            return
        listed = ", ".join(f"({x:g}, {y:g})" for x, y in self.points[outside][:SHOWN])
        raise ConfigError(
            f"{self.where}: {outside.sum()} of {len(self.points)} points lie outside of the image {self.name} of "
            f"{width}x{height} px: {listed}{', ...' if outside.sum() > SHOWN else ''}",
            code=CODE,
            remedy="points are x, y in px of the image itself, from its upper left corner; is it the right image?",
        )


def _fixed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    points.setflags(write=False)
    return points
