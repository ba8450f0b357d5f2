"""Weights from files: safetensors and PyTorch checkpoints, nothing that runs code when it is read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.errors import ConfigError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

SAFE, PICKLED = ".safetensors", (".pth", ".bin", ".pt", ".ckpt")
WHOLE = "copy the file again: it may be cut short"
SHOWN_KEYS = 6
"""Missing or unexpected keys that a message lists."""


def sha256(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        ConfigError: it is not there or cannot be read (code no_weights).
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"the weights {path} cannot be read: {error.strerror}",
            code="no_weights",
            remedy="give the path of a weights file that is there",
        ) from error


def read_state(path: Path) -> State:
    """name -> tensor, on the CPU, as they are in the file; a teacher's where there is a teacher and a student.

    Raises:
        ConfigError: not there (code no_weights), or no whole file of tensors (code bad_weights).
    """
    if path.suffix.lower() == SAFE:
        return _read_safetensors(path)
    if path.suffix.lower() in PICKLED:
        return _flat(read_pickled(path), path)
    raise ConfigError(
        f"weights are read from {SAFE} and {', '.join(PICKLED)}, got {path.name!r}",
        code="bad_weights",
        remedy="convert them with safetensors.torch.save_file",
    )


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise ConfigError(f"the weights {path} cannot be read: {error}", code="no_weights") from error
    except SafetensorError as error:
        raise ConfigError(f"{path} is no whole safetensors file: {error}", code="bad_weights", remedy=WHOLE) from error


def read_pickled(path: Path) -> object:
    """What ``torch.save`` wrote; weights_only keeps a pickle from running code."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"the weights {path} cannot be read: {error.strerror}", code="no_weights") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"{path} is no whole checkpoint of tensors: {reason}",
            code="bad_weights",
            remedy=f"{WHOLE}; or it holds more than tensors: save its state_dict as safetensors",
        ) from error


def _flat(saved: object, path: Path) -> State:
    """The tensors of a checkpoint, from below the names that training codes put them under."""
    import torch

    while isinstance(saved, Mapping):
        inner = next((saved[k] for k in ("teacher", "state_dict", "model") if isinstance(saved.get(k), Mapping)), None)
        if inner is None:
            break
        saved = inner
    if not isinstance(saved, Mapping) or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        raise ConfigError(
            f"{path} holds no state_dict, it holds a {type(saved).__name__}",
            code="bad_weights",
            remedy="save the network's state_dict as safetensors",
        )
    return {str(key): value for key, value in saved.items()}


def backbone(state: State, own: Collection[str]) -> State:
    """The backbone of a self-supervised checkpoint under the names of its network; another state as it is.

    DINO and DINOv2 (Caron et al. 2021, Oquab et al. 2023) save teacher and student, wrapped for several GPUs
    (``module.``), the backbone beside its projection head (``backbone.``), and large ones in chunks of blocks
    (``blocks.<chunk>.<number>.``).

    Args:
        state: name -> tensor.
        own: the network's names; those that are right already stay.
    """
    for prefix in ("teacher.", "module.", "backbone."):
        below = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        state = below if below and not any(key in own for key in state) else state
    return {
        key if key in own else re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value
        for key, value in state.items()
    }


def fill(module: torch.nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Put weights into a network, all of them.

    Raises:
        ConfigError: names or shapes do not match (code weights_mismatch); the message lists them.
    """
    own = module.state_dict()
    shapes = [
        f"{key} is {tuple(state[key].shape)}, {tuple(own[key].shape)} is needed"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    found = {
        # a counter that only training uses; old checkpoints lack it
        "missing": [key for key in own if key not in state and not key.endswith(".num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    wrong = "; ".join(f"{len(keys)} {name}: {_listed(keys)}" for name, keys in found.items() if keys)
    if wrong:
        raise ConfigError(
            f"the weights of {source} do not fit {type(module).__name__}: {wrong}",
            code="weights_mismatch",
            remedy="name the architecture that the weights were trained with",
        )
    module.load_state_dict(dict(state))


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
