"""Patches on pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsikit.errors import ConfigError
from wsikit.pipeline.heat import OUTLINE, STOPS, Patches, color_bar, colors, draw_patches

WHITE = (255, 255, 255)
BOXES = np.array([(0, 0, 20, 20), (40, 20, 60, 40)], float)


def drawn(patches: Patches, scale: float = 1.0) -> np.ndarray[Any, Any]:
    """(50, 80, 3) picture after drawing on white."""
    image = Image.new("RGB", (80, 50), WHITE)
    draw_patches(image, lambda xy: xy * scale, patches)
    return np.asarray(image)


def test_patches_are_outlined_where_they_are_and_their_inside_stays() -> None:
    picture = drawn(Patches(BOXES))
    assert tuple(picture[20, 50]) == OUTLINE
    assert tuple(picture[30, 40]) == OUTLINE
    assert tuple(picture[30, 50]) == WHITE
    assert tuple(picture[10, 70]) == WHITE


def test_patches_too_small_to_outline_are_tinted() -> None:
    picture = drawn(Patches(BOXES), scale=0.2)
    assert tuple(picture[1, 1]) != WHITE
    assert tuple(picture[5, 9]) != WHITE
    assert tuple(picture[1, 9]) == WHITE


def test_hot_patches_are_red_and_cold_ones_blue() -> None:
    picture = drawn(Patches(BOXES, np.array([1.0, 0.0]))).astype(int)
    hot, cold = picture[10, 10], picture[30, 50]
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]
    assert tuple(picture[10, 50]) == WHITE


def test_colours_run_through_their_stops() -> None:
    assert np.array_equal(colors(np.linspace(0, 1, len(STOPS))), np.array(STOPS))


def test_no_patches_draw_nothing() -> None:
    assert (drawn(Patches(np.zeros((0, 4)))) == 255).all()


def test_the_legend_says_how_wide_it_is() -> None:
    image = Image.new("RGB", (600, 40), WHITE)
    width = color_bar(image, (10, 10), 15)
    inked = np.flatnonzero((np.asarray(image) != 255).any(axis=(0, 2)))
    assert inked.min() >= 10
    assert inked.max() <= 10 + width


def test_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"\(N, 4\)"):
        Patches(BOXES, np.zeros(3))
