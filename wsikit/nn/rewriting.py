"""Layers of networks that only answer, rewritten for the CPU: the same answers from fewer products and fewer copies.

1. A picture enlarged twice by its nearest pixels and convolved with 3 x 3 weights is a transposed convolution of stride
   2 with 4 x 4 weights: four products in place of nine, and neither the enlarged picture nor what it is joined with is
   written.
2. A depthwise convolution of stride 2 that copies its picture to give it a border, as networks of TensorFlow's do, is
   one with a row and a column of zeros more in its weights and as much border on either side, which needs no copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from wsikit.nn.folding import put

N = TypeVar("N", bound=nn.Module)


def rewrite(network: N, forward: Callable[[Tensor], object], example: Tensor) -> N:
    """Rewrite what can be, in place.

    Args:
        network: in eval mode, normalisations folded by ``fold_norms``; made of ``FeatureEncoder`` and the decoders of
            ``wsikit.nn.unet``, whose levels are of even height and width and each half of the one before. What it gives
            stays the same up to rounding. It can be trained no more.
        forward: how it is asked.
        example: input, small, from which is seen how much of what a block takes is enlarged.
    """
    modules = dict(network.named_modules())
    enlarged = _enlarged(network, forward, example)
    for name, module in modules.items():
        if module in enlarged and _plain(module):
            put(modules, name, Rising(module, enlarged[module]))
        elif isinstance(module, Conv2dSame) and _strided_depthwise(module):
            put(modules, name, _padded(module))
    return network


class Rising(nn.Module):
    """A block of smp's U-Net decoder that enlarges by a transposed convolution.

    Args:
        block: without normalisations.
        enlarged: channels of what it enlarges; those that join it come after them.
    """

    def __init__(self, block: UnetDecoderBlock, enlarged: int) -> None:
        super().__init__()
        first = block.conv1[0]
        weight, bias = first.weight.detach(), first.bias.detach()
        self.rise = _transposed(weight[:, :enlarged], bias)
        self.join = _joining(weight[:, enlarged:]) if weight.shape[1] > enlarged else None
        self.rest = nn.Sequential(*list(block.conv1)[1:], *block.conv2)

    def forward(
        self, feature_map: Tensor, target_height: int, target_width: int, skip_connection: Tensor | None = None
    ) -> Tensor:
        """As the block, and called as it is; the target is twice as high and wide as the map."""
        risen: Tensor = self.rise(feature_map)
        if self.join is not None:
            risen += self.join(skip_connection)
        answer: Tensor = self.rest(risen)
        return answer


def _enlarged(network: nn.Module, forward: Callable[[Tensor], object], example: Tensor) -> dict[nn.Module, int]:
    """Channels of what each block of a decoder enlarges."""
    channels: dict[nn.Module, int] = {}

    def asked(block: nn.Module, given: tuple[Tensor, ...]) -> None:
        channels[block] = given[0].shape[1]

    blocks = [module for module in network.modules() if isinstance(module, UnetDecoderBlock)]
    hooks = [block.register_forward_pre_hook(asked) for block in blocks]
    try:
        with torch.inference_mode():
            forward(example)
    finally:
        for hook in hooks:
            hook.remove()
    return channels


def _plain(block: nn.Module) -> bool:
    """Of a kind that ``Rising`` is the same as: nothing normalised or weighed in between."""
    assert isinstance(block, UnetDecoderBlock)
    parts = (block.conv1[1], block.conv2[1], block.attention1.attention, block.attention2.attention)
    return block.interpolation_mode == "nearest" and all(isinstance(part, nn.Identity) for part in parts)


def _transposed(weight: Tensor, bias: Tensor) -> nn.ConvTranspose2d:
    """For (O, C, 3, 3) weights that see an enlarged picture.

    Enlarged, pixel i is there twice along each axis, and pixel 2 i + j - 1 of the answer, for j from 0 to 3, sees one
    copy or both: it takes w[2 - j] + w[3 - j] times pixel i, where weights that are not there are 0.
    """
    along = functional.pad(weight, (1, 1, 1, 1)).flip(2, 3)
    pairs = along[:, :, :-1] + along[:, :, 1:]
    pairs = pairs[..., :-1] + pairs[..., 1:]
    layer = nn.ConvTranspose2d(weight.shape[1], weight.shape[0], 4, stride=2, padding=1)
    layer.weight, layer.bias = nn.Parameter(pairs.transpose(0, 1).contiguous()), nn.Parameter(bias)
    return layer


def _joining(weight: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    layer.weight.data = weight.contiguous(memory_format=torch.channels_last)
    return layer


def _strided_depthwise(conv: Conv2dSame) -> bool:
    side = conv.kernel_size[0]
    square = conv.kernel_size == (side, side) and side % 2 == 1
    return square and conv.stride == (2, 2) and conv.dilation == (1, 1) and conv.groups == conv.in_channels


def _padded(conv: Conv2dSame) -> nn.Conv2d:
    """Of a picture of even height and width, TensorFlow pads k - 2 pixels for k x k weights of stride 2, the odd one
    after it: weights that begin with a line of zeros are right with (k - 1) / 2 on either side."""
    side = conv.kernel_size[0]
    layer = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        side + 1,
        2,
        (side - 1) // 2,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    layer.weight.data = functional.pad(conv.weight.detach(), (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
    layer.bias = conv.bias
    return layer
