"""What a training set needs of annotations: class masks, instance masks and class shares of any region.

A pixel belongs to what its centre lies in. Where areas of different objects overlap the smaller has the pixel, so that
what is drawn inside something else is seen; of equal ones the later in the file. Outlines that cross themselves count
by the even-odd rule. A MultiPolygon is one object. A cell is what its boundary encloses, also where it has a nucleus:
for masks of nuclei see ``Annotations.by_nucleus``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations.annotations import IGNORE, Annotations
from wsikit.errors import AnnotationError
from wsikit.geometry import HasMpp, Region
from wsikit.outlines import pixels


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """All areas of an annotation file, part by part, so that those of a region are found fast."""

    parts: NDArray[np.object_]
    """(M,) Polygons in level-0 pixels of the full plane, the largest first."""
    labels: NDArray[np.int64]
    """(M,) of the object that each part is of; -1 for no class."""
    objects: NDArray[np.int64]
    """(M,) which object each part is of, counted over all object types in file order."""
    tree: shapely.STRtree


@lru_cache(maxsize=8)
def _drawn(annotations: Annotations) -> _Drawn:
    geometries = np.concatenate([np.zeros(0, object), *(f.geometries for f in annotations.features)])
    labels = np.concatenate([np.zeros(0, np.int64), *(f.labels for f in annotations.features)])
    areas = np.flatnonzero(shapely.get_dimensions(geometries) == 2)
    order = areas[np.lexsort((areas, -shapely.area(geometries[areas])))]
    parts, owner = shapely.get_parts(geometries[order], return_index=True)
    return _Drawn(parts, labels[order][owner], order[owner], shapely.STRtree(parts))


def _painted(
    annotations: Annotations, region: Region, slide: HasMpp, chosen: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of a region in the order of painting, and which part of ``_Drawn`` each pixel is of."""
    drawn = _drawn(annotations)
    near = np.sort(drawn.tree.query(shapely.box(*region.level0(slide))))
    near = near[np.isin(drawn.labels[near], chosen)]
    scale = slide.mpp / region.mpp
    rows, columns, part = pixels(shapely.transform(drawn.parts[near], lambda xy: xy * scale), region)
    return rows, columns, near[part]


def class_mask(
    annotations: Annotations,
    region: Region,
    slide: HasMpp,
    classes: Sequence[str],
    *,
    unlabelled: int = 0,
    ignore: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """See ``Annotations.class_mask``."""
    if not 1 <= len(classes) < IGNORE or not 0 <= unlabelled <= IGNORE or set(classes) & set(ignore):
        raise AnnotationError(
            f"a class mask needs 1 to {IGNORE - 1} classes, none of them ignored, and a value of 0 to {IGNORE} for "
            f"what is unlabelled; got {list(classes)}, ignore {list(ignore)}, unlabelled {unlabelled}"
        )
    mask = np.full((region.height, region.width), unlabelled, np.uint8)
    chosen = annotations.chosen(classes)
    value = np.zeros(len(annotations.labels) + 1, np.uint8)
    value[chosen] = np.arange(1, len(chosen) + 1)
    rows, columns, part = _painted(annotations, region, slide, chosen)
    # numpy assigns in order: the smaller one has the pixel
    mask[rows, columns] = value[_drawn(annotations).labels[part]]
    if ignore:
        rows, columns, _ = _painted(annotations, region, slide, annotations.chosen(ignore))
        mask[rows, columns] = IGNORE
    return mask


def instance_mask(
    annotations: Annotations, region: Region, slide: HasMpp, classes: Sequence[str] = ()
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """See ``Annotations.instance_mask``."""
    drawn = _drawn(annotations)
    chosen = annotations.chosen(classes)
    mask = np.zeros((region.height, region.width), np.uint32)
    rows, columns, part = _painted(annotations, region, slide, chosen)
    wanted = np.isin(drawn.labels, chosen)
    objects, first = np.unique(drawn.objects[wanted], return_index=True)
    mask[rows, columns] = np.searchsorted(objects, drawn.objects[part]) + 1
    return mask, drawn.labels[wanted][first]


def class_shares(
    annotations: Annotations, region: Region, slide: HasMpp, classes: Sequence[str], *, ignore: Sequence[str] = ()
) -> NDArray[np.float64]:
    """See ``Annotations.class_shares``."""
    mask = class_mask(annotations, region, slide, classes, ignore=ignore)
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    counted = counts[:IGNORE].sum()
    return counts[1 : len(classes) + 1] / counted if counted else np.full(len(classes), np.nan)
