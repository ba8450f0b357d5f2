"""Images with the points of their nuclei, of whatever layout; told apart by what is there, the first that fits:

1. ``pannuke``: ``images.npy`` somewhere below the folder, with its ``masks.npy`` (``wsikit.methods.points.arrays``).
2. ``consep``: ``Images`` and ``Labels`` with MATLAB files, also in ``Train`` and ``Test``
   (``wsikit.methods.points.consep``).
3. ``table``: a folder of images, or of ``images/``, and the table given, else ``points.csv``: the columns image, x and
   y, a row for each point (``wsikit.methods.points.tables``).
4. The same with a file for each image, beside it or in a folder of labels, of the first kind that there is:
   ``geojson`` (``NAME.geojson`` of QuPath), ``csv`` (``NAME.csv`` with x and y), ``dots`` (``NAME_label_point.png``,
   ``NAME_points.png``), ``labels`` (``NAME_labels.png``), ``monuseg`` (Aperio's ``NAME.xml``). It is ``mo`` where there
   are the folders ``labels_instance`` or ``labels_point``, or the lists ``train_val_test.json``, which then say the
   splits.

Coordinates are px of the image, pixel-corner convention. The point of an instance is that of its pixels which is
nearest to their middle. What else is known of images (patient, slide, organ, split) is said by the table of points, or
by ``images.csv``; TCGA barcodes in names say slide and patient. Every image has labels and every label an image; what
lacks the other is an error and never left out in silence.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsikit.annotations.inside import points_of_labels
from wsikit.errors import ConfigError
from wsikit.methods.points.arrays import of_stacks, stacks
from wsikit.methods.points.consep import MatInstances, mat_files
from wsikit.methods.points.folders import TABLE, Folder, of_files, of_table
from wsikit.methods.points.images import CODE, Facts, Found, PointImage, sampled
from wsikit.methods.points.mo import is_mo
from wsikit.training.images import LOOKED_AT, ImageFile, ImageSet, kept_where_small, other_mpp
from wsikit.training.tables import refuse

__all__ = ["PointData", "PointImage", "read_points", "sampled"]

TABLES = (".csv", ".tsv")


@dataclass(frozen=True, eq=False)
class PointData(ImageSet[PointImage]):
    """Images with points. Made by ``read_points``.

    Their kind is the layout, mo, monuseg, pannuke or consep, else what holds the points: table, geojson, csv, dots or
    labels.
    """

    def sampled(self, ratio: float, seed: int) -> PointData:
        """The same images with a share of the points of each: see ``wsikit.methods.points.images.sampled``."""
        return replace(self, images=tuple(image.sampled(ratio, seed) for image in self.images))

    def said(self) -> list[tuple[object, ...]]:
        """Names, points, groups and splits, and instances, which full masks are learned from. Raises what
        ``PointImage.instances`` raises."""
        step = max(1, len(self) // LOOKED_AT)
        return [
            (
                *(one.name, one.points.tolist(), one.patient, one.slide, one.organ, one.split),
                _sha256(one) if one.keep or index % step == 0 else one.truth is not None,
            )
            for index, one in enumerate(self)
        ]


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
        path: a folder of one of the layouts, or a table with its images beside it.
        labels: the table of points, or the folder of files of points or labels, where they lie elsewhere or have other
            names.
        mpp: um per px that the images are meant to have: for tables in um; and a file that says another is warned of.
        allow_empty: whether labels may hold no point, of images without any nucleus. Without it only those may that say
            so themselves: a row of a table with nothing in x and y, a background of PanNuke that fills the image.

    Raises:
        ConfigError: code bad_points: nothing there; an image without labels, or labels without an image; labels without
            a point, which may be empty on purpose as said above, and not all; a point outside of its image; labels of
            another size than their image, masks, or discs in place of dots.
        SlideOpenError: a file that is no 8-bit colour image, or is unreadable.
        AnnotationError: a file of labels that cannot be read.
    """
    root, table, elsewhere = _located(path, labels)
    if table is None and elsewhere is None:
        folds = stacks(root)
        if folds:
            return _gathered("pannuke", of_stacks(root, folds), [], allow_empty)
        mats = mat_files(root)
        if mats:
            return _gathered("consep", *_of_mats(mats, mpp), allow_empty)
    folder = Folder.open(root, elsewhere)
    warnings = [*folder.warnings, *other_mpp(folder.own_mpp, mpp)]
    table = table or (root / TABLE if elsewhere is None and (root / TABLE).is_file() else None)
    if table is not None:
        return _gathered("table", of_table(folder, table, mpp), warnings, allow_empty)
    kind, found, odd = of_files(folder, mpp)
    return _gathered("mo" if is_mo(root) else kind, found, [*warnings, *odd], allow_empty)


def _located(path: str | Path | None, labels: str | Path | None) -> tuple[Path, Path | None, Path | None]:
    """The folder of the data; the table of points, and the folder of labels, as far as they are given."""
    if path is None:
        raise ConfigError("no data is given", code=CODE, remedy="data=FOLDER")
    root, given = Path(path), Path(labels) if labels is not None else None
    for each in (root, given):
        if each is not None and not each.exists():
            raise ConfigError(f"{each} does not exist", code=CODE, remedy="mind the folder that it is meant from")
    if root.is_file() and root.suffix.lower() in TABLES:
        root, given = root.parent, given or root
    if not root.is_dir() or (given is not None and given.is_file() and given.suffix.lower() not in TABLES):
        raise ConfigError(
            f"{root if not root.is_dir() else given} is neither a folder nor a table ({', '.join(TABLES)})",
            code=CODE,
            remedy="give the folder that holds the images, and the table or the folder of their points",
        )
    if given is None or given.is_dir():
        return root, None, given
    return root, given, None


def _of_mats(files: Sequence[tuple[Path, Path, str | None]], mpp: float | None) -> tuple[list[Found], list[str]]:
    """CoNSeP's images, and what to warn of."""
    found: list[Found] = []
    own: dict[str, float] = {}
    for path, mat, split in files:
        image, said = ImageFile.open(path)
        truth = MatInstances(mat, image.size)
        points = points_of_labels(truth())[1]
        found.append(Found(path.name, image, str(mat), points, truth, facts=Facts(split=split)))
        own |= {path.name: said} if said is not None else {}
    return found, other_mpp(own, mpp)


def _gathered(kind: str, found: Iterable[Found], warnings: Sequence[str], allow_empty: bool) -> PointData:
    pairs = [each.image(allow_empty=allow_empty) for each in found]
    images, twice = [image for image, _ in pairs], {image.name: count for image, count in pairs if count}
    named = Counter(image.name for image in images)
    same = [name for name, count in named.items() if count > 1]
    refuse(same, "names are those of several images", "rename them: splits and draws of points go by names", CODE)
    if not any(len(image.points) for image in images):
        raise ConfigError(
            f"none of {len(images)} images has a point: there is nothing to learn from them",
            code=CODE,
            remedy="mark nuclei in some of the images",
        )
    if twice:
        name, count = next(iter(twice.items()))
        said = f"{sum(twice.values())} points lie in the pixel of another and were left out, {count} of them in {name}"
        warnings = [*warnings, said]
    return PointData(kept_where_small(images), kind, tuple(warnings))
