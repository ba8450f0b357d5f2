"""What noise suppression is worth: a small network learns planted textures from masks that are wrong as CAMs are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tests.methods import planted_tissue as planted
from wsikit.methods.cam_onss.losses import Mode, noise_suppressed_loss
from wsikit.methods.cam_onss.masks import Mask
from wsikit.metrics import class_iou, confusion_matrix
from wsikit.training.batches import tensor

CLASSES, TRAIN, TEST, EPOCHS, BATCH, WIDTH = 4, 120, 60, 40, 8, 24
LAYERS = ((3, 2, 1), (WIDTH, 1, 1), (WIDTH, 1, 4), (WIDTH, 1, 8))
"""Inputs, stride and dilation: a network that sees far learns what the noise depends on."""
MODES: tuple[Mode, ...] = ("ce", "oeem", "onss")
SCALE, RATE = (0.9, 1.1), 1e-2
WARM, FLOOR = 20, 1.0
"""First epochs with cross entropy: the fewer, the more there is to gain under noise, and to lose without it.
And the least mean weight of a class in an image: none counts less than with cross entropy."""
GREEDY = (0, 1, 2, 3)
"""Classes from the one that activates most, and spills over all others, to the one that never does."""
RARE = 3
"""The class that most patches with it were left out for."""


def network() -> nn.Module:
    """Four convolutions at half the resolution: (N, 3, H, W) -> (N, K, H / 2, W / 2)."""
    layers: list[nn.Module] = []
    for inputs, stride, dilation in LAYERS:
        layers += [
            nn.Conv2d(inputs, WIDTH, 5 if inputs == 3 else 3, stride, 2 if inputs == 3 else dilation, dilation),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, CLASSES, 1))


@cache
def patches(seed: int) -> tuple[list[planted.PlantedPatch], list[planted.PlantedPatch]]:
    """To learn from, two of three with the rare class left out, and to be asked about."""
    drawn = planted.scenes(100 + seed, 2 * TRAIN, classes=CLASSES, textures=planted.DISTINCT, scale=SCALE)
    rare = [i for i, one in enumerate(drawn) if one.present[RARE]]
    left_out = {index for place, index in enumerate(rare) if place % 3}
    train = [one for i, one in enumerate(drawn) if i not in left_out][:TRAIN]
    return train, planted.scenes(900 + seed, TEST, classes=CLASSES, single=0.0, textures=planted.DISTINCT, scale=SCALE)


def noisy(seed: int, share: float) -> list[Mask]:
    """Masks of the training patches with that share of wrong pixels in patches of several classes: more is asked for,
    since what is left of a small class stays."""
    train, low, high = patches(seed)[0], share, 2 * share
    for _ in range(10):
        asked = (low + high) / 2
        masks = planted.over_activated(train, asked, seed, greedy=GREEDY)
        low, high = (asked, high) if planted.wrong_share(train, masks) < share else (low, asked)
    return masks


def learned(masks: Sequence[Mask], mode: Mode, seed: int) -> list[float]:
    """IoU of each class on clean patches, after learning the training patches with these masks."""
    torch.manual_seed(seed)
    train, test = patches(seed)
    model, pixels = network(), tensor([one.image for one in train], torch.device("cpu"))
    target = torch.from_numpy(np.stack(masks)).long()
    steps = EPOCHS * (TRAIN // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = np.random.default_rng(seed)
    for epoch in range(EPOCHS):
        for batch in order.permutation(TRAIN).reshape(-1, BATCH):
            logits = functional.interpolate(model(pixels[batch]), scale_factor=2, mode="bilinear")
            used = mode if epoch >= WARM else "ce"
            loss = noise_suppressed_loss(logits, target[batch], used, class_floor=FLOOR)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return _iou(model.eval(), test)


@torch.no_grad()
def _iou(model: nn.Module, test: Sequence[planted.PlantedPatch]) -> list[float]:
    logits = functional.interpolate(
        model(tensor([one.image for one in test], torch.device("cpu"))), scale_factor=2, mode="bilinear"
    )
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for one, found in zip(test, logits.argmax(dim=1).numpy(), strict=True):
        total += confusion_matrix(one.truth, found, CLASSES)
    return class_iou(total).tolist()


def compared(share: float, seeds: Iterable[int], modes: Sequence[Mode] = MODES) -> dict[Mode, NDArray[np.float64]]:
    """(seeds, K) IoU by loss, of the same patches, masks, order and first weights."""
    found: dict[Mode, list[list[float]]] = {mode: [] for mode in modes}
    for seed in seeds:
        masks = noisy(seed, share)
        for mode in modes:
            found[mode].append(learned(masks, mode, seed))
    return {mode: np.array(rows) for mode, rows in found.items()}
