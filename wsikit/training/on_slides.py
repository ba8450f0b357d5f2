"""Trained networks on slides: what the predictors of methods share.

Windows see the slide mirrored where they reach past its border, so that what lies on it looks like what lies inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region, TileSpec
from wsikit.nn.device import Precision, choose_device, pass_size
from wsikit.nn.images import Preprocess
from wsikit.predictions import Batch
from wsikit.training.checkpoint import MethodCard, load_checkpoint

if TYPE_CHECKING:
    from torch import nn

    from wsikit.nn.feed import Feed, Forward
    from wsikit.slides import Slide
    from wsikit.tissue import TissueMask

    Make = Callable[[dict[str, Any]], tuple[nn.Module, Forward]]
    """A card's configuration -> the network, not yet its weights, and what it says of pixels. A function of a module,
    since it is what a process remembers a loaded network by."""

C = TypeVar("C")
PASS_PIXELS = 256**2
"""Of a patch that ``pass_size`` is meant for."""
SIDE = 64
"""px of the example that shows which layers follow which."""


@dataclass(frozen=True, slots=True)
class OnSlides(Generic[C]):
    """What a checkpoint is, and the slide that it is bound to. Pickles as the card, the file's path and its sha256."""

    card: MethodCard
    config: C
    weights: Path
    tile: TileSpec
    device: str
    precision: Precision = "float32"
    """What the network computes in."""
    size: tuple[int, int] | None = None
    """(width, height) of the slide on its lattice; set by ``prepare``."""

    @classmethod
    def made(
        cls,
        card: MethodCard,
        config: C,
        path: Path,
        *,
        mpp: float | None,
        min_tissue: float | None,
        device: str,
        precision: Precision = "float32",
    ) -> Self:
        """At the card's um per px and on any tissue where these are not given. Raises ConfigError: no such device."""
        tile = TileSpec(card.mpp if mpp is None else mpp, card.core, card.halo, min_tissue or 0.0)
        return cls(card, config, path.absolute(), tile, choose_device(device).type, precision)

    @property
    def name(self) -> str:
        """As reports show it."""
        return self.card.name

    @property
    def bound(self) -> Mapping[str, Any]:
        """Empty: the slide's size decides nothing that its pixels do not."""
        return {}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Bind the slide's size, so that windows can be mirrored at its border."""
        return replace(self, size=slide.size_at(slide.resolve(self.tile.mpp)))

    def plane(self, mpp: float) -> Region:
        """The slide at so many um per px. Raises PredictionError before ``prepare``."""
        if self.size is None:
            raise PredictionError(f"{self.name} has no slide yet: call prepare(slide, tissue) and use its result")
        return Region(0, 0, *self.size, mpp)

    def seen(self, batch: Batch) -> NDArray[np.uint8]:
        """(N, H, W, 3) patches, N at least 1, mirrored at the slide's border. Raises PredictionError before
        ``prepare``."""
        plane = self.plane(batch.regions[0].mpp)
        return np.stack([mirrored(*pair, plane) for pair in zip(batch.images, batch.regions, strict=True)])

    def ask(self, make: Make, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network gives for (N, H, W, 3) RGB, N at least 1.

        Raises ConfigError (code bad_weights) where the file is no longer that of the card.
        """
        # windows are large, and what the network makes of one at full resolution is many times as large
        patches = max(1, pass_size(self.device) * PASS_PIXELS // self.tile.patch**2)
        return _feed(make, self.weights, self.card.sha256 or "", self.device, patches, self.precision)(pixels)


@cache
def _feed(make: Make, weights: Path, digest: str, device: str, batch: int, precision: Precision) -> Feed:
    """One for a process."""
    import torch

    from wsikit.nn.feed import Feed
    from wsikit.nn.folding import fold_norms
    from wsikit.nn.rewriting import rewrite
    from wsikit.nn.weights import fill, sha256

    if sha256(weights) != digest:
        raise ConfigError(f"the weights {weights} changed while they were in use", code="bad_weights")
    state, card = load_checkpoint(weights)
    network, forward = make(card.config)
    fill(network, state, weights.name)
    network.eval().to(device).to(memory_format=torch.channels_last)
    example = torch.zeros(1, 3, SIDE, SIDE, device=device)
    fold_norms(network, forward, example)
    if device == "cpu" and precision == "float32":  # where it was measured
        rewrite(network, forward, example)
    # the encoder normalises itself
    return Feed(card.method, forward, Preprocess((0, 0, 0), (1, 1, 1), None), device, batch, precision=precision)


def mirrored(image: NDArray[np.uint8], region: Region, plane: Region) -> NDArray[np.uint8]:
    """The patch with what lies outside the slide taken from inside, mirrored at the border."""
    inside = region.intersection(plane)
    if inside == region or inside is None:
        return image
    columns, rows = (
        _mirror(np.arange(start, stop), length) - start
        for start, stop, length in ((region.x, region.x1, plane.width), (region.y, region.y1, plane.height))
    )
    height, width = image.shape[:2]
    # a slide narrower than the halo has no mirror image for all of it: the nearest pixel that the patch holds
    return image[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]


def _mirror(position: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions on a line of ``length`` pixels that repeats itself mirrored, the border pixel included."""
    folded = np.mod(position, 2 * length)
    return np.asarray(np.minimum(folded, 2 * length - 1 - folded))
