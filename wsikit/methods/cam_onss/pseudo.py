"""From a classifier of patches to the masks that the segmenter learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from wsikit.methods.cam_onss.classes import IGNORED, ClassSchema
from wsikit.methods.cam_onss.config import Config, Voting
from wsikit.methods.cam_onss.masks import Mask
from wsikit.methods.cam_onss.model import TissueClassifier
from wsikit.methods.cam_onss.voting import gated, normalised, vote
from wsikit.training.batches import tensor

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Grey of RGB (ITU-R BT.601)."""


@torch.no_grad()
def labels_at_scales(
    model: TissueClassifier, image: NDArray[np.uint8], present: Sequence[bool], config: Config
) -> NDArray[np.uint8]:
    """(S, H, W) the most active class of those that the patch's label has, for each scale (and its mirror image, where
    those vote too)."""
    device = next(model.parameters()).device
    pixels = tensor([image], device)
    found = []
    for scale in config.voting.scales:
        seen = pixels if scale == 1 else functional.interpolate(pixels, scale_factor=scale, mode="bilinear")
        for flipped in (False, True)[: 1 + config.voting.flips]:
            maps = model.maps(seen.flip(-1) if flipped else seen, config.classifier.cam)
            maps = maps.flip(-1) if flipped else maps
            wide = functional.interpolate(maps, size=image.shape[:2], mode="bilinear")[0].cpu().numpy()
            found.append(gated(normalised(wide, joint=config.voting.joint), present).argmax(axis=0).astype(np.uint8))
    return np.stack(found)


def pseudo_mask(
    model: TissueClassifier, image: NDArray[np.uint8], present: Sequence[bool], config: Config
) -> tuple[Mask, NDArray[np.float32]]:
    """(H, W) voted class of each pixel, the schema's excluded index where it is background; and the share of votes
    that agree."""
    schema, scales = config.tissue, config.voting.scales
    labels = labels_at_scales(model, image, present, config)
    base = (scales.index(1.0) if 1.0 in scales else 0) * (1 + config.voting.flips)
    mask, agreement = vote(labels, len(schema.classes), base)
    if schema.background and schema.excluded is not None:
        white = white_pixels(image, config.voting, config.mpp)
        mask[white], agreement[white] = schema.excluded, 1.0
    return mask, agreement


def white_pixels(image: NDArray[np.uint8], options: Voting, mpp: float) -> NDArray[np.bool_]:
    """(H, W) pixels brighter than ``options.white``, in pieces of at least ``options.white_um2``; 4-connected."""
    parts, _ = ndimage.label(image.astype(np.float32) @ LUMA > options.white)
    large = np.bincount(parts.ravel()) * mpp**2 >= options.white_um2
    large[0] = False
    return np.asarray(large[parts])


def learnable(mask: Mask, agreement: NDArray[np.float32], schema: ClassSchema, options: Voting) -> Mask:
    """The mask with 255 where it is no class, or too few maps agree."""
    unsure = (agreement < options.least_agreement) | (mask >= len(schema.classes))
    return np.where(unsure, np.uint8(IGNORED), mask)
