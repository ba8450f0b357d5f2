"""Stain augmentation: as far as asked, the same for the same seed, and never on glass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stain.mixtures import Pixels, section, tiles
from wsikit.stain.augment import LIGHT, STRONG, augment
from wsikit.stain.density import EOSIN, HAEMATOXYLIN, absorption
from wsikit.stain.macenko import basis

IMAGE = section(0, 0.4, noise=1.0)[:16384].reshape(128, 128, 3)


def change(image: Pixels, seed: int, sigma: float) -> float:
    return float(np.abs(augment(image, np.random.default_rng(seed), sigma).astype(int) - image).mean())


def test_a_seed_decides_everything() -> None:
    one, two = (augment(IMAGE, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, augment(IMAGE, np.random.default_rng(8)))


def test_each_image_of_a_batch_has_a_change_of_its_own() -> None:
    batch = np.stack([IMAGE] * 3)
    found = augment(batch, np.random.default_rng(0))
    assert found.shape == batch.shape
    assert found.dtype == np.uint8
    assert len({image.tobytes() for image in found}) == 3
    assert np.array_equal(found[0], augment(IMAGE, np.random.default_rng(0)))


def test_no_images_are_no_images() -> None:
    assert augment(np.empty((0, 8, 8, 3), np.uint8), np.random.default_rng(0)).shape == (0, 8, 8, 3)


def test_the_input_is_left_as_it_is() -> None:
    before = IMAGE.copy()
    augment(IMAGE, np.random.default_rng(0), STRONG)
    assert np.array_equal(IMAGE, before)


def test_nothing_changes_without_sigma() -> None:
    assert np.abs(augment(IMAGE, np.random.default_rng(0), 0.0).astype(int) - IMAGE).max() <= 1


def test_more_sigma_is_more_change() -> None:
    light, strong = ([change(IMAGE, seed, sigma) for seed in range(12)] for sigma in (LIGHT, STRONG))
    assert 1 < np.mean(light) < 8
    assert 2.5 * np.mean(light) < np.mean(strong) < 30
    assert min(light) > 0.3


def test_amounts_change_within_the_limits(data: Path) -> None:
    """Fitted line of amounts after on amounts before: slope and shift of each stain, over seeds."""
    tile = tiles(data)["template1.png"][::2, ::2]
    unmix = np.linalg.inv(basis(np.stack([HAEMATOXYLIN, EOSIN])))
    dense = absorption(tile).mean(axis=2) > 0.3
    before = (absorption(tile) @ unmix)[dense]
    fits = []
    for seed in range(12):
        after = (absorption(augment(tile, np.random.default_rng(seed), STRONG)) @ unmix)[dense]
        fits.append([np.polyfit(before[:, stain], after[:, stain], 1) for stain in (0, 1)])
    slopes, shifts = np.moveaxis(np.array(fits), 2, 0)
    for values, centre in ((slopes, 1.0), (shifts, 0.0)):
        assert np.abs(values - centre).max() < STRONG + 0.1
        assert np.ptp(values) > STRONG


@given(pixel=st.tuples(*[st.integers(240, 255)] * 3), seed=st.integers(0, 2**32 - 1))
def test_white_stays_white(pixel: tuple[int, int, int], seed: int) -> None:
    image = np.full((2, 2, 3), pixel, np.uint8)
    assert np.abs(augment(image, np.random.default_rng(seed), STRONG).astype(int) - image).max() <= 2


@pytest.mark.parametrize("sigma", [LIGHT, STRONG])
def test_a_pixel_does_not_depend_on_its_surroundings(sigma: float) -> None:
    whole = augment(IMAGE, np.random.default_rng(3), sigma)
    part = augment(IMAGE[10:50, 20:90], np.random.default_rng(3), sigma)
    assert np.array_equal(part, whole[10:50, 20:90])
