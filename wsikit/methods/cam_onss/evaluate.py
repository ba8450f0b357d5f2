"""How good a checkpoint is on patches that it did not see and whose masks are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsikit.methods.cam_onss.config import Config
from wsikit.methods.cam_onss.data import LabelledPatch
from wsikit.methods.cam_onss.predict import TissueMapper
from wsikit.metrics import boundary_iou, confusion_matrix, segmentation_scores

BOUNDARY_UM = 5.0
"""Width of the band along outlines that boundary IoU looks at."""


def dataset(config: Config, split: str) -> Sequence[LabelledPatch]:
    """The patches of a split: train, validation or test.

    Raises ConfigError: no data, or a split that is none.
    """
    from wsikit.methods.cam_onss.train import split_data

    data, splits = split_data(config)
    return [data[i] for i in splits.of(split)]


def evaluate(predictor: TissueMapper, dataset: Sequence[LabelledPatch]) -> dict[str, float]:
    """Over the pixels of all patches with a mask: ``wsikit.metrics.segmentation_scores``, and the mean boundary IoU of
    classes, those of patches' own borders left out. Empty where no patch has a mask.

    Pixels that masks call excluded are not scored, and no other may be called background, white or not: the network's
    likeliest class counts.
    """
    schema = predictor.config.tissue
    classes, width = len(schema.classes), max(1, round(BOUNDARY_UM / predictor.card.mpp))
    total, edges, images = np.zeros((classes, classes), np.int64), None, 0
    for patch in dataset:
        truth = patch.mask()
        if truth is None:
            continue
        found = predictor.class_probabilities(patch.read()[None])[0].argmax(axis=2).astype(np.int64)
        total += confusion_matrix(truth, found, classes, schema.unscored)
        along = boundary_iou(truth, found, classes, width, schema.unscored, frame=False)
        edges = along if edges is None else tuple(a + b for a, b in zip(edges, along, strict=True))
        images += 1
    if edges is None:
        return {}
    boundary = float(np.nanmean([ratio.value for ratio in edges]))
    return {"images": float(images), **segmentation_scores(total, schema.codes), "boundary_iou": boundary}
