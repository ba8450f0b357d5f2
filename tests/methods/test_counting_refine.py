"""Pixel-adaptive refinement: against its formula pixel by pixel, and what it must and must not change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.methods.counting.refine import DILATIONS, refine

Image = NDArray[np.float64]


def by_pixel(
    masks: Image, image: Image, iterations: int, dilations: tuple[int, ...], bandwidths: tuple[float, float], w: float
) -> Image:
    """(K, H, W) masks and one (3, H, W) image: the formula of the docstring in float64, one pixel at a time."""
    height, width = image.shape[1:]
    steps = [(dy * d, dx * d) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    distances = np.array([math.sqrt(dy * dy + dx * dx) for dy, dx in steps])
    near = np.exp(-((distances / (bandwidths[1] * np.std(distances, ddof=1))) ** 2))
    near /= near.sum()
    for _ in range(iterations):
        after = np.empty_like(masks)
        for y in range(height):
            for x in range(width):
                places = [(min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)) for dy, dx in steps]
                colours = np.array([image[:, v, u] for v, u in places])  # (J, 3)
                scaled = (colours - image[:, y, x]) / (bandwidths[0] * (colours.std(axis=0, ddof=1) + 1e-8))
                logits = -(scaled**2).mean(axis=1)
                alike = np.exp(logits - logits.max())
                affinity = (alike / alike.sum() + w * near) / (1 + w)
                after[:, y, x] = sum(a * masks[:, v, u] for a, (v, u) in zip(affinity, places, strict=True))
        masks = after
    return masks


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).float()


def stained(n: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Flat colours with a fine grain in whole grey levels, as real pixels have them."""
    random = np.random.default_rng(seed)
    patches = random.random((n, 3, height // 6 + 1, width // 6 + 1)).repeat(6, axis=2).repeat(6, axis=3)
    grain = patches[..., :height, :width] + random.normal(0, 0.01, (n, 3, height, width))
    return torch.from_numpy((grain.clip(0, 1) * 255).round() / 255).float()


SETTINGS: list[dict[str, Any]] = [
    {"iterations": 1, "dilations": (1,), "colour": 0.45, "position": 0.45, "weight": 0.005},
    {"iterations": 3, "dilations": (1, 2, 4), "colour": 0.3, "position": 0.3, "weight": 0.01},
    {"iterations": 2, "dilations": (2, 24), "colour": 1.0, "position": 0.2, "weight": 3.0},
    {"iterations": 2, "dilations": DILATIONS, "colour": 0.45, "position": 0.9, "weight": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["noise", "stained"])
def test_against_the_formula_pixel_by_pixel(settings: dict[str, Any], kind: str) -> None:
    images = noise(2, 3, 11, 14) if kind == "noise" else stained(2, 11, 14, seed=1)
    masks = noise(2, 2, 11, 14, seed=2)
    refined = refine(masks, images, **settings)
    bandwidths = settings["colour"], settings["position"]
    for k in range(2):
        slow = by_pixel(
            masks[k].double().numpy(),
            images[k].double().numpy(),
            settings["iterations"],
            settings["dilations"],
            bandwidths,
            settings["weight"],
        )
        assert np.abs(refined[k].numpy() - slow).max() < 1e-5


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_mask_stays_what_it_is(value: float) -> None:
    masks = torch.full((1, 1, 40, 50), value)
    for images in (noise(1, 3, 40, 50), stained(1, 40, 50, seed=0), torch.full((1, 3, 40, 50), 0.9)):
        assert torch.allclose(refine(masks, images, iterations=30), masks, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_values_stay_in_the_range_of_the_mask(seed: int) -> None:
    masks = noise(1, 3, 48, 32, seed=seed).round()
    refined = refine(masks, stained(1, 48, 32, seed=seed), iterations=20, weight=1.0)
    assert refined.min() >= 0
    assert refined.max() <= 1 + 1e-6


def disc(random: np.random.Generator, side: int, radius: float) -> NDArray[np.bool_]:
    centre = random.uniform(side * 0.35, side * 0.65, 2)
    y, x = np.mgrid[:side, :side] + 0.5
    return np.hypot(y - centre[0], x - centre[1]) < radius


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def spilled(seed: int) -> tuple[NDArray[np.bool_], torch.Tensor, torch.Tensor]:
    """A brown disc on a pale ground with grain, and a square mask around it whose corners spill over the edge."""
    random = np.random.default_rng(seed)
    truth = disc(random, 64, random.uniform(10, 14))
    y, x = np.nonzero(truth)
    mask = np.zeros((64, 64), np.float32)
    mask[y.min() : y.max() + 1, x.min() : x.max() + 1] = 1
    colours = np.where(truth[..., None], (0.45, 0.3, 0.2), (0.88, 0.85, 0.9))
    image = (colours + random.normal(0, 0.03, (64, 64, 3))).clip(0, 1)
    return truth, torch.from_numpy(mask)[None, None], torch.from_numpy(image).float().permute(2, 0, 1)[None]


def test_a_mask_that_spills_over_an_edge_is_drawn_back_to_it() -> None:
    before, after = [], []
    for seed in range(6):
        truth, mask, image = spilled(seed)
        refined = refine(mask, image)[0, 0].numpy()
        before.append(iou(truth, mask[0, 0].numpy() > 0.5))
        # cut half way up, as the method does: masks lose height where they spread
        after.append(iou(truth, refined > refined.max() / 2))
    gains = np.subtract(after, before)
    assert gains.min() > 0.05, (before, after)
    assert np.mean(after) > 0.9, (before, after)


def test_a_square_spreads_to_a_blur_where_the_image_has_no_edge() -> None:
    truth, mask, _ = spilled(0)
    flat = torch.full((1, 3, 64, 64), 0.8)
    refined = refine(mask, flat)[0, 0].numpy()
    assert iou(truth, refined > refined.max() / 2) < 0.9


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
def test_flipping_before_or_after_is_the_same(axes: tuple[int, ...]) -> None:
    masks, images = noise(1, 2, 30, 41), stained(1, 30, 41, seed=3)
    flipped = refine(masks.flip(axes), images.flip(axes)).flip(axes)
    assert torch.allclose(flipped, refine(masks, images), atol=1e-5)


def test_transposing_before_or_after_is_the_same() -> None:
    masks, images = noise(1, 2, 30, 41), stained(1, 30, 41, seed=4)
    transposed = refine(masks.mT, images.mT).mT
    assert torch.allclose(transposed, refine(masks, images), atol=1e-5)


def test_an_image_is_refined_the_same_whatever_is_beside_it_and_every_time() -> None:
    masks, images = noise(3, 2, 33, 21), stained(3, 33, 21, seed=5)
    together = refine(masks, images)
    assert torch.equal(together, refine(masks, images))
    alone = torch.cat([refine(masks[k : k + 1], images[k : k + 1]) for k in range(3)])
    assert torch.equal(together, alone)
    assert torch.equal(refine(masks[:, 1:], images), together[:, 1:])


def test_inputs_stay_untouched_and_no_gradient_flows() -> None:
    masks, images = noise(1, 1, 16, 16).requires_grad_(), noise(1, 3, 16, 16, seed=1)
    before = masks.detach().clone(), images.clone()
    refined = refine(masks, images)
    assert not refined.requires_grad
    assert torch.equal(masks, before[0])
    assert torch.equal(images, before[1])
    assert torch.equal(refine(masks, images, iterations=0), before[0])


def test_an_image_smaller_than_the_dilations_is_refined() -> None:
    refined = refine(noise(1, 1, 3, 2), noise(1, 3, 3, 2, seed=1))
    assert torch.isfinite(refined).all()


@pytest.mark.parametrize(
    ("masks", "images", "settings", "says"),
    [
        (noise(1, 1, 8, 8), noise(1, 3, 8, 9), {}, "got \\(1, 1, 8, 8\\) and \\(1, 3, 8, 9\\)"),
        (noise(2, 1, 8, 8), noise(1, 3, 8, 8), {}, "shape"),
        (noise(1, 8, 8), noise(1, 3, 8, 8), {}, "shape"),
        (noise(1, 1, 8, 8), noise(1, 1, 8, 8), {}, "shape"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8).byte(), {}, "floating-point"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8), {"dilations": ()}, "dilations"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8), {"dilations": (0, 1)}, "dilations"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8), {"iterations": -1}, "iterations"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8), {"colour": 0.0}, "bandwidth"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8), {"position": -1.0}, "bandwidth"),
        (noise(1, 1, 8, 8), noise(1, 3, 8, 8), {"weight": math.nan}, "weight"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    masks: torch.Tensor, images: torch.Tensor, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        refine(masks, images, **settings)
