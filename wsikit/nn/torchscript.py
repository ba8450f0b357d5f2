"""TorchScript files. Loading one runs the code in it, as running a program does: only from sources that you trust."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.nn.device import choose_device, fix_threads
from wsikit.nn.images import Preprocess
from wsikit.nn.networks import Network

if TYPE_CHECKING:
    import torch

CPU_BATCH, GPU_BATCH = 8, 64
"""Patches in a pass; always this many, since other sizes go other ways through the libraries and move the last bits."""
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class TorchScript:
    """A TorchScript file, loaded in each process when it is first used. Pickles as path and sha256."""

    network: Network
    preprocess: Preprocess
    device: str
    batch: int

    @classmethod
    def open(cls, path: Path, digest: str, preprocess: Preprocess, device: str) -> TorchScript:
        """Raises ConfigError for cuda where torch sees no GPU."""
        where = choose_device(device).type
        network = Network(path.stem, path.absolute(), digest)
        return cls(network, preprocess, where, CPU_BATCH if where == "cpu" else GPU_BATCH)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the model gives for (batch, H, W, 3) RGB.

        Raises:
            ConfigError: the file is no whole TorchScript, or changed (code bad_weights); or what it gives is no tensor.
        """
        import torch

        fix_threads()
        with _LOADING:
            module = _loaded(self.network, self.device)
        with torch.inference_mode():
            output: Any = module(self.preprocess(images, torch.device(self.device)).contiguous())
        if not isinstance(output, torch.Tensor):
            raise ConfigError(
                f"the model {self.network.weights.name} gives a {type(output).__name__}, one tensor is needed",
                code="bad_model",
                remedy="script a wrapper whose forward returns the one tensor that counts",
            )
        found: NDArray[np.float32] = output.float().cpu().numpy()
        return found


@cache
def _loaded(network: Network, device: str) -> torch.nn.Module:
    return network.load().eval().to(device)
