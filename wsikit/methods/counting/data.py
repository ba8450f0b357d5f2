"""Images with counts: from LYSTO's file, from a folder and a table, or from instance labels that are counted.

Three layouts, told apart by what is there, the first that fits:

1. ``lysto``: an HDF5 file, or a folder with ``training.h5`` (``wsikit.methods.counting.lysto``).
2. ``table``: a folder of images, or of ``images/``, and a table with the columns image (file name, with or without its
   suffix) and count, and patient, slide, organ, split where they are known: the one given, else ``counts.csv`` or
   ``training_labels.csv`` in the folder.
3. ``labels``: the same without a table, and an instance label image for each image: ``NAME_labels.png`` beside
   ``NAME.png``, or of the image's name in ``labels/`` or ``masks/``. A count is then the number of labels.

Every image has a count and every count an image; what lacks the other is an error and never left out in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsikit.errors import ConfigError
from wsikit.methods.counting.folders import image_files, rows_of_labels, rows_of_table
from wsikit.methods.counting.images import CountedImage
from wsikit.methods.counting.lysto import SUFFIXES, TRAINING, read_stack
from wsikit.methods.counting.tables import Row
from wsikit.training.images import ImageFile, ImageSet, PixelSource, kept_where_small, other_mpp
from wsikit.training.labels import labels_of
from wsikit.training.names import barcode

__all__ = ["CountedImage", "CountingData", "read_counts"]

TABLES = ("counts.csv", "training_labels.csv")


@dataclass(frozen=True, eq=False)
class CountingData(ImageSet[CountedImage]):
    """Images with counts. Made by ``read_counts``."""

    def said(self) -> list[tuple[object, ...]]:
        """Names, counts, groups and splits."""
        return [(one.name, one.count, one.patient, one.slide, one.organ, one.split) for one in self]


def read_counts(path: str | Path | None, *, counts: str | Path | None = None, mpp: float | None = None) -> CountingData:
    """All images of a data set, with their counts; pixels are read when they are asked for.

    Args:
        path: an HDF5 file of LYSTO's layout, a folder of images, or a table with its images beside it.
        counts: the table of counts, where it lies elsewhere or has another name; for an HDF5 file, a table with a row
            for each of its images in their order.
        mpp: um per px that the images are meant to have; a file that says another is warned of.

    Raises:
        ConfigError: code bad_counts: nothing there, an image without a count or a count without an image, a count that
            is not 0, 1, 2, ..., an image that is named twice, labels of another size than their image or that are masks
            without instances.
        SlideOpenError: a file that is no 8-bit colour image, or is unreadable.
        AnnotationError: a table or a label image that cannot be read.
    """
    if path is None:
        raise ConfigError("no data is given", code="bad_counts", remedy="data=FOLDER, or data=training.h5")
    path, table = Path(path), Path(counts) if counts is not None else None
    for given in (path, table):
        if given is not None and not given.exists():
            raise ConfigError(
                f"{given} does not exist", code="bad_counts", remedy="mind the folder that it is meant from"
            )
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        path, table = path.parent, table or path
    stack = path if path.is_file() else path / TRAINING
    if stack.is_file() and stack.suffix.lower() in SUFFIXES:
        rows, warnings = read_stack(stack, table)
        return _gathered("lysto", [_counted(row, source) for row, source in rows], warnings)
    if not path.is_dir():
        raise ConfigError(
            f"{path} is neither a folder nor an HDF5 file ({', '.join(SUFFIXES)})",
            code="bad_counts",
            remedy="give the folder that holds the images",
        )
    return _from_folder(path, table, mpp)


def _from_folder(folder: Path, table: Path | None, mpp: float | None) -> CountingData:
    table = table or next((folder / name for name in TABLES if (folder / name).is_file()), None)
    files = image_files(folder)
    truths = {path: labels_of(path, folder) for path in files}
    opened = {path: ImageFile.open(path) for path in files}
    if table is not None:
        rows = rows_of_table(table, files)
    else:
        rows = rows_of_labels([image for image, _ in opened.values()], truths, folder)
    images = [_counted(replace(row, image=path.name), opened[path][0], truths[path]) for path, row in rows.items()]
    warnings = other_mpp({path.name: own for path, (_, own) in opened.items() if own is not None}, mpp)
    return _gathered("labels" if table is None else "table", images, warnings)


def _counted(row: Row, source: PixelSource, truth: Path | None = None) -> CountedImage:
    assert row.image is not None
    assert row.count is not None
    slide, patient = barcode(Path(row.image).name)
    return CountedImage(
        name=row.image,
        count=row.count,
        source=source,
        patient=row.patient or patient,
        slide=row.slide or slide,
        organ=row.organ,
        split=row.split,
        truth=truth,
    )


def _gathered(kind: str, images: Sequence[CountedImage], warnings: Sequence[str]) -> CountingData:
    if not images:
        raise ConfigError("there are no images", code="bad_counts", remedy="give data with at least one image")
    if len({image.count for image in images}) == 1:
        said = f"all {len(images)} images have the count {images[0].count}: there is nothing to learn from them"
        warnings = [*warnings, said]
    return CountingData(kept_where_small(images), kind, tuple(warnings))
