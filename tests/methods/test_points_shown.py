"""Haematoxylin as a grey picture: the same for strong and weak stains, blind to what else there is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wsikit.methods.points.shown import BLACK, haematoxylin_shown
from wsikit.stain.density import EOSIN, HAEMATOXYLIN

PURE, PINK = (np.array(stain) / np.linalg.norm(stain) for stain in (HAEMATOXYLIN, EOSIN))


def stained(haematoxylin: NDArray[np.float64], eosin: float = 0.0) -> NDArray[np.uint8]:
    """One row of pixels with these decadic ODs."""
    density = haematoxylin[:, None] * PURE + eosin * PINK
    return np.rint(255 * 10**-density).astype(np.uint8)[None]


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.7])
def test_in_units_of_the_threshold_strong_and_weak_stains_look_alike(strength: float) -> None:
    densities = np.linspace(0, 0.9, 10)
    shown = haematoxylin_shown(stained(strength * densities), strength * 0.3)
    wanted = 255 * (1 - np.clip(densities / (BLACK * 0.3), 0, 1))
    assert np.abs(shown[0, :, 0] - wanted).max() < 5
    assert (shown == shown[..., :1]).all()


def test_eosin_is_not_seen() -> None:
    densities = np.linspace(0, 0.9, 10)
    plain, pink = (haematoxylin_shown(stained(densities, eosin), 0.3).astype(int) for eosin in (0.0, 0.6))
    assert np.abs(plain - pink).max() < 8


def test_what_is_brighter_than_glass_is_white() -> None:
    assert (haematoxylin_shown(np.array([[[255, 120, 255]]], np.uint8), 0.3) == 255).all()
