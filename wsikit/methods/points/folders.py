"""Folders of images with a table, or with a file of labels for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsikit.annotations.annotations import summed
from wsikit.annotations.dots import DotImage
from wsikit.annotations.inside import points_of_labels
from wsikit.errors import ConfigError
from wsikit.methods.points import mo
from wsikit.methods.points.drawings import Drawn, read_dots, read_drawing
from wsikit.methods.points.images import CODE, NOTHING, Facts, Found, InstanceSource, LabelFile
from wsikit.methods.points.tables import IMAGES as IMAGES_TABLE
from wsikit.methods.points.tables import facts_of_images, points_of_table
from wsikit.training.images import SUFFIXES, ImageFile, image_paths
from wsikit.training.labels import BESIDE, FOLDERS, labels_of, numbers_and_pieces, refuse_masks
from wsikit.training.tables import SHOWN, refuse

IMAGES = ("images", "tissue images", "tissue_images")
"""Names of the folder of images, upper or lower case; the last two are MoNuSeg's."""
TABLE = "points.csv"
DOTS = tuple(suffix.removesuffix(".png") for suffix in DotImage.suffixes)
PLACES = (*mo.POINTS, "points", "dots", "annotations", "geojson", *FOLDERS)
"""Folders of files of labels, upper or lower case."""
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "geojson": (".geojson", ".geojson.gz"),
    "csv": (".csv", ".tsv"),
    "dots": tuple(f"{dots}.png" for dots in DOTS),
    "monuseg": (".xml",),
}
"""Kind -> what follows the image's name in that of its file of points; of several kinds the first is taken."""
OUTLINES = "monuseg"
"""The kind whose files hold outlines; instance labels beside them are taken in their place."""
MEASURED = ("validation", "test")
"""Splits of images that are measured by all of their nuclei."""


@dataclass(frozen=True, eq=False)
class Folder:
    """The images of a folder, opened, and where their labels may lie."""

    root: Path
    images: Mapping[Path, ImageFile]
    own_mpp: Mapping[str, float]
    """Name -> um per px that the file says, if it does."""
    labels: Path | None
    """The only folder of labels, if one is given."""
    facts: Mapping[Path, Facts]
    warnings: tuple[str, ...]

    @classmethod
    def open(cls, root: Path, labels: Path | None) -> Folder:
        """A folder. Raises ConfigError (code bad_points) where there are no images, and what opening them raises."""
        files = image_files(root)
        facts, warnings = _facts(root, files)
        files = [path for path in files if path in facts]
        opened = {path: ImageFile.open(path) for path in files}
        own = {path.name: mpp for path, (_, mpp) in opened.items() if mpp is not None}
        return cls(root, {path: image for path, (image, _) in opened.items()}, own, labels, facts, warnings)

    def labelled(self) -> dict[Path, Path]:
        """The label images that points may be taken from, of the images that have some."""
        found = {path: self._labels_of(path) for path in self.images}
        return {path: truth for path, truth in found.items() if truth is not None}

    def truths(self) -> dict[Path, Path]:
        """The same, and where a folder of labels is given that holds none, those in the usual places."""
        return self.labelled() or replace(self, labels=None).labelled()

    def _labels_of(self, image: Path) -> Path | None:
        if self.labels is None:
            return labels_of(image, self.root, (*mo.INSTANCES, *FOLDERS))
        apart = self.labels.resolve() != image.parent.resolve()
        return labels_of(self.labels / image.name, self.labels, (".",) if apart else ())

    def files(self, kind: str) -> dict[Path, Path]:
        """The files of points of one kind, of the images that have some."""
        places = [self.labels] if self.labels is not None else [None, *_below(self.root, PLACES)]
        return {path: file for path in self.images if (file := _file_of(path, places, kind)) is not None}


def image_files(root: Path) -> list[Path]:
    """The images of the folder ``images``, else of ``root`` itself, by name; no labels, no dots, no hidden files.

    Raises ConfigError (code bad_points) where there are none.
    """
    within = next(iter(_below(root, IMAGES)), root)
    found = [path for path in image_paths(within) if not path.stem.endswith((*BESIDE, *DOTS))]
    if not found:
        raise ConfigError(
            f"{within} holds no image ({', '.join(SUFFIXES)})",
            code=CODE,
            remedy="give the folder that holds the images themselves",
        )
    return found


def _below(root: Path, names: Sequence[str]) -> list[Path]:
    """Folders of a folder by their names, in the order of the names."""
    known = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return [known[name] for name in names if name in known]


