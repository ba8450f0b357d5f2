"""Folders of images with a file of labels for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsikit.annotations.inside import points_of_labels
from wsikit.errors import ConfigError
from wsikit.methods.points.images import CODE, LabelFile, PointImage, checked
from wsikit.training.images import SUFFIXES, ImageFile, image_paths
from wsikit.training.labels import BESIDE, numbers_and_pieces, refuse_masks
from wsikit.training.names import barcode
from wsikit.training.tables import refuse


def image_files(folder: Path) -> list[Path]:
    """The images of ``folder/images``, else of ``folder``, by name; no label images, no hidden files.

    Raises ConfigError (code bad_points) where there are none.
    """
    within = folder / "images" if (folder / "images").is_dir() else folder
    found = [path for path in image_paths(within) if not path.stem.endswith(BESIDE)]
    if not found:
        raise ConfigError(
            f"{within} holds no image ({', '.join(SUFFIXES)})",
            code=CODE,
            remedy="give the folder that holds the images themselves",
        )
    return found


def of_labels(
    folder: Path, opened: Mapping[Path, ImageFile], truths: Mapping[Path, Path | None], allow_empty: bool
) -> list[PointImage]:
    """Images with the points of their instance labels.

    Raises:
        ConfigError: code bad_points: an image without labels, labels without an instance or of another size than their
            image, or masks.
        AnnotationError: a label image cannot be read.
    """
    refuse(
        [path.name for path, truth in truths.items() if truth is None],
        f"images of {folder} have neither points nor labels",
        "write a points.csv with the columns image, x and y; or NAME.geojson, or NAME_labels.png, for each",
        CODE,
    )
    found, seen = [], {}
    for path, truth in truths.items():
        assert truth is not None
        source = LabelFile(truth, opened[path].size)
        labels = source()
        seen[truth.name] = numbers_and_pieces(labels)
        points, _ = checked(points_of_labels(labels)[1], source.size, str(truth), empty=allow_empty)
        slide, patient = barcode(path.name)
        found.append(
            PointImage(name=path.name, source=opened[path], points=points, truth=source, slide=slide, patient=patient)
        )
    refuse_masks(seen, folder, "give every nucleus a number of its own", CODE)
    return found
