"""From heat to masks: both must agree, refinement follows edges, sizes are physical."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

pytest.importorskip("torch")

from tests.methods.planted_counting import dice
from wsikit.errors import ConfigError
from wsikit.methods.counting.config import Pseudo
from wsikit.methods.counting.pseudo import cleaned, colour_level, pseudo_mask, strength

PLAIN = Pseudo(refine=False, least_um2=0, hole_um2=0)
BROWN, BLUE, PALE = (110, 70, 40), (60, 60, 120), (225, 220, 222)


def disc(side: int = 64, radius: float = 14, centre: float = 32) -> NDArray[np.bool_]:
    y, x = np.mgrid[:side, :side] + 0.5
    return np.asarray((x - centre) ** 2 + (y - centre) ** 2 <= radius**2)


def scene(seed: int, color: tuple[int, int, int], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    image = np.where(mask[..., None], np.array(color), np.array(PALE)) + rng.normal(0, 4, (*mask.shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def everywhere(value: float, side: int = 64) -> NDArray[np.float32]:
    return np.full((side // 4, side // 4), value, np.float32)


def test_a_pixel_must_be_hot_and_coloured() -> None:
    image = scene(0, BROWN, disc())
    heat = everywhere(0.0)
    heat[:, :8] = 0.9
    mask = pseudo_mask(heat, image, threshold=0.5, level=0.15, config=PLAIN, mpp=0.5)
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    np.testing.assert_array_equal(mask, disc() & left)


@pytest.mark.parametrize("channel", ["value", "dab"])
def test_every_channel_tells_brown_from_pale(channel: str) -> None:
    image = scene(0, BROWN, disc())
    values = strength(image, channel)  # type: ignore[arg-type]
    assert values[disc()].min() > values[~disc()].max()


def test_dab_tells_brown_from_blue() -> None:
    brown, blue = (scene(0, color, np.ones((8, 8), bool)) for color in (BROWN, BLUE))
    assert strength(brown, "dab").min() > strength(blue, "dab").max()


def test_a_given_level_of_value_is_the_largest_value() -> None:
    level = colour_level([], Pseudo(level=170))
    grey = np.arange(160, 181, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(strength(grey, "value")[0] >= level - 1e-6, grey[0, :, 0] <= 170)


def test_otsu_separates_the_two_colours_of_all_images() -> None:
    images = [scene(seed, BROWN, disc()) for seed in range(3)]
    level = colour_level(images, Pseudo(channel="dab"))
    found = np.stack([strength(image, "dab") >= level for image in images])
    assert (found == disc()).mean() > 0.99


def test_images_without_stain_have_no_level() -> None:
    with pytest.raises(ConfigError, match="haematoxylin"):
        colour_level([], Pseudo(channel="haematoxylin"))


@pytest.mark.parametrize("seed", range(4))
def test_refinement_fills_a_mask_up_to_the_edge_of_its_colour(seed: int) -> None:
    image = scene(seed, BROWN, disc())
    heat = everywhere(0.9)
    # three in ten cells of 4 px are missed
    heat[np.random.default_rng(seed).random(heat.shape) < 0.3] = 0
    settings = {"threshold": 0.5, "level": 0.15, "mpp": 0.5}
    rough = pseudo_mask(heat, image, config=PLAIN, **settings)  # type: ignore[arg-type]
    smooth = pseudo_mask(heat, image, config=PLAIN.model_copy(update={"refine": True}), **settings)  # type: ignore[arg-type]
    assert dice(disc(), smooth) > dice(disc(), rough) + 0.05


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_small_objects_and_holes_are_of_physical_size(mpp: float) -> None:
    side = round(64 / mpp)
    um = (np.mgrid[:side, :side] + 0.5) * mpp
    large, speck = (round_at(um, centre, radius) for centre, radius in ((20, 8.0), (50, 1.0)))
    pinhole, lumen = (round_at(um, (20, 17), 0.9), round_at(um, (20, 24), 2.0))
    mask = (large | speck) & ~pinhole & ~lumen
    kept = cleaned(mask, Pseudo(least_um2=10, hole_um2=6), mpp)
    np.testing.assert_array_equal(kept, large & ~lumen)


def round_at(um: NDArray[np.float64], centre: float | tuple[float, float], radius: float) -> NDArray[np.bool_]:
    y, x = centre if isinstance(centre, tuple) else (centre, centre)
    return np.asarray((um[0] - y) ** 2 + (um[1] - x) ** 2 <= radius**2)


def test_parts_that_touch_by_a_corner_are_two() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:5, 2:5] = mask[5:8, 5:8] = True
    assert ndimage.label(mask)[1] == 2
    assert not cleaned(mask, Pseudo(least_um2=10, hole_um2=0), 1.0).any()
