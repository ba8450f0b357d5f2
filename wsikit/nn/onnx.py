"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.nn.device import THREADS, pass_size
from wsikit.nn.images import Preprocess
from wsikit.nn.weights import sha256

if TYPE_CHECKING:
    from wsikit.nn.feed import Feed

CUDA = "CUDAExecutionProvider"
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Onnx:
    """An ONNX file, loaded in each process when it is first used. Pickles as path and sha256."""

    path: Path
    digest: str
    preprocess: Preprocess
    device: str
    batch: int
    """Patches in a pass: the file's own number where it has one."""

    @classmethod
    def open(cls, path: Path, digest: str, preprocess: Preprocess, device: str) -> Onnx:
        """Read what the file takes.

        Raises:
            ConfigError: no whole ONNX file (code bad_weights); several inputs or outputs (code bad_model); cuda where
                ONNX Runtime has none (code no_gpu).
        """
        where = _device(device)
        session = _session(path.absolute(), digest, where)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
            named = f"inputs {_names(inputs)} and outputs {_names(outputs)}"
            raise ConfigError(
                f"the model {path.name} has {named}; one input (N, 3, H, W) and one output are needed",
                code="bad_model",
                remedy="export it with that input and the one output that counts",
            )
        if inputs[0].type != "tensor(float)":
            raise ConfigError(
                f"the model {path.name} takes {inputs[0].type}, tensor(float) is needed", code="bad_model"
            )
        fixed = inputs[0].shape[0]
        batch = fixed if isinstance(fixed, int) else pass_size(where)
        return cls(path.absolute(), digest, preprocess, where, batch)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the model gives for (N, H, W, 3) RGB, N at least 1."""
        return _feed(self)(images)


@cache
def _feed(graph: Onnx) -> Feed:
    import torch

    from wsikit.nn.feed import Feed

    session = _session(graph.path, graph.digest, graph.device)
    (taken,) = session.get_inputs()

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        (output,) = session.run(None, {taken.name: pixels.numpy()})
        return torch.from_numpy(np.asarray(output, np.float32))

    # ONNX Runtime copies to its device itself
    return Feed(graph.path.name, forward, graph.preprocess, "cpu", graph.batch, channels_last=False)


def _names(items: Any) -> str:
    return ", ".join(f"{item.name} {tuple(item.shape)}" for item in items) or "none"


def _device(name: str) -> str:
    import onnxruntime

    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"device is auto, cpu or cuda, got {name!r}")
    found = CUDA in onnxruntime.get_available_providers()
    if name == "cuda" and not found:
        raise ConfigError(
            f"device cuda: ONNX Runtime {onnxruntime.__version__} is built without CUDA here",
            code="no_gpu",
            remedy="install onnxruntime-gpu in place of onnxruntime, or use --device cpu or auto",
        )
    return "cuda" if found and name != "cpu" else "cpu"


def _session(path: Path, digest: str, device: str) -> Any:
    with _LOADING:
        return _loaded(path, digest, device)


@cache
def _loaded(path: Path, digest: str, device: str) -> Any:
    import onnxruntime

    if sha256(path) != digest:
        raise ConfigError(f"the model {path} changed while it was in use", code="bad_weights")
    options = onnxruntime.SessionOptions()
    # as for torch: the machine is filled by workers, and another number of threads may move the last bits
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.log_severity_level = 3
    providers = [CUDA, "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has a class of its own for every status, below Exception only
        raise ConfigError(
            f"{path} is no ONNX model that can be run: {str(error).partition(chr(10))[0][:200]}",
            code="bad_weights",
            remedy="copy it again; or export it for the installed ONNX Runtime",
        ) from error
