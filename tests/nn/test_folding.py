"""Folding of normalisation: the same answers from fewer layers, and nothing folded that would change them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsikit.nn.folding import fold_norms
from wsikit.nn.pyramid import FeatureEncoder
from wsikit.nn.unet import MaskDecoder, SubpixelDecoder


class Net(nn.Module):
    def __init__(self, name: str, depth: int) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(name, depth=depth)
        self.mask = MaskDecoder(self.encoder)
        self.subpixel = SubpixelDecoder(self.encoder, 2, (24,) * (depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        levels = self.encoder(x)
        return torch.cat([self.mask(x.shape[-2:], levels), self.subpixel(x.shape[-2:], levels)], dim=1)


class Branched(nn.Module):
    """One convolution whose answer two normalisations take, one that is asked twice, and one whose answer is changed
    in place before it is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.one, self.two = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.twice, self.three = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.changed = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        x = self.one(x) + self.two(x)
        x = self.three(self.twice(self.twice(x)))
        changed: Tensor = self.changed(x)
        return changed


def lived(network: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics and weights as after a training, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 2.0),
                (norm.weight.data, 0.5, 1.5),
                (norm.bias.data, -0.2, 0.2),
            ):
                assert values is not None
                values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("name", "depth"), [("test_efficientnet", 5), ("tf_efficientnet_lite0", 3), ("resnet10t", 5)])
@torch.inference_mode()
def test_the_same_answers_without_any_norm(name: str, depth: int) -> None:
    network, x = lived(Net(name, depth)), torch.rand(2, 3, 64, 96)
    before = network(x)
    assert norms(network) > 0
    folded = fold_norms(network, network, torch.rand(1, 3, 32, 32))
    assert norms(folded) == 0
    assert before.std() > 1e-3
    torch.testing.assert_close(folded(x), before, atol=1e-4 * float(before.abs().max()), rtol=1e-3)


@torch.inference_mode()
def test_what_does_not_simply_follow_is_left() -> None:
    network, x = lived(Branched()), torch.rand(1, 3, 16, 16)
    before = network(x)
    torch.testing.assert_close(fold_norms(network, network, x)(x), before)
    assert norms(network) == 4
