"""Folders of images: which files are images, which are their labels, and which row of a table is whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wsikit.errors import ConfigError
from wsikit.methods.counting.tables import Row, read_rows
from wsikit.training.images import SUFFIXES, ImageFile, image_paths
from wsikit.training.labels import BESIDE, FOLDERS, numbers_and_pieces, read_labels, refuse_masks
from wsikit.training.tables import refuse, rows_of_files


def image_files(folder: Path) -> list[Path]:
    """The images of ``folder/images``, else of ``folder``, by name; no label images, no hidden files.

    Raises ConfigError (code bad_counts) where there are none.
    """
    within = folder / "images" if (folder / "images").is_dir() else folder
    found = [path for path in image_paths(within) if not path.stem.endswith(BESIDE)]
    if not found:
        raise ConfigError(
            f"{within} holds no image ({', '.join(SUFFIXES)})",
            code="bad_counts",
            remedy="give the folder that holds the images themselves",
        )
    return found


def rows_of_table(table: Path, files: Sequence[Path]) -> dict[Path, Row]:
    """Image file -> its row, in the order of the table.

    Raises:
        ConfigError: code bad_counts: a row without an image, an image without a row, or two rows of one image.
        AnnotationError: the table cannot be read.
    """
    folder = files[0].parent
    found = rows_of_files(read_rows(table), files, folder, "bad_counts")
    refuse(
        [path.name for path in files if path not in found],
        f"images of {folder} have no row in {table}",
        "add rows for them (an image without any cell has the count 0), or move them elsewhere",
        "bad_counts",
    )
    return found


def rows_of_labels(images: Sequence[ImageFile], truths: Mapping[Path, Path | None], folder: Path) -> dict[Path, Row]:
    """Image file -> a row with the number of its labels.

    Raises:
        ConfigError: code bad_counts: images without labels, labels of another size than their image, or masks.
        AnnotationError: a label image cannot be read.
    """
    refuse(
        [path.name for path, truth in truths.items() if truth is None],
        f"images of {folder} have no count: there is no table, and they have no labels",
        f"write a counts.csv with the columns image and count; or labels as NAME_labels.png, or in {FOLDERS[0]}/",
        "bad_counts",
    )
    found, seen = {}, {}
    for image in images:
        truth = truths[image.path]
        assert truth is not None
        seen[truth.name] = numbers_and_pieces(read_labels(truth, image.size, "bad_counts"))
        found[image.path] = Row(truth.name, image.path.name, seen[truth.name][0])
    refuse_masks(seen, folder, "give every cell a number of its own, or a counts.csv", "bad_counts")
    return found
