"""Encoders: one feature vector per patch, from any timm network, a TorchScript file or a folder as hubs ship them.

What ``-m`` can be:

* ``resnet18``: an architecture of timm with its pretrained weights, where they are in the local cache;
* ``resnet18:weights.safetensors``: the same with weights from a file (.safetensors, .pth, .bin);
* ``model.pt``: a TorchScript file, (N, 3, S, S) -> (N, D); its card (``model.json``), where there is one beside it,
  says resolution, patch and preprocessing, else ImageNet's mean and std are used;
* ``folder/``: a ``config.json`` that names a timm architecture and one file of weights beside it, as UNI, Prov-GigaPath
  and H-optimus ship; the weights may be a DINO or DINOv2 teacher's.

Nothing is ever downloaded. The vector is what timm calls the pooled features: global average pooling for convolutional
networks, the class token for transformers that have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import TileSpec
from wsikit.nn.card import Card, find_card, read_card
from wsikit.nn.device import CPU_BATCH, Precision, choose_device, pass_size
from wsikit.nn.images import Preprocess
from wsikit.nn.networks import Network, find_network
from wsikit.predictions import Batch, Label

if TYPE_CHECKING:
    from wsikit.nn.feed import Feed
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask

DEFAULT_MPP = 0.5
"""um per px where nothing else is said: objective power 20, what most encoders of pathology were trained at."""
DEFAULT_PATCH = 224
"""px, for networks that do not say what they take."""
DEFAULT_MIN_TISSUE = 0.25
"""Share of a patch: less shows the encoder mostly glass."""


@dataclass(frozen=True, slots=True)
class NetworkEncoder:
    """An encoder whose network is loaded in each process when it is first used. Pickles as what names the network.

    Meets ``wsikit.predictions.Encoder``. Made by ``load_encoder``.
    """

    name: str
    network: Network
    preprocess: Preprocess
    tile: TileSpec
    width: int
    """D, measured when the encoder was made."""
    device: str = "cpu"
    batch: int = CPU_BATCH
    """Patches in a pass, where the device has the memory."""
    precision: Precision = "float32"

    labels: ClassVar[tuple[Label, ...]] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hash of the weights, architecture, preprocessing and precision."""
        return {
            **self.network.identity,
            "preprocess": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.preprocess).items()},
            "precision": self.precision,
            "width": self.width,
        }

    @property
    def bound(self) -> Mapping[str, Any]:
        """Nothing: an encoder sees every slide alike."""
        return {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """The encoder itself."""
        return self

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """(N, D) features of N patches, in order."""
        if not len(batch):
            return np.zeros((0, self.width), np.float32)
        return _feed(self.network, self.preprocess, self.device, self.batch, self.precision)(batch.images)


def load_encoder(
    spec: str,
    *,
    mpp: float | None = None,
    patch: int | None = None,
    overlap: int = 0,
    min_tissue: float | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    precision: Precision | None = None,
) -> NetworkEncoder:
    """Make an encoder; its network is loaded once here, so that what cannot work is said before any slide is read.

    Args:
        spec: see the module's text.
        mpp: micrometres per pixel of the patches; 0.5 if not given.
        patch: side of the patches in px; what the network takes if not given. Another one is resized on the device.
        overlap: px that neighbouring patches share; even, at most half a patch.
        min_tissue: smallest share of a patch's core that is tissue; 0.25 if not given.
        device: auto, cpu or cuda.
        batch_size: patches in a pass on a GPU; 64 if not given. On the CPU it is fixed, and does not change results.
        precision: bfloat16 and float16 are faster on a GPU and round the features; what the card says, else float32, if
            not given.

    Raises:
        ConfigError: no such file, weights that do not fit, a GPU that is not there, a size that cannot be.
    """
    where = choose_device(device)
    network, preprocess = find_network(spec)
    card = None if network.architecture else _card_of(network)
    if card is not None:
        preprocess = card.preprocess
        mpp, patch = card.tile(mpp).mpp, patch if patch is not None else card.patch
        precision = precision or card.precision
    side = patch if patch is not None else preprocess.size or DEFAULT_PATCH
    if overlap % 2 or not 0 <= overlap <= side // 2:
        raise ConfigError(f"overlap is an even number of px, at most half the patch of {side} px; got {overlap}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is a positive number of patches, got {batch_size}")
    tile = TileSpec(
        DEFAULT_MPP if mpp is None else mpp,
        side - overlap,
        overlap // 2,
        DEFAULT_MIN_TISSUE if min_tissue is None else min_tissue,
    )
    precision = precision or "float32"
    batch = pass_size(where.type) if where.type == "cpu" or batch_size is None else batch_size
    probe = np.zeros((batch, side, side, 3), np.uint8)
    width = _feed(network, preprocess, where.type, batch, precision)(probe).shape[1]
    return NetworkEncoder(network.name, network, preprocess, tile, width, where.type, batch, precision)


def _card_of(network: Network) -> Card | None:
    """The card beside a TorchScript file. Raises ConfigError where it is no embedding's."""
    beside = (network.weights.with_name("config.json"), *network.weights.parent.glob(f"{network.weights.stem}*"))
    if not any(path.suffix in {".json", ".yaml", ".yml"} and path.is_file() for path in beside):
        return None
    path = find_card(network.weights)
    card = read_card(path)
    if card.task != "embedding":
        raise ConfigError(
            f"{network.weights.name} does {card.task}, says its card {path.name}; an encoder does embedding",
            code="bad_card",
            remedy=f"run it with `wsikit run -m {network.weights.name}`, or correct the card",
        )
    return card


@cache
def _feed(network: Network, preprocess: Preprocess, device: str, batch: int, precision: Precision) -> Feed:
    """One for a process, which remembers how much the device holds."""
    import torch

    from wsikit.nn.feed import Feed, loaded

    module = loaded(network, device)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        vectors = module(pixels)
        if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2 or len(vectors) != len(pixels):
            got = (
                f"shape {tuple(vectors.shape)}" if isinstance(vectors, torch.Tensor) else f"a {type(vectors).__name__}"
            )
            raise PredictionError(
                f"the encoder {network.name!r} gave {got} for {len(pixels)} patches; a tensor of shape "
                f"({len(pixels)}, D) is needed",
                remedy="wrap the network so that it returns one pooled vector per patch",
            )
        return vectors

    return Feed(network.name, forward, preprocess, device, batch, precision=precision)
