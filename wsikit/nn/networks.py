"""Which network an encoder's name means, and how it is put together with its weights."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsikit.errors import ConfigError, UnknownNameError
from wsikit.nn.images import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from wsikit.nn.weights import backbone, fill, read_state, sha256

if TYPE_CHECKING:
    import torch

SCRIPTED = (".pt", ".ts", ".jit", ".torchscript")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What hubs call the weights of a folder, in the order of preference; else the only file with such a suffix counts."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its weights, by name: small, hashable, and the same in every process."""

    name: str
    weights: Path
    """File of weights, or the TorchScript file."""
    digest: str
    """sha256 of that file."""
    architecture: str = ""
    """timm's name; empty for TorchScript."""
    arguments: str = "{}"
    """What timm's builder is told beside it, as JSON."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its answers."""
        made = {"architecture": self.architecture or "torchscript"}
        arguments = json.loads(self.arguments)
        return {**made, **({"arguments": arguments} if arguments else {}), "sha256": self.digest}

    def load(self) -> torch.nn.Module:
        """The network with its weights, on the CPU.

        Raises:
            ConfigError: the file changed, is not whole, or does not fit.
        """
        if sha256(self.weights) != self.digest:
            raise ConfigError(f"the weights {self.weights} changed while they were in use", code="bad_weights")
        return self._timm() if self.architecture else _scripted(self.weights)

    def _timm(self) -> torch.nn.Module:
        import torch

        module = build(self.architecture, json.loads(self.arguments))
        fill(module, _without_head(timm_state(self.weights, module), module), self.weights.name)
        filled: torch.nn.Module = module.to(memory_format=torch.channels_last)
        return filled


def build(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """A timm network that gives features, with random weights.

    Raises:
        ConfigError: arguments that it does not take.
    """
    import timm

    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"timm cannot build {architecture!r} with {dict(arguments)}: {error}") from error


def timm_state(path: Path, module: Any) -> dict[str, torch.Tensor]:
    """The tensors of a file of weights under the names of a timm network.

    Raises:
        ConfigError: no whole file of tensors.
    """
    import torch

    state = backbone(read_state(path), module.state_dict().keys())
    # timm keeps how foreign names become its own beside each family of networks
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    with torch.inference_mode():
        return convert(state, module) if convert else state


def _without_head(state: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """Without the classifier, which features leave out."""
    heads = module.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    own = module.state_dict()
    return {k: v for k, v in state.items() if k in own or not k.startswith(tuple(f"{head}." for head in heads))}


def find_network(spec: str) -> tuple[Network, Preprocess]:
    """The network that a text means, and how its pixels are made.

    Raises:
        UnknownNameError: no such architecture.
        ConfigError: nothing named, files that are not there or not what they should be.
    """
    if not spec.strip():
        raise ConfigError(
            "no encoder is named", remedy="-m takes a timm name, NAME:WEIGHTS, a TorchScript file or a folder"
        )
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() in SCRIPTED and (path.is_file() or ":" not in spec):
        network = Network(path.stem, path.absolute(), sha256(path))
        return network, Preprocess()
    architecture, colon, file = spec.partition(":")
    if path.is_file():
        raise ConfigError(
            f"{spec} holds weights without their network",
            code="bad_weights",
            remedy=f"name the timm architecture before it: -m ARCHITECTURE:{spec}",
        )
    known(architecture)
    weights = Path(file) if colon else cached(architecture)
    network = Network(architecture, weights.absolute(), sha256(weights), architecture)
    return network, preprocess(build(architecture, {}).pretrained_cfg)


def known(architecture: str) -> None:
    """Raise UnknownNameError, with the nearest names, for what is no architecture of timm's."""
    import difflib

    import timm

    if timm.is_model(architecture):
        return
    near = difflib.get_close_matches(architecture.partition(".")[0], timm.list_models(), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UnknownNameError(
        f"there is no file, folder or timm architecture {architecture!r}.{hint}",
        remedy="timm.list_models() lists the architectures; a path must be of a file or folder that is there",
    )


def cached(architecture: str) -> Path:
    """The pretrained weights of an architecture where an earlier download left them.

    Raises:
        ConfigError: they are not on this machine (code no_weights).
    """
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(architecture)
    repository = (config and config.hf_hub_id) or ""
    for name in filter(None, (config.hf_hub_filename, *WEIGHTS) if config and repository else ()):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    url = config.url if config else None
    if isinstance(url, str) and (kept := Path(torch.hub.get_dir(), "checkpoints", Path(url).name)).is_file():
        return kept
    raise ConfigError(
        f"the pretrained weights of {architecture!r} are not on this machine"
        + (f" ({repository} in the Hugging Face cache)" if repository else ""),
        code="no_weights",
        remedy=f"fetch them once and give the file: -m {architecture}:WEIGHTS.safetensors; wsikit downloads nothing",
    )


def _from_folder(folder: Path) -> tuple[Network, Preprocess]:
    config = _config(folder / "config.json")
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise ConfigError(
            f"{folder / 'config.json'} names no timm architecture",
            code="bad_config",
            remedy='it needs "architecture", such as {"architecture": "vit_small_patch16_224"}; a folder of the '
            "transformers library must be converted",
        )
    known(architecture)
    arguments = dict(config.get("model_args") or {})
    if config.get("global_pool"):
        arguments["global_pool"] = config["global_pool"]
    weights = _weights_of(folder)
    network = Network(
        folder.resolve().name, weights.absolute(), sha256(weights), architecture, json.dumps(arguments, sort_keys=True)
    )
    # a folder's own facts win over those of the architecture's usual weights
    built = build(architecture, arguments)
    return network, preprocess({**built.pretrained_cfg, **(config.get("pretrained_cfg") or {})})


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}",
            remedy='a folder of an encoder holds config.json, at least {"architecture": a timm name}, and its weights',
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold an object, got a {type(config).__name__}")
    return config


def _weights_of(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".pth", ".bin", ".pt"})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"{folder} must hold {' or '.join(WEIGHTS)}, or exactly one other file of weights; found {names}",
            code="no_weights",
        )
    return found[0]


def preprocess(config: Mapping[str, Any]) -> Preprocess:
    """From a timm ``pretrained_cfg``: mean, std, input size, interpolation. Patches are never cropped."""
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    )
    mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
    size = (config.get("input_size") or (3, 224, 224))[-1]
    return Preprocess(tuple(mean), tuple(std), int(size), interpolation)


def _scripted(path: Path) -> torch.nn.Module:
    import torch

    try:
        with warnings.catch_warnings():
            # deprecated, and yet what most published models come as
            warnings.filterwarnings("ignore", "`torch.jit.load`", FutureWarning)
            module: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"{path} is no whole TorchScript file: {reason}",
            code="bad_weights",
            remedy="copy it again; a state_dict needs its architecture: -m ARCHITECTURE:FILE",
        ) from error
    return module