def _file_of(image: Path, places: Iterable[Path | None], kind: str) -> Path | None:
    """The file of an image's points; None among the places is beside it."""
    for place in places:
        # in a folder of dots a dot image may have the name of its image
        bare = kind == "dots" and place is not None and place.name.lower() in (*mo.POINTS, "points", "dots")
        for ending in (*ENDINGS[kind], *([".png"] if bare else [])):
            path = (place or image.parent) / f"{image.stem}{ending}"
            if path.is_file() and path != image:
                return path
    return None


def _facts(root: Path, files: Sequence[Path]) -> tuple[dict[Path, Facts], tuple[str, ...]]:
    """What ``images.csv`` and the lists of the MO layout say of the images that they name."""
    said, splits = facts_of_images(root, files), mo.splits_of(root, files)
    if splits is None:
        return {path: said.get(path, NOTHING) for path in files}, ()
    refuse(
        [path.name for path, split in splits.items() if said.get(path, NOTHING).split not in (None, split)],
        f"images of {root} have another split in {mo.LISTS} than in {IMAGES_TABLE}",
        "say it in one of them",
        CODE,
    )
    without = [path.name for path in files if path not in splits]
    warnings = [f"{len(without)} images are in no list of {mo.LISTS} and were left out: {', '.join(without[:SHOWN])}"]
    facts = {path: Facts(split=splits[path]).over(said.get(path, NOTHING)) for path in files if path in splits}
    return facts, tuple(warnings if without else ())


def of_table(folder: Folder, table: Path, mpp: float | None) -> list[Found]:
    """Images with the points of a table. Raises as ``points_of_table`` does."""
    truths = folder.truths()
    return [
        Found(
            name=path.name,
            source=folder.images[path],
            where=row.where,
            points=row.points,
            truth=LabelFile(truths[path], folder.images[path].size) if path in truths else None,
            empty=not len(row.points),
            facts=row.facts.over(folder.facts[path]),
        )
        for path, row in points_of_table(table, [*folder.images], mpp).items()
    ]


def of_files(folder: Folder, mpp: float | None) -> tuple[str, list[Found], list[str]]:
    """Images with a file of points or of labels for each: their kind, the images, and what to warn of.

    Images for validation and test, which are measured by all of their nuclei, may have instance labels alone.

    Raises:
        ConfigError: code bad_points: an image without a file, or with one of another size, masks, discs for dots.
        AnnotationError: a file that cannot be read.
    """
    truths = folder.truths()
    kinds = [kind for kind in ENDINGS if kind != OUTLINES or not truths]
    kind, files = _first(folder, kinds)
    measured = {path: truth for path, truth in truths.items() if folder.facts[path].split in MEASURED}
    instances = folder.labelled() if kind == "labels" else measured
    refuse(
        [path.name for path in folder.images if path not in files and path not in instances],
        f"images of {folder.root} have no {'points and no labels' if kind == 'labels' else f'points as {kind}'}",
        "write a points.csv with the columns image, x and y; or NAME.geojson, NAME_points.png or NAME_labels.png for "
        "each, beside the images or in labels/",
        CODE,
    )
    drawn = {path: _read(kind, file, folder.images[path].size, mpp) for path, file in files.items()}
    found, seen = [], {}
    for path, image in folder.images.items():
        source = LabelFile(truths[path], image.size) if path in truths else None
        truth: InstanceSource | None = source
        if path in drawn:
            where, points, truth = files[path], drawn[path].points, source or drawn[path].truth
        else:
            assert source is not None
            where, labels = instances[path], source()
            points, seen[where.name] = points_of_labels(labels)[1], numbers_and_pieces(labels)
        found.append(Found(path.name, image, str(where), points, truth, facts=folder.facts[path]))
    refuse_masks(seen, folder.root, "give every nucleus a number of its own", CODE)
    return kind, found, _odd(drawn, files)


def _first(folder: Folder, kinds: Iterable[str]) -> tuple[str, dict[Path, Path]]:
    """The first kind that there is, and its files."""
    for kind in kinds:
        if files := folder.files(kind):
            return kind, files
    return "labels", {}


def _read(kind: str, path: Path, size: tuple[int, int], mpp: float | None) -> Drawn:
    if kind == "dots":
        return Drawn(read_dots(path, size))
    return read_drawing(path, size, outlines=kind == OUTLINES, mpp=mpp)


def _odd(drawn: Mapping[Path, Drawn], files: Mapping[Path, Path]) -> list[str]:
    said = []
    for what, counts in (
        ("areas beside points", {path: one.areas for path, one in drawn.items()}),
        ("lines, or points beside outlines", {path: one.others for path, one in drawn.items()}),
    ):
        first = next((path for path, count in counts.items() if count), None)
        if first is not None:
            said.append(f"{sum(counts.values())} {what} were left out, {counts[first]} of them in {files[first].name}")
    return said + summed({files[path].name: one.notes for path, one in drawn.items()})
