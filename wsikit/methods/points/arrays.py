"""PanNuke's layout: all images of a fold in one array, their instances in another.

Known of its readme: ``images.npy`` (N, 256, 256, 3) with values 0 to 255 stored as floating point, ``masks.npy``
(N, 256, 256, 6): in the first five channels the instances of neoplastic, inflammatory, connective, dead and epithelial
cells, each pixel with the number of its cell, in the last the background; ``types.npy`` (N,) the tissue. Folds are
``Fold 1/images/fold1/images.npy`` and ``Fold 1/masks/fold1/masks.npy``. They are no splits: which is trained on is the
user's choice. A fold's masks take gigabytes: both arrays are mapped, and one image of them is read at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations.inside import points_of_labels
from wsikit.errors import AnnotationError, ConfigError, PixelReadError
from wsikit.methods.points.images import CODE, Facts, Found
from wsikit.slides import Pixels

IMAGES, MASKS, TYPES = "images.npy", "masks.npy", "types.npy"
TYPED = 5
"""Channels of instances; what follows is the background."""


@dataclass(frozen=True, slots=True)
class StackedImage:
    """One image of an array. The file is mapped for each read: nothing is shared with threads or forked processes."""

    path: Path
    index: int
    size: tuple[int, int]
    """(width, height) in px."""

    def __call__(self) -> Pixels:
        """(H, W, 3) uint8. Raises PixelReadError where it cannot be read, or has values that are no grey levels."""
        try:
            pixels: NDArray[Any] = np.asarray(np.load(self.path, mmap_mode="r")[self.index])
        except (OSError, ValueError, IndexError) as error:
            raise PixelReadError(f"image {self.index} of {self.path} cannot be read: {error}") from error
        if not ((pixels >= 0) & (pixels <= 255)).all():
            raise PixelReadError(
                f"image {self.index} of {self.path} has values from {pixels.min()} to {pixels.max()}, not 0 to 255",
                remedy="write the images again, with values 0 to 255",
            )
        rounded: Pixels = np.rint(pixels).astype(np.uint8)
        return rounded

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class StackedMasks:
    """The instances of one image of an array."""

    path: Path
    index: int

    def __call__(self) -> NDArray[np.int64]:
        """(H, W); numbered 1, 2, ... channel by channel, a pixel of several channels is the last one's.

        Raises AnnotationError where they cannot be read, or are no whole numbers from 0 on.
        """
        return _numbered(self.read())

    def read(self) -> NDArray[Any]:
        """(H, W, C) as they are in the file. Raises as a call does."""
        try:
            masks = np.asarray(np.load(self.path, mmap_mode="r")[self.index])
        except (OSError, ValueError, IndexError) as error:
            raise AnnotationError(f"masks {self.index} of {self.path} cannot be read: {error}") from error
        if not ((masks >= 0) & (masks == np.floor(masks))).all():
            raise AnnotationError(
                f"masks {self.index} of {self.path} hold other than whole numbers from 0 on",
                remedy="give each pixel the number of its cell",
            )
        return masks


def _numbered(masks: NDArray[Any]) -> NDArray[np.int64]:
    labels = np.zeros(masks.shape[:2], np.int64)
    last = 0
    for channel in np.moveaxis(masks[..., :TYPED], 2, 0):
        numbers, index = np.unique(np.append(channel.ravel(), 0), return_inverse=True)
        index = index[:-1].reshape(channel.shape)
        labels[index > 0] = last + index[index > 0]
        last += len(numbers) - 1
    return labels


def stacks(folder: Path) -> list[tuple[Path, Path]]:
    """The arrays of images below a folder, by path, and those of their masks.

    Raises ConfigError (code bad_points) for images without masks.
    """
    return [(path, _masks_of(path)) for path in sorted(folder.rglob(IMAGES))]


def _masks_of(images: Path) -> Path:
    parts = ["masks" if part == "images" else part for part in images.parent.parts]
    for path in (images.with_name(MASKS), Path(*parts) / MASKS):
        if path.is_file():
            return path
    raise ConfigError(
        f"{images} has no masks: neither {images.with_name(MASKS)} nor {Path(*parts) / MASKS} is there",
        code=CODE,
        remedy="copy the data set again, with its folders as they are",
    )


def of_stacks(folder: Path, found: list[tuple[Path, Path]]) -> Iterator[Found]:
    """The images of all folds, named by the fold's folder and their number in it.

    An image is without nuclei on purpose where the background fills it.

    Raises:
        ConfigError: code bad_points: arrays of other shapes, or that do not fit one another.
        AnnotationError: masks that cannot be read.
    """
    for images, masks in found:
        shape, organs = _shapes(images, masks)
        fold = images.parent.relative_to(folder).as_posix() if len(found) > 1 else images.parent.name
        for index in range(shape[0]):
            truth = StackedMasks(masks, index)
            own = truth.read()
            yield Found(
                name=f"{fold}/{index:05d}",
                source=StackedImage(images, index, (shape[2], shape[1])),
                where=f"{masks}, image {index}",
                points=points_of_labels(_numbered(own))[1],
                truth=truth,
                empty=own.shape[2] > TYPED and bool((own[..., TYPED] > 0).all()),
                facts=Facts(organ=organs[index]),
            )


def _shapes(images: Path, masks: Path) -> tuple[tuple[int, ...], list[str | None]]:
    x, y = (_mapped(path) for path in (images, masks))
    if x.ndim != 4 or x.shape[3] != 3:
        raise ConfigError(f"{images} is {x.shape}, not (N, H, W, 3)", code=CODE, remedy="copy the data set again")
    if y.ndim != 4 or y.shape[:3] != x.shape[:3] or y.shape[3] not in (TYPED, TYPED + 1):
        raise ConfigError(
            f"{masks} is {y.shape}, and {images.name} is {x.shape}: masks are (N, H, W, {TYPED + 1})",
            code=CODE,
            remedy="copy the data set again: both arrays are of one fold",
        )
    if not (images.with_name(TYPES)).is_file():
        return x.shape, [None] * len(x)
    types = _mapped(images.with_name(TYPES))
    if types.shape != x.shape[:1]:
        raise ConfigError(
            f"{images.with_name(TYPES)} is {types.shape}, and there are {len(x)} images",
            code=CODE,
            remedy="copy the data set again, or take this file out",
        )
    return x.shape, [str(each) or None for each in types]


def _mapped(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is no array that can be read: {error}", code=CODE, remedy="copy the file again"
        ) from error
    return found
