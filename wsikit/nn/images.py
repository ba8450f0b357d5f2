"""From bytes to what a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from wsikit.errors import ConfigError

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1] over ImageNet's training images, as torchvision and timm state them."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Pixels to normalised tensors, on the device that the pixels are on."""

    mean: Triple = IMAGENET_MEAN
    """RGB, of values in [0, 1]."""
    std: Triple = IMAGENET_STD
    """RGB, of values in [0, 1]."""
    size: int | None = None
    """Side in px of the square that the network takes; patches of another side are resized. None takes any."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How they are resized, always with antialiasing and without rounding to bytes in between."""

    def __post_init__(self) -> None:
        triples = len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, (*self.mean, *self.std)))
        if not triples or min(self.std) <= 0:
            raise ConfigError(f"mean and std are 3 numbers each, std above 0; got mean={self.mean}, std={self.std}")
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size is the side of a square in px, got {self.size}")
        if self.interpolation not in {"bilinear", "bicubic"}:
            raise ConfigError(f"interpolation is bilinear or bicubic, got {self.interpolation!r}")

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tensor of (N, 3, S, S) float32 on the device of ``pixels``, channels last in memory.

        Args:
            pixels: (N, H, W, 3) uint8 RGB; left as they are.
        """
        import torch

        # (N, H, W, 3) -> (N, 3, H, W) without moving a byte: that is what channels_last means
        values = pixels.permute(0, 3, 1, 2).float()
        if self.size is not None and values.shape[-2:] != (self.size, self.size):
            values = torch.nn.functional.interpolate(
                values, (self.size, self.size), mode=self.interpolation, align_corners=False, antialias=True
            )
        mean, std = _constants(self.mean, self.std, pixels.device)
        return values.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


@cache
def _constants(mean: Triple, std: Triple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Of values in [0, 255], kept where they are used: copying them to a GPU each time would wait for all its work."""
    import torch

    first, second = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (mean, std))
    return first, second
