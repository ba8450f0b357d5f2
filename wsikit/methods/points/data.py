"""Images with the points of their nuclei."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

from wsikit.errors import ConfigError
from wsikit.methods.points.folders import image_files, of_labels
from wsikit.methods.points.images import CODE, PointImage, sampled
from wsikit.training.images import LOOKED_AT, ImageFile, digest, kept_where_small, other_mpp
from wsikit.training.labels import labels_of

__all__ = ["PointData", "PointImage", "read_points", "sampled"]

Kind = Literal["labels"]


@dataclass(frozen=True, eq=False)
class PointData(Sequence[PointImage]):
    """Images with points. Made by ``read_points``."""

    images: tuple[PointImage, ...]
    kind: Kind
    """The layout that they were read from."""
    warnings: tuple[str, ...] = ()
    """Sentences on what is odd about them."""

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> PointImage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PointImage, ...]: ...
    def __getitem__(self, index: int | slice) -> PointImage | tuple[PointImage, ...]:
        return self.images[index]

    def sampled(self, ratio: float, seed: int) -> PointData:
        """The same images with a share of the points of each: see ``wsikit.methods.points.images.sampled``."""
        return replace(self, images=tuple(image.sampled(ratio, seed) for image in self.images))

    @cached_property
    def digest(self) -> str:
        """sha256 (hexadecimal) of what is learned from: names, points, groups and splits, sizes and pixels, and
        instances, which full masks are learned from; see ``wsikit.training.images.digest``. Raises PixelReadError, and
        what ``PointImage.instances`` raises."""
        step = max(1, len(self) // LOOKED_AT)
        said = [
            (
                *(one.name, one.points.tolist(), one.patient, one.slide, one.organ, one.split),
                _sha256(one) if one.keep or index % step == 0 else one.truth is not None,
            )
            for index, one in enumerate(self)
        ]
        return digest(self.images, said)


def _sha256(image: PointImage) -> str | None:
    labels = image.instances()
    return None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()


def read_points(
    path: str | Path | None,
    *,
    labels: str | Path | None = None,
    mpp: float | None = None,
    allow_empty: bool = False,
) -> PointData:
    """All images of a data set, with their points; pixels are read when they are asked for.

    Args:
        path: a folder of images.
        labels: the table of points, or the folder of labels, where they lie elsewhere or have another name.
        mpp: um per px that the images are meant to have; a file that says another is warned of.
        allow_empty: whether labels may hold no point: an image without any nucleus.

    Raises:
        ConfigError: code bad_points.
    """
    if path is None:
        raise ConfigError("no data is given", code=CODE, remedy="data=FOLDER")
    folder = Path(path)
    if not folder.exists():
        raise ConfigError(f"{folder} does not exist", code=CODE, remedy="mind the folder that it is meant from")
    files = image_files(folder)
    opened = {path: ImageFile.open(path) for path in files}
    truths = {path: labels_of(path, folder) for path in files}
    images = of_labels(folder, {path: image for path, (image, _) in opened.items()}, truths, allow_empty)
    warnings = other_mpp({path.name: own for path, (_, own) in opened.items() if own is not None}, mpp)
    return PointData(kept_where_small(images), "labels", tuple(warnings))
