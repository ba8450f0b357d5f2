"""CoNSeP's layout, that of HoVer-Net's data: PNG images and MATLAB files of instances.

``Train/Images/NAME.png`` and ``Train/Labels/NAME.mat``, the same in ``Test``; or ``Images`` and ``Labels`` alone. Of a
MATLAB file only ``inst_map`` is read: (H, W), each pixel with the number of its nucleus, 0 is background.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import AnnotationError, ConfigError
from wsikit.methods.points.images import CODE
from wsikit.training.images import image_paths
from wsikit.training.names import SPLITS
from wsikit.training.tables import refuse

MAP = "inst_map"


@dataclass(frozen=True, slots=True)
class MatInstances:
    """The instances of a MATLAB file."""

    path: Path
    size: tuple[int, int]
    """(width, height) that they must have."""

    def __call__(self) -> NDArray[np.int64]:
        """(H, W). Raises AnnotationError where they cannot be read, ConfigError (bad_points) for another size."""
        found = _inst_map(self.path)
        if found.ndim != 2 or found.dtype.kind not in "uif" or not ((found >= 0) & (found == np.floor(found))).all():
            raise AnnotationError(
                f"{MAP} of {self.path} is {found.dtype} {found.shape}, not (H, W) whole numbers from 0 on",
                remedy="write the number of its nucleus for each pixel",
            )
        if found.shape[::-1] != self.size:
            raise ConfigError(
                f"{MAP} of {self.path} has {found.shape[1]}x{found.shape[0]} px, its image has "
                f"{self.size[0]}x{self.size[1]} px",
                code=CODE,
                remedy="export the labels at the resolution of the image",
            )
        return found.astype(np.int64)


def _inst_map(path: Path) -> NDArray[Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        held = loadmat(path, variable_names=[MAP])
    except NotImplementedError as error:
        raise AnnotationError(
            f"{path} is a MATLAB file of version 7.3, which is not read", remedy="save it with -v7"
        ) from error
    except (OSError, ValueError, TypeError, IndexError, KeyError, MatReadError, zlib.error) as error:
        raise AnnotationError(
            f"{path} is no MATLAB file that can be read: {error}", remedy="copy the file again"
        ) from error
    if MAP not in held:
        raise AnnotationError(f"{path} holds no {MAP}", remedy=f"save the instances as {MAP}")
    return np.asarray(held[MAP])


def mat_files(folder: Path) -> list[tuple[Path, Path, str | None]]:
    """Images, their MATLAB files and splits (of the folders Train and Test); none where it is another layout.

    Raises ConfigError (code bad_points): an image without a MATLAB file, or one without an image.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLITS)
    found = [row for path in below for row in _of_part(path, SPLITS[path.name.lower()])]
    return found or _of_part(folder, None)


def _within(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of MATLAB files, if that is what they hold."""
    known = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    images, labels = known.get("images"), known.get("labels")
    if images is None or labels is None or not any(labels.glob("*.mat")):
        return None
    return images, labels


def _of_part(folder: Path, split: str | None) -> list[tuple[Path, Path, str | None]]:
    found = _within(folder)
    if found is None:
        return []
    images, labels = found
    known = {path.stem: path for path in sorted(labels.glob("*.mat"))}
    paths = image_paths(images)
    remedy = "copy the data set again: each image has a MATLAB file of its name"
    without = [path.name for path in paths if path.stem not in known]
    refuse(without, f"images of {images} have no labels in {labels}", remedy, CODE)
    alone = sorted(set(known) - {path.stem for path in paths})
    refuse(alone, f"files of {labels} have no image in {images}", remedy, CODE)
    return [(path, known[path.stem], split) for path in paths]
