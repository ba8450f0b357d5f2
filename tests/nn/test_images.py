"""Pixels to normalised tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from wsikit.errors import ConfigError
from wsikit.nn.images import IMAGENET_MEAN, IMAGENET_STD, Preprocess


def patches(side: int, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_values_are_scaled_and_normalised_per_channel() -> None:
    images = patches(16)
    want = (images.numpy() / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    got = Preprocess()(images)
    assert got.dtype == torch.float32
    assert np.allclose(got.numpy(), np.moveaxis(want, 3, 1), atol=1e-5)


def test_channels_are_last_in_memory_and_rows_stay_rows() -> None:
    image = np.zeros((1, 4, 6, 3), np.uint8)
    image[0, 1, 5] = (255, 0, 51)
    got = Preprocess((0, 0, 0), (1, 1, 1))(torch.from_numpy(image))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert got[0, :, 1, 5].tolist() == pytest.approx([1, 0, 0.2])
    assert float(got.sum()) == pytest.approx(1.2)


def test_resizing_averages_what_a_pixel_covers() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[None, :, :, None], 3, axis=3)
    got = Preprocess((0, 0, 0), (1, 1, 1), 16)(torch.from_numpy(image))
    assert got.shape == (1, 3, 16, 16)
    assert float((got - 0.5).abs().max()) < 0.02, "without antialiasing a chequered board shows moire"


def test_a_patch_of_the_right_size_is_not_resampled() -> None:
    images = patches(32)
    assert torch.equal(Preprocess(size=32, interpolation="bicubic")(images), Preprocess()(images))


def test_the_input_stays_as_it_was() -> None:
    images = patches(16)
    before = images.clone()
    Preprocess(size=8)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "wrong", [{"std": (1, 0, 1)}, {"mean": (1, 2)}, {"mean": (float("nan"), 0, 0)}, {"size": 0}, {"interpolation": "x"}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Preprocess(**wrong)
