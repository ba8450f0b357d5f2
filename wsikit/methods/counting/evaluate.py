"""How good a checkpoint is on images that it did not see: counts always, cells where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Region
from wsikit.methods.counting.config import LYSTO_EDGES, Config
from wsikit.methods.counting.data import CountedImage
from wsikit.methods.counting.instances import STRIDE
from wsikit.methods.counting.model import WHOLE
from wsikit.methods.counting.predict import CellOutlines, CellPoints
from wsikit.methods.counting.pseudo import cleaned, strength
from wsikit.metrics import Ratio, bin_counts, dice, match_points, object_scores, overlaps, quadratic_weighted_kappa
from wsikit.outlines import pixels
from wsikit.predictions import Batch, Objects, Points

Predictor = CellOutlines | CellPoints


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a predictor says of one image."""

    count: float
    """Sum of the density."""
    points: NDArray[np.float64]
    """(N, 2) x, y of cells, the surest first."""
    labels: NDArray[np.int64] | None
    """(H, W) cells; None where the predictor gives points."""

    def top(self) -> NDArray[np.float64]:
        """The surest points, as many as were counted; fewer where there are not so many, never padded."""
        return self.points[: round(self.count)]


def look(predictor: Predictor, image: NDArray[np.uint8], mpp: float) -> Found:
    """Run a predictor over one image as over a slide of its size."""
    height, width = image.shape[:2]
    halo = predictor.tile.halo
    region = Region(-halo, -halo, _whole(width + 2 * halo), _whole(height + 2 * halo), mpp)
    framed = np.full((region.height, region.width, 3), 255, np.uint8)
    framed[halo : halo + height, halo : halo + width] = image
    bound = replace(predictor, size=(width, height))
    (said,) = bound.predict(Batch(framed[None], (region,)))
    first, cells = halo // STRIDE, said.density
    assert cells is not None
    count = float(
        cells[first : first + -(-height // STRIDE), first : first + -(-width // STRIDE)].sum(dtype=np.float64)
    )
    centres = (said.moments[:, :2] / said.moments[:, 2:] + 0.5 if isinstance(said, Objects) else said.xy) - halo
    inside = np.asarray(((centres >= 0) & (centres < (width, height))).all(axis=1))
    order = np.flatnonzero(inside)[np.argsort(-said.scores[inside], kind="stable")]
    return Found(count, centres[order], _painted(said, inside, region, (height, width)))


def _whole(side: int) -> int:
    return -(-side // WHOLE) * WHOLE


def _painted(
    said: Objects | Points, inside: NDArray[np.bool_], region: Region, shape: tuple[int, int]
) -> NDArray[np.int64] | None:
    if isinstance(said, Points):
        return None
    halo = -region.x
    frame = Region(0, 0, region.width, region.height, region.mpp)
    labels = np.zeros((region.height, region.width), np.int64)
    rows, columns, owner = pixels(said.outlines[inside], frame)
    labels[rows, columns] = owner + 1
    return labels[halo : halo + shape[0], halo : halo + shape[1]]


def dataset(config: Config, split: str) -> Sequence[CountedImage]:
    """The images of a split: train, validation or test.

    Raises ConfigError: no data, or a split that is none.
    """
    from wsikit.methods.counting.train import split_data

    data, splits = split_data(config)
    return [data[i] for i in splits.of(split)]


def evaluate(predictor: Predictor, dataset: Sequence[CountedImage]) -> dict[str, float]:
    """Metrics over images, pooled; empty where there are none.

    ``count_metrics``, and where instances are known: Dice, F1 of objects at IoU 0.5, F1 of points within a cell's
    radius, and the Dice of the colour threshold alone.
    """
    if not dataset:
        return {}
    looked = [look(predictor, image.read(), predictor.card.mpp) for image in dataset]
    found = np.array([one.count for one in looked])
    return count_metrics(found, dataset, predictor.card.facts["median_count"]) | _of_cells(looked, dataset, predictor)


def count_metrics(found: NDArray[np.float64], images: Sequence[CountedImage], constant: float) -> dict[str, float]:
    """Mean absolute error of (N,) counts and that of a constant, such as the median that training knew; kappa and
    accuracy of LYSTO's bins. Empty where there are no images."""
    if not images:
        return {}
    truth = np.array([image.count for image in images], np.float64)
    true_bins, found_bins = (bin_counts(np.rint(counts).astype(np.int64), LYSTO_EDGES) for counts in (truth, found))
    lazy = float(np.abs(truth - constant).mean())
    error = float(np.abs(truth - found).mean())
    return {
        "images": float(len(images)),
        "count_mae": error,
        "count_mae_constant": lazy,
        "count_mae_ratio": error / lazy if lazy else float("nan"),
        "count_bias": float((found - truth).mean()),
        "count_kappa": quadratic_weighted_kappa(true_bins, found_bins, len(LYSTO_EDGES) + 1),
        "bin_accuracy": float((true_bins == found_bins).mean()),
    }


def _of_cells(looked: Sequence[Found], images: Sequence[CountedImage], predictor: Predictor) -> dict[str, float]:
    ratios: dict[str, Ratio] = {}

    def add(name: str, ratio: Ratio) -> None:
        ratios[name] = ratios[name] + ratio if name in ratios else ratio

    radius = predictor.config.instances.cell_radius_um
    for one, image in zip(looked, images, strict=True):
        truth = image.labels()
        if truth is None:
            continue
        mpp = predictor.card.mpp
        add("detection_f1", match_points(_centres(truth) * mpp, one.points * mpp, radius=radius).f1)
        add("detection_f1_top", match_points(_centres(truth) * mpp, one.top() * mpp, radius=radius).f1)
        add("dice_colour", dice(overlaps(truth, _coloured(image, predictor))))
        if one.labels is not None:
            both = overlaps(truth, one.labels)
            add("dice", dice(both))
            add("object_f1", object_scores(both)["object_f1"])
    return {name: ratio.value for name, ratio in ratios.items()}


def _centres(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 2) x, y of each label's centre of mass, pixel-corner convention."""
    rows, columns = np.nonzero(labels)
    _, index, number = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    sums = [np.bincount(index, values + 0.5, len(number)) for values in (columns, rows)]
    return np.stack(sums, axis=1) / np.maximum(number, 1)[:, None]


def _coloured(image: CountedImage, predictor: Predictor) -> NDArray[np.int64]:
    """The line that colour alone draws, cleaned as pseudo masks are."""
    pseudo = predictor.config.pseudo
    mask = strength(image.read(), pseudo.channel) >= predictor.card.facts["colour"]
    return cleaned(mask, pseudo, predictor.card.mpp).astype(np.int64)
