"""The U-Net's decoder: a logit for every pixel at any size, in its place, and everything in it is trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wsikit.errors import ConfigError
from wsikit.nn.pyramid import FeatureEncoder
from wsikit.nn.unet import MaskDecoder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers are slower on several threads, by far where others use the processors too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    def __init__(self, name: str = "test_efficientnet", *, depth: int = 5, classes: int = 1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = FeatureEncoder(name, depth=depth)
        self.decoder = MaskDecoder(self.encoder, classes, width=64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(x.shape[-2:], self.encoder(x))
        return logits


NET = Net(classes=2).eval()


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 75), width=st.integers(1, 75))
@torch.inference_mode()
def test_every_pixel_has_its_logits(height: int, width: int) -> None:
    logits = NET(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 2, height, width)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "depth"), [("test_efficientnet", 3), ("convnext_atto", 4), ("resnet10t", 5)])
@torch.inference_mode()
def test_other_pyramids_do(name: str, depth: int) -> None:
    assert Net(name, depth=depth).eval()(torch.rand(1, 3, 45, 70)).shape == (1, 1, 45, 70)


@torch.inference_mode()
def test_a_picture_moved_by_the_last_stride_gives_the_same_moved() -> None:
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    net = Net(depth=3).eval()
    down, right = net(x[..., 8:, :])[..., 96:160, 96:160], net(x[..., 8:])[..., 96:160, 96:160]
    here = net(x)
    torch.testing.assert_close(down, here[..., 104:168, 96:160], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(right, here[..., 96:160, 104:168], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_picture_does_not_see_its_neighbours_in_the_batch() -> None:
    x = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(NET(x)[1:2], NET(x[1:2]), atol=1e-5, rtol=1e-4)


def test_everything_is_trained() -> None:
    net = Net().train()
    net(torch.rand(4, 3, 96, 96)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_levels_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="70 x 40 px") as caught:
        NET.decoder((40, 70), NET.encoder(torch.rand(1, 3, 70, 40)))
    assert caught.value.code == "wrong_shape"


def planted(rng: np.random.Generator, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pictures of dark ellipses, each wider than high, on a light ground: (N, 3, H, W) and their masks (N, 1, H, W)."""
    rows, columns = np.mgrid[:height, :width]
    masks = np.zeros((count, 1, height, width), bool)
    for mask in masks:
        for y, x in rng.uniform((6, 9), (height - 6, width - 9), (5, 2)):
            mask[0] |= ((rows - y) / 5) ** 2 + ((columns - x) / 8) ** 2 < 1
    pictures = np.where(masks, 0.4, 0.8) + rng.normal(0, 0.1, (count, 3, height, width))
    return torch.from_numpy(pictures.clip(0, 1)).float(), torch.from_numpy(masks).float()


def learned(seed: int) -> float:
    """Dice of a network that saw 30 batches, on pictures of an odd size that it never saw."""
    rng, net = np.random.default_rng(seed), Net(depth=3, seed=seed)
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=5e-3)
    for _ in range(30):
        x, truth = planted(rng, 4, 64, 96)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x), truth).backward()
        optimizer.step()
    x, truth = planted(rng, 4, 75, 101)
    with torch.inference_mode():
        found = net.eval()(x) > 0
    return float(2 * (found * truth).sum() / (found.sum() + truth.sum()))


def test_it_finds_what_it_was_shown_where_it_is() -> None:
    dice = [learned(seed) for seed in range(2)]
    assert np.mean(dice) > 0.9, dice
    assert min(dice) > 0.85, dice
