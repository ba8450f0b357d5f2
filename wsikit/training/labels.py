"""Instance labels of images to train on: where they lie, and what may be wrong with them. Each method has its own error
code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations.instances import read_image
from wsikit.errors import ConfigError

LABELS = (".png", ".tif", ".tiff")
BESIDE = ("_labels", "_label", "_masks", "_mask")
"""What follows an image's name in that of its labels."""
FOLDERS = ("labels", "masks")
"""Beside ``images``, or in the folder of the images."""


def labels_of(image: Path, folder: Path, folders: tuple[str, ...] = FOLDERS) -> Path | None:
    """The label image of an image, beside it or in a folder of labels."""
    beside = [image.with_name(image.stem + end) for end in BESIDE]
    elsewhere = [folder / name / (image.stem + end) for name in folders for end in ("", *BESIDE)]
    candidates = (base.with_name(base.name + suffix) for base in (*beside, *elsewhere) for suffix in LABELS)
    return next((path for path in candidates if path.is_file()), None)


def read_labels(path: Path, size: tuple[int, int], code: str) -> NDArray[np.int64]:
    """(H, W) instance labels of an image of this (width, height).

    Raises AnnotationError for what is no label image, ConfigError (``code``) for one of another size.
    """
    labels = read_image(path)
    height, width = labels.shape
    if (width, height) != size:
        raise ConfigError(
            f"the labels {path} have {width}x{height} px, their image has {size[0]}x{size[1]} px",
            code=code,
            remedy="export the labels at the resolution of the image",
        )
    return labels


def numbers_and_pieces(labels: NDArray[np.int64]) -> tuple[int, int]:
    """How many numbers a label image has beside 0; and where it has one, in how many pieces (8-connected) that is."""
    from scipy import ndimage

    count = len(np.setdiff1d(labels, [0]))
    return count, int(ndimage.label(labels > 0, np.ones((3, 3)))[1]) if count == 1 else 0


def refuse_masks(found: Mapping[str, tuple[int, int]], folder: Path, remedy: str, code: str) -> None:
    """Raise ConfigError where labels are masks: no image has more than one number, and one of them is in pieces.

    Args:
        found: name of the label file -> its ``numbers_and_pieces``.
        folder: that they are in, for the message.
        remedy: what to do.
        code: of the error.
    """
    name = max(found, key=lambda each: found[each][1], default=None)
    if name is None or max(count for count, _ in found.values()) > 1 or found[name][1] <= 1:
        return
    raise ConfigError(
        f"the labels of {folder} are masks and no instances: no image has more than one number, and that of {name} "
        f"is in {found[name][1]} pieces",
        code=code,
        remedy=remedy,
    )
