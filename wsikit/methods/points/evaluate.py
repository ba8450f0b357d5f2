"""How good a checkpoint is on images that it did not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.geometry import Region
from wsikit.methods.points.config import Config
from wsikit.methods.points.data import PointImage
from wsikit.methods.points.predict import NucleiOutlines
from wsikit.metrics import Ratio, aji, dice, match_points, object_scores, overlaps
from wsikit.outlines import pixels
from wsikit.predictions import Batch, Objects
from wsikit.slides.array import array_slide
from wsikit.tissue import TissueMask

WHOLE = 32
"""Windows are whole multiples of it, px."""
RADIUS_UM = 3.0
"""A found point counts as that of a nucleus within this distance."""


def look(predictor: NucleiOutlines, image: NDArray[np.uint8], mpp: float) -> Objects:
    """Run a predictor over one image as over a slide of its size, in one window.

    Args:
        predictor: unbound.
        image: (H, W, 3) RGB.
        mpp: of the image; the predictor sees it at its own.

    Returns:
        The nuclei whose centre of mass lies in the image, in the window's frame (``region``), which begins a halo
        before the image.
    """
    slide = array_slide(image, mpp)
    bound = predictor.prepare(slide, TissueMask.whole(slide))
    plane, halo = slide.plane(slide.resolve(predictor.tile.mpp)), predictor.tile.halo
    region = Region(-halo, -halo, _whole(plane.width + 2 * halo), _whole(plane.height + 2 * halo), plane.mpp)
    (found,) = bound.predict(Batch(slide.read(region)[None], (region,)))
    return found


def _whole(side: int) -> int:
    return -(-side // WHOLE) * WHOLE


def painted(found: Objects, shape: tuple[int, int], mpp: float) -> NDArray[np.int64]:
    """(H, W) labels from 1, in the order of the objects, of an image with so many um per px."""
    region = found.region
    scale = region.mpp / mpp
    shift = np.array([region.x, region.y])
    outlines = shapely.transform(found.outlines, lambda xy: (xy + shift) * scale)
    rows, columns, owner = pixels(outlines, Region(0, 0, shape[1], shape[0], mpp))
    labels = np.zeros(shape, np.int64)
    labels[rows, columns] = owner + 1
    return labels


def centres(found: Objects) -> NDArray[np.float64]:
    """(N, 2) x, y of the centres of mass in um of the slide."""
    region = found.region
    middles = found.moments[:, :2] / found.moments[:, 2:] + 0.5 + (region.x, region.y)
    return np.asarray(middles * region.mpp)


def dataset(config: Config, split: str) -> Sequence[PointImage]:
    """The images of a split: train, validation or test.

    Raises ConfigError: no data, or a split that is none.
    """
    from wsikit.methods.points.train import split_data

    data, splits = split_data(config)
    return [data[i] for i in splits.of(split)]


def evaluate(predictor: NucleiOutlines, dataset: Sequence[PointImage]) -> dict[str, float]:
    """Metrics over images, pooled; empty where there are none.

    F1, precision and recall of points within ``RADIUS_UM``; where masks are known the F1 of objects at IoU 0.5, PQ, AJI
    and Dice.
    """
    if not dataset:
        return {}
    ratios: dict[str, Ratio] = {}
    for image in dataset:
        for name, ratio in _of_image(predictor, image).items():
            ratios[name] = ratios[name] + ratio if name in ratios else ratio
    return {"images": float(len(dataset)), **{name: ratio.value for name, ratio in ratios.items()}}


def _of_image(predictor: NucleiOutlines, image: PointImage) -> dict[str, Ratio]:
    mpp = predictor.config.mpp
    said = look(predictor, image.read(), mpp)
    matched = match_points(image.points * mpp, centres(said), radius=RADIUS_UM)
    scores = {
        "detection_f1": matched.f1,
        "detection_precision": matched.precision,
        "detection_recall": matched.recall,
    }
    truth = image.instances()
    return scores if truth is None else scores | mask_scores(truth, painted(said, truth.shape, mpp))


def mask_scores(truth: NDArray[np.integer], found: NDArray[np.integer]) -> dict[str, Ratio]:
    """Of two label images (H, W)."""
    both = overlaps(truth, found)
    objects = object_scores(both)
    return {"object_f1": objects["object_f1"], "pq": objects["pq"], "aji": aji(both), "dice": dice(both)}
