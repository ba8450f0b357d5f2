"""Results kept in memory, for callers that go on with them: no files, and no row in ``SINKS``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.features import Features, MaskBlock
from wsikit.sinks import SinkContext


class _Memory:
    """What both kinds share: there is nothing to make visible or to remove."""

    filename: ClassVar[str] = ""
    path = Path("(memory)")
    context: SinkContext

    def begin(self, context: SinkContext) -> None:
        """Remember what the slide and the model are."""
        self.context = context

    def commit(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""


class FeatureList(_Memory):
    """Features as they come, in final order."""

    takes: ClassVar[Literal["features"]] = "features"

    def __init__(self) -> None:
        self.features: list[Features] = []

    def write(self, features: Features) -> None:
        """Append features."""
        self.features.append(features)

    @property
    def geometries(self) -> NDArray[np.object_]:
        """(N,) of all features, (x, y) in level-0 pixels of the full plane."""
        return np.concatenate([np.zeros(0, object), *(part.geometries for part in self.features)])

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) index into the model's labels, -1 for no class."""
        return np.concatenate([np.zeros(0, np.int64), *(part.labels for part in self.features)])


class ClassMap(_Memory):
    """The class of every pixel of the lattice of the prediction, one byte each."""

    takes: ClassVar[Literal["masks"]] = "masks"
    block = 2048
    classes: NDArray[np.uint8]
    """(H, W) label index + 1; 0 is nothing."""

    def begin(self, context: SinkContext) -> None:
        """Make the array."""
        super().begin(context)
        width, height = context.size
        self.classes = np.zeros((height, width), np.uint8)

    def write(self, block: MaskBlock) -> None:
        """Put one block in its place."""
        region = block.region
        self.classes[region.y : region.y1, region.x : region.x1] = block.layers["classes"]
