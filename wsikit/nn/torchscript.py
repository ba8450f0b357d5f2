"""TorchScript files. Loading one runs the code in it, as running a program does: only from sources that you trust."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.nn.device import Precision, choose_device, pass_size
from wsikit.nn.images import Preprocess
from wsikit.nn.networks import Network

if TYPE_CHECKING:
    from wsikit.nn.feed import Feed


@dataclass(frozen=True, slots=True)
class TorchScript:
    """A TorchScript file, loaded in each process when it is first used. Pickles as path and sha256."""

    network: Network
    preprocess: Preprocess
    device: str
    batch: int
    """Patches in a pass."""
    precision: Precision = "float32"

    @classmethod
    def open(
        cls, path: Path, digest: str, preprocess: Preprocess, device: str, precision: Precision = "float32"
    ) -> TorchScript:
        """Raises ConfigError for cuda where torch sees no GPU."""
        where = choose_device(device).type
        return cls(Network(path.stem, path.absolute(), digest), preprocess, where, pass_size(where), precision)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the model gives for (N, H, W, 3) RGB, N at least 1.

        Raises:
            ConfigError: the file is no whole TorchScript, or changed (code bad_weights); or what it gives is no tensor.
        """
        return _feed(self)(images)


@cache
def _feed(graph: TorchScript) -> Feed:
    """One for a process, which remembers how much the device holds."""
    import torch

    from wsikit.nn.feed import Feed, loaded

    module, name = loaded(graph.network, graph.device), graph.network.weights.name

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        output = module(pixels)
        if not isinstance(output, torch.Tensor):
            raise ConfigError(
                f"the model {name} gives a {type(output).__name__}, one tensor is needed",
                code="bad_model",
                remedy="script a wrapper whose forward returns the one tensor that counts",
            )
        return output

    # scripted code may view tensors as if their channels came first in memory
    return Feed(
        name,
        forward,
        graph.preprocess,
        graph.device,
        graph.batch,
        precision=graph.precision,
        channels_last=False,
    )
