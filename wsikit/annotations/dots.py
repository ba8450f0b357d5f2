"""Dot images: a single pixel for each point, 255 on 0, as point data sets have them (``NAME_label_point.png``).

A dot is read as the middle of its pixel, so that a point comes back up to half a pixel away.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations.annotations import Annotations, Item, Placement, Written, gather
from wsikit.annotations.flat import LeftOut
from wsikit.annotations.inside import points_of_areas
from wsikit.annotations.instances import check_size, image_size, read_image

DOT = 255
BLOB = 4
"""Touching pixels that are no dots any more, but a disc, an object or a mask."""


class DotImage:
    """``_label_point.png`` (8 bits, one channel); points are detections. The name tells it from a label image."""

    suffixes: ClassVar[tuple[str, ...]] = ("_label_point.png", "_points.png", "_point.png", "_dots.png")

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return head[:4] == b"\x89PNG"

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read an image: every pixel above 0 is a point. What looks like discs or like labels is noted.

        Raises AnnotationError where it is none, has colours, or does not cover the slide.
        """
        image = read_image(path)
        check_size(path, image, placement)
        points = points_of_dots(image) * placement.downsample
        values, blobs = np.setdiff1d(image, [0]), count_blobs(image)
        notes = []
        if len(values) > 1:
            notes.append(f"pixels have {len(values)} values beside 0, as those of label images have: left out")
        if blobs:
            notes.append(f"{blobs} x {BLOB} and more touching pixels, as of a disc or a mask: each pixel is a point")
        return gather([Item("detection", shapely.Point(xy)) for xy in points], {}, notes)

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """Points, and areas as the pixel of theirs that is nearest to their centroid, which is said; no lines.

        Raises AnnotationError for too large an image.
        """
        left_out = LeftOut()
        items = list(annotations.items())
        left_out.lacking(items, "class", "names", "colors", "locks", "measurements", "nuclei")
        left_out["objects that are no detections: detections in this format"] += sum(
            item.kind != "detection" for item in items
        )
        shapes = np.empty(len(items), object)
        shapes[:] = [item.geometry for item in items]
        shapes = shapely.transform(shapes, lambda xy: xy / placement.downsample)
        points, areas = _points(shapes, left_out), shapes[shapely.get_dimensions(shapes) == 2]
        # a point on the left edge of a pixel is in that pixel
        width, height = image_size(np.append(areas, shapely.points(np.floor(points) + 1)), placement)
        middles = points_of_areas(areas, width, height)
        empty = np.isnan(middles[:, 0])
        left_out["areas: a pixel inside each"] += len(areas)
        left_out["areas that hold no pixel's centre: left out"] += int(empty.sum())
        image = _dotted(np.concatenate([points, middles[~empty]]), width, height, left_out)
        return Written(_encoded(image), left_out.sentences())


def points_of_dots(image: NDArray[np.integer]) -> NDArray[np.float64]:
    """(N, 2) x, y of the middles of all pixels above 0, in px of the image, row by row."""
    rows, columns = np.nonzero(image)
    return np.stack([columns, rows], axis=1).astype(np.float64) + 0.5


def count_blobs(image: NDArray[np.integer]) -> int:
    """In how many places at least ``BLOB`` pixels above 0 touch one another, by edges or corners."""
    from scipy import ndimage

    parts, _ = ndimage.label(image, np.ones((3, 3)))
    return int((np.bincount(parts.ravel())[1:] >= BLOB).sum())


def _points(shapes: NDArray[np.object_], left_out: LeftOut) -> NDArray[np.float64]:
    dimension = shapely.get_dimensions(shapes)
    left_out["lines: left out"] += int((dimension == 1).sum())
    several = shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOINT
    left_out["objects with several points: each is an object now"] += int(several.sum())
    return np.asarray(shapely.get_coordinates(shapes[dimension == 0]), np.float64)


def _dotted(points: NDArray[np.float64], width: int, height: int, left_out: LeftOut) -> NDArray[np.uint8]:
    columns, rows = np.floor(points).astype(np.int64).T
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    left_out["points outside of the image: left out"] += int((~inside).sum())
    image = np.zeros((height, width), np.uint8)
    image[rows[inside], columns[inside]] = DOT
    left_out["points in the pixel of another: left out"] += int(inside.sum() - np.count_nonzero(image))
    moved = inside & (np.abs(points - np.floor(points) - 0.5) > 1e-6).any(axis=1)
    left_out["points: moved to the middle of their pixel"] += int(moved.sum())
    return image


def _encoded(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
