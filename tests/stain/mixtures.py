"""Sections made by the forward model, light through stains of known density, and the real tiles that tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
H = np.array([0.60, 0.70, 0.36]) / np.linalg.norm([0.60, 0.70, 0.36])
E = np.array([0.10, 0.83, 0.55]) / np.linalg.norm([0.10, 0.83, 0.55])
"""Stain vectors as sections in daylight have them, between those of the tiles in the shared data."""


def section(
    seed: int,
    share: float,
    *,
    noise: float = 2.0,
    stains: NDArray[np.float64] | None = None,
    count: int = 60_000,
    nucleus: float = 1.2,
    stroma: float = 0.5,
) -> Pixels:
    """(count, 3) pixels, a given share of them nuclei, the others stroma; camera noise on top."""
    rng = np.random.default_rng(seed)
    nuclei = rng.random(count) < share
    h = np.maximum(np.where(nuclei, rng.normal(nucleus, 0.3, count), rng.normal(0.05, 0.05, count)), 0)
    e = np.maximum(rng.normal(stroma, 0.4 * stroma, count), 0) * np.where(nuclei, 0.4, 1.0)
    return seen(np.stack([h, e], axis=1) @ (np.stack([H, E]) if stains is None else stains), noise, rng)


def seen(density: NDArray[np.float64], noise: float, rng: np.random.Generator) -> Pixels:
    """What a camera makes of natural optical densities; clear glass has the value 240."""
    light = 240 * np.exp(-density) - 1 + rng.normal(0, noise, density.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def degrees(one: object, two: object) -> float:
    a, b = np.asarray(one, float), np.asarray(two, float)
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def image(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


@cache
def tiles(data: Path) -> dict[str, Pixels]:
    """Nine H&E tiles of seven laboratories."""
    tissue = data / "tissue"
    paths = sorted((tissue / "he_tiles").iterdir()) + sorted((tissue / "histoqc").glob("template*.png"))
    return {path.name: image(path) for path in paths}
