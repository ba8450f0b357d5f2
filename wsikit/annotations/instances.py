"""Label images: every pixel has the number of its object, 0 is background.

Objects become outlines through the midpoints of their pixels' edges, whose pixels are exactly the object's again. A
number with several parts is one object of several parts.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations.annotations import Annotations, Item, Placement, Written, gather
from wsikit.annotations.flat import LeftOut
from wsikit.errors import AnnotationError
from wsikit.geometry import Region

MAX_PIXELS = 1 << 29
"""Largest label image that is written or read: 2 GB as 32 bits."""
_LIMIT = threading.Lock()


class LabelImage:
    """``.png`` (8 or 16 bits) and ``.tif`` (to 32 bits); objects are detections."""

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".tif", ".tiff")

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first bytes of a file look like this format."""
        return head[:4] in (b"\x89PNG", b"II*\0", b"MM\0*")

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read an image. Raises AnnotationError where it is none, has colours, or does not cover the slide."""
        image = read_image(path)
        check_size(path, image, placement)
        scale = placement.downsample
        shapes = shapely.transform(_objects(image), lambda xy: xy * scale)
        return gather([Item("detection", shape) for shape in shapes])

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """Areas numbered 1, 2, ... in order; where they overlap the later one has the pixel.

        Raises AnnotationError for more objects than the pixels of the format can number, too large an image, or objects
        none of which is an area.
        """
        left_out = LeftOut()
        items = list(annotations.items())
        left_out.lacking(items, "class", "names", "colors", "locks", "measurements", "nuclei")
        left_out["objects that are no detections: detections in this format"] += sum(
            item.kind != "detection" for item in items
        )
        areas = [item.geometry for item in items if shapely.get_dimensions(item.geometry) == 2]
        if items and not areas:
            raise AnnotationError(
                f"{path.name} would be empty: none of {len(items)} objects is an area, and a point says nothing of the "
                "outline of what it marks",
                code="not_representable",
                remedy=f"write dots (--to dots, {path.stem}_points.png), or let a model find the outlines",
            )
        left_out["points and lines: left out"] += len(items) - len(areas)
        image = _painted(areas, placement, left_out)
        return Written(_encoded(image, path), left_out.sentences())


def read_image(path: Path) -> NDArray[np.int64]:
    """(H, W) whole numbers of an image of one channel. Raises AnnotationError for others, and above ``MAX_PIXELS``."""
    from PIL import Image

    try:
        try:
            mode, values = _decoded(path)
        except Image.DecompressionBombError:
            with _without_limit():
                mode, values = _decoded(path)
    except AnnotationError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnnotationError(f"{path} is not a readable image: {error}") from error
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_):
        raise AnnotationError(
            f"{path.name} is no label image: its mode is {mode}, one channel of whole numbers is needed",
            remedy="save the labels as 8- or 16-bit grey PNG, or as 32-bit TIFF",
        )
    if values.min(initial=0) < 0:
        raise AnnotationError(f"{path.name}: labels must not be negative")
    return values.astype(np.int64)


def _decoded(path: Path) -> tuple[str, NDArray[np.generic]]:
    """Mode and pixels. Raises AnnotationError, before anything is decoded, for more pixels than ``MAX_PIXELS``."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise AnnotationError(
                f"{path.name} is {width}x{height} px; an image of labels, dots or classes has at most {MAX_PIXELS} px",
                remedy="save it at a lower resolution (wsikit convert takes --downsample), or cut slide and labels "
                "into smaller fields",
            )
        return image.mode, np.asarray(image)


@contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow's limit is one of the whole process and below ``MAX_PIXELS``: taken away for one image, then as it was."""
    from PIL import Image

    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_size(path: Path, image: NDArray[np.int64], placement: Placement) -> None:
    """Raise AnnotationError where an image does not cover its slide."""
    if placement.size is None:
        return
    height, width = image.shape
    wanted = [math.ceil(v / placement.downsample - 1e-6) for v in placement.size]
    # the last pixel may lie partly outside, or be left out
    if abs(width - wanted[0]) > 1 or abs(height - wanted[1]) > 1:
        raise AnnotationError(
            f"{path.name} is {width}x{height} px; a label image of a {placement.size[0]}x{placement.size[1]} px slide "
            f"at 1/{placement.downsample:g} of its resolution is {wanted[0]}x{wanted[1]} px",
            remedy="say with --downsample how many level-0 pixels a pixel of the image is",
        )


def _objects(image: NDArray[np.int64]) -> NDArray[np.object_]:
    """The objects in the order of their numbers; (x, y) in pixels of the image."""
    from skimage.measure import label as label_parts

    from wsikit.outlines import outlines

    parts = label_parts(image, background=0, connectivity=1)
    _, shapes = outlines(parts, tolerance=0)
    numbers, first = np.unique(parts, return_index=True)
    owner = image.ravel()[first[numbers > 0]]
    order = np.argsort(owner, kind="stable")
    owner, shapes = owner[order], shapes[order]
    groups = np.split(shapes, np.flatnonzero(np.diff(owner)) + 1) if len(shapes) else []
    found = np.empty(len(groups), object)
    found[:] = [group[0] if len(group) == 1 else shapely.MultiPolygon(group.tolist()) for group in groups]
    return found


def _painted(areas: list[shapely.Geometry], placement: Placement, left_out: LeftOut) -> NDArray[np.uint32]:
    from wsikit.outlines import pixels

    shapes = np.empty(len(areas), object)
    shapes[:] = areas
    scale = placement.downsample
    shapes = shapely.transform(shapes, lambda xy: xy / scale)
    width, height = image_size(shapes, placement)
    left_out["objects that reach outside the image: cut"] += int(
        ((shapely.bounds(shapes) < 0) | (shapely.bounds(shapes) > [width, height, width, height])).any(axis=1).sum()
    )
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rows, columns, part = pixels(parts, Region(0, 0, width, height, 1.0))
    image = np.zeros((height, width), np.uint32)
    # numpy assigns in order: the later object has the pixel
    image[rows, columns] = owner[part] + 1
    drawn = np.bincount(owner[part], minlength=len(shapes))
    seen = np.bincount(image.ravel(), minlength=len(shapes) + 1)[1:]
    left_out["objects that hold no pixel's centre: left out"] += int((drawn == 0).sum())
    left_out["objects partly under later ones: cut"] += int((seen < drawn).sum())
    return image


def image_size(shapes: NDArray[np.object_], placement: Placement) -> tuple[int, int]:
    """(width, height) of the image of a slide, which without one ends with the last of the objects (in its pixels).

    Raises AnnotationError where that is too large to be written.
    """
    if placement.size is not None:
        width, height = (max(1, math.ceil(v / placement.downsample - 1e-6)) for v in placement.size)
    else:
        right, bottom = shapely.total_bounds(shapes)[2:] if len(shapes) else (1, 1)
        width, height = max(1, math.ceil(right)), max(1, math.ceil(bottom))
    if width * height > MAX_PIXELS:
        raise AnnotationError(
            f"an image of {width}x{height} px is too large", remedy="write it smaller, with --downsample"
        )
    return width, height


def _encoded(image: NDArray[np.uint32], path: Path) -> bytes:
    from PIL import Image

    largest = int(image.max(initial=0))
    png = path.suffix.lower() == ".png"
    if png and largest >= 1 << 16:
        raise AnnotationError(
            f"{largest} objects do not fit into a PNG of 16 bits", remedy="write a .tif, which has 32 bits"
        )
    small = image.astype(np.uint8 if largest < 256 else np.uint16 if largest < 1 << 16 else np.int32)
    out = io.BytesIO()
    Image.fromarray(small).save(out, "PNG" if png else "TIFF", **({} if png else {"compression": "tiff_adobe_deflate"}))
    return out.getvalue()
