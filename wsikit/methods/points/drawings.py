"""Points of what was drawn: QuPath's GeoJSON, MoNuSeg's Aperio XML, tables and dot images, a file for each image."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations import Annotations, read_annotations
from wsikit.annotations.dots import BLOB, count_blobs, points_of_dots
from wsikit.annotations.inside import points_of_areas, points_of_labels
from wsikit.errors import ConfigError
from wsikit.geometry import Region
from wsikit.methods.points.images import CODE, InstanceSource
from wsikit.training.labels import read_labels


@dataclass(frozen=True, slots=True)
class _Frame:
    """An image's own pixels: what a lattice is counted from."""

    mpp: float = 1.0


@dataclass(frozen=True, slots=True)
class DrawnInstances:
    """The areas of an annotation file as instances; a file of outlines takes long to read, and is read once."""

    packed: bytes
    """(H, W) int64, compressed: 0.1 to 0.2 bytes a pixel where nuclei are crowded, the image itself has 3."""
    size: tuple[int, int]
    """(width, height) of the image."""

    @classmethod
    def of(cls, instances: NDArray[np.int64]) -> DrawnInstances:
        """Keep (H, W) instances."""
        return cls(zlib.compress(instances.tobytes(), 1), (instances.shape[1], instances.shape[0]))

    def __call__(self) -> NDArray[np.int64]:
        """(H, W); areas are numbered 1, 2, ... in the order of the file, and where they overlap the smaller one has the
        pixel."""
        width, height = self.size
        return np.frombuffer(zlib.decompress(self.packed), np.int64).reshape(height, width).copy()


def _instances(annotations: Annotations, size: tuple[int, int]) -> NDArray[np.int64]:
    return annotations.instance_mask(Region(0, 0, *size, 1.0), _Frame())[0].astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What a file holds for an image."""

    points: NDArray[np.float64]
    """(n, 2) x, y in px of the image."""
    truth: InstanceSource | None = None
    areas: int = 0
    """Areas that are left out, since points lie beside them."""
    others: int = 0
    """Lines, and points beside areas that count."""
    notes: tuple[str, ...] = ()
    """What else was left out or changed, as in ``Annotations.notes``."""


def read_drawing(path: Path, size: tuple[int, int], *, outlines: bool, mpp: float | None = None) -> Drawn:
    """The points of an annotation file in px of the image.

    1. Points count where there are any, and areas beside them do not: a region of interest is no nucleus. With
       ``outlines``, areas count where there are any, and a stray click beside them does not.
    2. An area is a nucleus; that of a cell which has a nucleus is this one, not the cell's boundary. Its point is that
       pixel of its instance which is nearest to the middle. One that lies under smaller ones as a whole has the point
       that it would have alone, one that is too small for a pixel any of its own.

    Args:
        path: GeoJSON, XML or a table.
        size: (width, height) of the image.
        outlines: which of both counts where a file has both.
        mpp: um per px of the image, for tables in um.

    Raises AnnotationError where it cannot be read.
    """
    read = read_annotations(path, mpp=mpp)
    annotations = read.by_nucleus()
    shapes = np.concatenate([np.zeros(0, object), *(features.geometries for features in annotations.features)])
    shapes = shapes[~shapely.is_empty(shapes)]
    dimension = shapely.get_dimensions(shapes)
    points, areas = shapes[dimension == 0], shapes[dimension == 2]
    if len(areas) and (outlines or not len(points)):
        instances = _instances(annotations, size)
        found = _points_of_areas(areas, instances, size)
        others = len(shapes) - len(areas)
        return Drawn(found, DrawnInstances.of(instances), others=others, notes=annotations.notes)
    clicked = np.asarray(shapely.get_coordinates(points), np.float64)
    return Drawn(clicked, areas=len(areas), others=_lines(dimension), notes=read.notes)


def _lines(dimension: NDArray[np.integer]) -> int:
    return int((dimension == 1).sum())


def _points_of_areas(
    areas: NDArray[np.object_], instances: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.float64]:
    found = points_of_areas(areas, *size)
    numbers, seen = points_of_labels(instances)
    found[numbers - 1] = seen
    lost = np.isnan(found[:, 0])
    # an outline may cross itself, what is mended has an inside
    found[lost] = shapely.get_coordinates(shapely.point_on_surface(shapely.make_valid(areas[lost])))
    return found


def read_dots(path: Path, size: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 2) x, y of the points of a dot image.

    Raises AnnotationError for what is no image of one channel, ConfigError (code bad_points) for one of another size
    than its image, or of discs or areas in place of dots.
    """
    image = read_labels(path, size, CODE)
    blobs = count_blobs(image)
    if blobs:
        raise ConfigError(
            f"{path} holds no dots: in {blobs} places {BLOB} or more of its pixels touch one another",
            code=CODE,
            remedy="give each nucleus one pixel; instance labels are called NAME_labels.png, or lie in labels/",
        )
    return points_of_dots(image)
