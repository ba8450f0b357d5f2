"""Rewriting of layers: the same answers from other layers, and nothing rewritten that would change them."""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from timm.layers import Conv2dSame
from torch import Tensor, nn

from tests.nn.test_folding import Net, lived
from wsikit.nn.folding import fold_norms
from wsikit.nn.rewriting import Rising, rewrite


def folded(network: nn.Module) -> nn.Module:
    return fold_norms(lived(network), network, torch.rand(1, 3, 64, 64))


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "depth"),
    [("tf_efficientnet_lite0", 5), ("tf_efficientnet_lite0", 3), ("resnet10t", 5), ("convnext_atto", 4)],
)
@pytest.mark.parametrize("size", [(64, 96), (65, 131)])
@torch.inference_mode()
def test_the_same_answers_from_layers_that_copy_less(name: str, depth: int, size: tuple[int, int]) -> None:
    network, x = folded(Net(name, depth)), torch.rand(2, 3, *size)
    before, blocks, strided = network(x), count(network, UnetDecoderBlock), count(network, Conv2dSame)
    rewritten = rewrite(network, network, torch.rand(1, 3, 64, 64))
    assert count(rewritten, Rising) == blocks > 0
    # the first layer is no depthwise one
    assert count(rewritten, Conv2dSame) == min(strided, 1)
    assert before.std() > 1e-3
    torch.testing.assert_close(rewritten(x), before, atol=1e-4 * float(before.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("side", [3, 5])
@torch.inference_mode()
def test_a_strided_depthwise_convolution_keeps_what_it_gives(side: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Conv2dSame(8, 8, side, stride=2, groups=8, bias=True))
    x = torch.rand(1, 3, 18, 32)
    before = network(x)
    torch.testing.assert_close(rewrite(network, network, x)(x), before)
    assert not count(network, Conv2dSame)


class Weighed(nn.Module):
    """A block with attention, and one that is normalised still."""

    def __init__(self) -> None:
        super().__init__()
        self.one = UnetDecoderBlock(3, 16, 32, attention_type="scse", use_norm=False)
        self.two = UnetDecoderBlock(32, 0, 4)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        inner = self.one(x[..., ::2, ::2], height, width, x[:, :1].expand(-1, 16, -1, -1))
        answer: Tensor = self.two(inner, 2 * height, 2 * width)
        return answer


@torch.inference_mode()
def test_blocks_that_do_more_are_left() -> None:
    network, x = lived(Weighed()), torch.rand(1, 3, 16, 16)
    before = network(x)
    torch.testing.assert_close(rewrite(network, network, x)(x), before)
    assert count(network, UnetDecoderBlock) == 2
