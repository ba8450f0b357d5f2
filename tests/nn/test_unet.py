"""The U-Net's decoders: a logit for every pixel at any size, in its place, and everything in it is trained."""

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
from wsikit.nn.unet import MaskDecoder, SubpixelDecoder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers are slower on several threads, by far where others use the processors too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MASK, SUBPIXEL = "mask", "subpixel"
BOTH = pytest.mark.parametrize("kind", [MASK, SUBPIXEL])


class Net(nn.Module):
    def __init__(
        self, kind: str, name: str = "test_efficientnet", *, depth: int = 5, classes: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = FeatureEncoder(name, depth=depth)
        if kind == MASK:
            self.decoder: MaskDecoder | SubpixelDecoder = MaskDecoder(self.encoder, classes, width=64)
        else:
            self.decoder = SubpixelDecoder(self.encoder, classes, [64, 48, 32, 16][1 - depth :])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(x.shape[-2:], self.encoder(x))
        return logits


NETS = {kind: Net(kind, classes=2).eval() for kind in (MASK, SUBPIXEL)}


@BOTH
@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 75), width=st.integers(1, 75))
@torch.inference_mode()
def test_every_pixel_has_its_logits(kind: str, height: int, width: int) -> None:
    logits = NETS[kind](torch.rand(2, 3, height, width))
    assert logits.shape == (2, 2, height, width)
    assert torch.isfinite(logits).all()


@BOTH
@pytest.mark.parametrize(("name", "depth"), [("test_efficientnet", 3), ("convnext_atto", 4), ("resnet10t", 5)])
@torch.inference_mode()
def test_other_pyramids_do(kind: str, name: str, depth: int) -> None:
    assert Net(kind, name, depth=depth).eval()(torch.rand(1, 3, 45, 70)).shape == (1, 1, 45, 70)


@BOTH
@torch.inference_mode()
def test_a_picture_moved_by_the_last_stride_gives_the_same_moved(kind: str) -> None:
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    net = Net(kind, depth=3).eval()
    down, right = net(x[..., 8:, :])[..., 96:160, 96:160], net(x[..., 8:])[..., 96:160, 96:160]
    here = net(x)
    torch.testing.assert_close(down, here[..., 104:168, 96:160], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(right, here[..., 96:160, 104:168], atol=1e-5, rtol=1e-4)


@BOTH
@torch.inference_mode()
def test_a_picture_does_not_see_its_neighbours_in_the_batch(kind: str) -> None:
    x, net = torch.rand(3, 3, 64, 64), NETS[kind]
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), atol=1e-5, rtol=1e-4)


@BOTH
def test_everything_is_trained(kind: str) -> None:
    net = Net(kind).train()
    net(torch.rand(4, 3, 96, 96)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@BOTH
def test_levels_of_another_size_are_refused(kind: str) -> None:
    net = NETS[kind]
    with pytest.raises(ConfigError, match="70 x 40 px") as caught:
        net.decoder((40, 70), net.encoder(torch.rand(1, 3, 70, 40)))
    assert caught.value.code == "wrong_shape"


def test_a_width_for_every_block_but_the_last_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="3 levels has 2 widths, got 1"):
        SubpixelDecoder(FeatureEncoder("test_efficientnet", depth=3), 1, [16])


def planted(rng: np.random.Generator, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pictures of dark ellipses, each wider than high, on a light ground: (N, 3, H, W) and their masks (N, 1, H, W)."""
    rows, columns = np.mgrid[:height, :width]
    masks = np.zeros((count, 1, height, width), bool)
    for mask in masks:
        for y, x in rng.uniform((6, 9), (height - 6, width - 9), (5, 2)):
            mask[0] |= ((rows - y) / 5) ** 2 + ((columns - x) / 8) ** 2 < 1
    pictures = np.where(masks, 0.4, 0.8) + rng.normal(0, 0.1, (count, 3, height, width))
    return torch.from_numpy(pictures.clip(0, 1)).float(), torch.from_numpy(masks).float()


def learned(kind: str, seed: int) -> float:
    """Dice of a network that saw 30 batches, on pictures of an odd size that it never saw."""
    rng, net = np.random.default_rng(seed), Net(kind, depth=3, seed=seed)
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


@BOTH
def test_it_finds_what_it_was_shown_where_it_is(kind: str) -> None:
    dice = [learned(kind, seed) for seed in range(2)]
    assert np.mean(dice) > 0.9, dice
    assert min(dice) > 0.85, dice
