"""Folders of images: which files are images, which are their labels, and which row of a table is whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsikit.errors import ConfigError
from wsikit.methods.counting.images import ImageFile, read_labels
from wsikit.methods.counting.tables import Row, read_rows

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".jp2")
LABELS = (".png", ".tif", ".tiff")
BESIDE = ("_labels", "_label", "_masks", "_mask")
"""What follows an image's name in that of its labels."""
FOLDERS = ("labels", "masks")
"""Beside ``images``, or in the folder of the images."""
SHOWN = 5
"""Most names in a message."""


def image_files(folder: Path) -> list[Path]:
    """The images of ``folder/images``, else of ``folder``, by name; no label images, no hidden files.

    Raises ConfigError (code bad_counts) where there are none.
    """
    within = folder / "images" if (folder / "images").is_dir() else folder
    found = sorted(
        path
        for path in within.iterdir()
        if path.suffix.lower() in IMAGES and not path.name.startswith(".") and not path.stem.endswith(BESIDE)
    )
    if not found:
        raise ConfigError(
            f"{within} holds no image ({', '.join(IMAGES)})",
            code="bad_counts",
            remedy="give the folder that holds the images themselves",
        )
    return found


def labels_of(image: Path, folder: Path) -> Path | None:
    """The label image of an image, beside it or in a folder of labels."""
    beside = [image.with_name(image.stem + end) for end in BESIDE]
    elsewhere = [folder / name / (image.stem + end) for name in FOLDERS for end in ("", *BESIDE)]
    candidates = (base.with_name(base.name + suffix) for base in (*beside, *elsewhere) for suffix in LABELS)
    return next((path for path in candidates if path.is_file()), None)


def rows_of_table(table: Path, files: Sequence[Path]) -> dict[Path, Row]:
    """Image file -> its row, in the order of the table.

    Raises:
        ConfigError: code bad_counts: a row without an image, an image without a row, or two rows of one image.
        AnnotationError: the table cannot be read.
    """
    known = _by_name(files)
    found: dict[Path, Row] = {}
    for row in read_rows(table):
        path = _named(str(row.image), known, row.where, files[0].parent)
        if path in found:
            raise ConfigError(
                f"{row.where}: the image {path.name} has a row already ({found[path].where})",
                code="bad_counts",
                remedy="take one of the rows out: each image has one count",
            )
        found[path] = row
    _refuse(
        [path.name for path in files if path not in found],
        f"images of {files[0].parent} have no row in {table}",
        "add rows for them (an image without any cell has the count 0), or move them elsewhere",
    )
    return found


def _by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    """File name, and file name without its suffix -> the files."""
    known: dict[str, list[Path]] = {}
    for path in files:
        for name in (path.name, path.stem):
            known.setdefault(name, []).append(path)
    return known


def _named(image: str, known: Mapping[str, list[Path]], where: str, folder: Path) -> Path:
    paths = known.get(image, [])
    if not paths:
        raise ConfigError(
            f"{where}: there is no image {image!r} in {folder}",
            code="bad_counts",
            remedy="give its file name, with or without its suffix; or take the row out",
        )
    if len(paths) > 1:
        raise ConfigError(
            f"{where}: {image!r} may be {' or '.join(path.name for path in paths)}",
            code="bad_counts",
            remedy="write the file name with its suffix",
        )
    return paths[0]


def rows_of_labels(images: Sequence[ImageFile], truths: Mapping[Path, Path | None], folder: Path) -> dict[Path, Row]:
    """Image file -> a row with the number of its labels.

    Raises:
        ConfigError: code bad_counts: images without labels, labels of another size than their image, or masks.
        AnnotationError: a label image cannot be read.
    """
    _refuse(
        [path.name for path, truth in truths.items() if truth is None],
        f"images of {folder} have no count: there is no table, and they have no labels",
        f"write a counts.csv with the columns image and count; or labels as NAME_labels.png, or in {FOLDERS[0]}/",
    )
    found, pieces = {}, {}
    for image in images:
        truth = truths[image.path]
        assert truth is not None
        labels = read_labels(truth, image.size)
        count = len(np.setdiff1d(labels, [0]))
        found[image.path] = Row(truth.name, image.path.name, count)
        if count == 1:
            pieces[truth.name] = _pieces(labels > 0)
    if all((row.count or 0) <= 1 for row in found.values()) and max(pieces.values(), default=0) > 1:
        name = max(pieces, key=pieces.__getitem__)
        raise ConfigError(
            f"the labels of {folder} are masks and no instances: no image has more than one number, and that of {name} "
            f"is in {pieces[name]} pieces",
            code="bad_counts",
            remedy="give every cell a number of its own, or a counts.csv",
        )
    return found


def _pieces(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    from scipy import ndimage

    return int(ndimage.label(mask, np.ones((3, 3)))[1])


def _refuse(names: Sequence[str], what: str, remedy: str) -> None:
    """Raise ConfigError (code bad_counts) where there are such images."""
    if names:
        listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        raise ConfigError(f"{len(names)} {what}: {listed}", code="bad_counts", remedy=remedy)
