"""Sinks write finished features or mask blocks. To add one: one file here and one row in ``SINKS``.

A sink writes under a temporary name in the folder of its final path; nothing is visible there before ``commit``, and
``abort`` leaves no trace. ``begin`` is called once, then ``write`` any number of times, then ``commit`` or ``abort``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.features import Features, Instances, Layer, MaskBlock
from wsikit.predictions import Label
from wsikit.registry import Registry

SINKS = Registry(
    "output format",
    [
        ("geojson.gz", "wsikit.sinks.geojson:GeoJSONSink"),
        ("omezarr", "wsikit.sinks.omezarr:OmeZarrSink"),
    ],
)
"""``--format`` name -> sink class. Each class has ``filename`` and takes the final path as its only needed argument."""


@dataclass(frozen=True, slots=True)
class InstanceLayout:
    """What is known of a slide's instances before the first comes."""

    count: int
    """N, instances that will come."""
    width: int
    """D, length of a feature vector."""
    patch: int
    """Side of the square patches, px of the lattice of the prediction."""


@dataclass(frozen=True, slots=True, eq=False)
class SinkContext:
    """What every sink needs to know of the slide and the model, known before the first prediction."""

    slide_id: str
    """Names the slide in stable feature ids."""
    slide_mpp: float
    """Micrometres per level-0 pixel."""
    bounds_offset: tuple[int, int]
    """(x, y) in level-0 pixels that vector coordinates are reduced by, since QuPath crops to the bounds."""
    mpp: float
    """Micrometres per lattice pixel of the masks."""
    size: tuple[int, int]
    """(width, height) of the masks at that mpp."""
    labels: tuple[Label, ...]
    """The model's classes."""
    model: str
    """The model's name."""
    layers: tuple[Layer, ...]
    """The label images that mask blocks will carry."""
    has_scores: bool
    """Whether mask blocks will carry scores."""
    overview: NDArray[np.uint8]
    """(H, W, 3) RGB picture of the whole slide."""
    overview_mpp: float
    """Micrometres per pixel of the overview."""
    instances: InstanceLayout | None = None
    """For models that embed patches."""


class FeatureSink(Protocol):
    """Takes features in final order."""

    takes: ClassVar[Literal["features"]]
    filename: ClassVar[str]
    path: Path

    def begin(self, context: SinkContext) -> None:
        """Open the temporary output."""
        ...

    def write(self, features: Features) -> None:
        """Append features."""
        ...

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path."""
        ...

    def abort(self) -> None:
        """Remove everything written."""
        ...


class MaskSink(Protocol):
    """Takes mask blocks, each once, in any order; blocks that never come are empty."""

    takes: ClassVar[Literal["masks"]]
    filename: ClassVar[str]
    path: Path
    block: int
    """Side in lattice pixels of the blocks that ``write`` takes."""

    def begin(self, context: SinkContext) -> None:
        """Create the temporary output."""
        ...

    def write(self, block: MaskBlock) -> None:
        """Write one block."""
        ...

    def commit(self) -> None:
        """Build what is derived (pyramids), flush and rename to the final path."""
        ...

    def abort(self) -> None:
        """Remove everything written."""
        ...


class InstanceSink(Protocol):
    """Takes instances by row, then column, all of them once."""

    takes: ClassVar[Literal["instances"]]
    filename: ClassVar[str]
    path: Path

    def begin(self, context: SinkContext) -> None:
        """Create the temporary output; ``context.instances`` says how many will come."""
        ...

    def write(self, instances: Instances) -> None:
        """Append instances."""
        ...

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path."""
        ...

    def abort(self) -> None:
        """Remove everything written."""
        ...


Sink = FeatureSink | MaskSink | InstanceSink
