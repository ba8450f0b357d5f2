"""Images to batches of tensors, and what training does to them on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wsikit.stain.augment import augment as other_stain
from wsikit.training.images import TrainingImage

M = TypeVar("M", np.bool_, np.uint8, np.float32)
LIGHT = 0.1
"""Largest change of brightness and of contrast, as a share."""
STAIN = 0.1
"""Sigma of the stains' amounts, between HED-light and HED-strong."""


def of_one_shape(
    images: Sequence[TrainingImage], order: Iterable[int], size: int, least: int = 1
) -> Iterator[list[int]]:
    """Indices in batches of images of one shape, each batch in the order in which its images come; the last ones of a
    shape, where they are fewer than ``least``, are left out."""
    waiting: dict[tuple[int, ...], list[int]] = {}
    for index in order:
        shape = images[index].source.size
        batch = waiting.setdefault(shape, [])
        batch.append(index)
        if len(batch) == size:
            yield waiting.pop(shape)
    yield from (batch for batch in waiting.values() if len(batch) >= least)


def tensor(images: Sequence[NDArray[np.uint8]], device: torch.device, margin: int = 0) -> torch.Tensor:
    """(N, 3, H + 2 margin, W + 2 margin) in [0, 1], channels last in memory, of N images (H, W, 3), mirrored at their
    borders."""
    stack = np.pad(np.stack(images), ((0, 0), (margin, margin), (margin, margin), (0, 0)), "symmetric")
    return torch.from_numpy(stack).to(device).permute(0, 3, 1, 2).float() / 255


def turned(
    images: list[NDArray[np.uint8]], masks: list[NDArray[M]] | None, rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[NDArray[M]] | None]:
    """Images, and masks with them, in one of the eight orientations of the square; the quarter turn is the batch's."""
    turn = int(rng.integers(2))
    flips = rng.integers(2, size=(len(images), 2)) * -2 + 1

    def one(array: NDArray[Any], flip: NDArray[np.int64]) -> NDArray[Any]:
        moved = array[:: flip[0], :: flip[1]]
        return moved.swapaxes(0, 1) if turn else moved

    turned_masks = None if masks is None else [one(mask, flip) for mask, flip in zip(masks, flips, strict=True)]
    return [one(image, flip) for image, flip in zip(images, flips, strict=True)], turned_masks


def recoloured(
    images: list[NDArray[np.uint8]], stain: Literal["he", "ihc"], rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Each image a little brighter or darker, with more or less contrast, and stained a little differently."""
    if stain == "he":
        images = [other_stain(np.ascontiguousarray(image), rng, STAIN) for image in images]
    changed = []
    for image, (light, contrast) in zip(images, rng.uniform(-LIGHT, LIGHT, (len(images), 2)), strict=True):
        values = (np.arange(256) - 128) * (1 + contrast) + 128 + 255 * light
        changed.append(np.clip(values, 0, 255).astype(np.uint8)[image])
    return changed
