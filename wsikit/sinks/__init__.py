"""Sinks write finished features or mask blocks. To add one: one file here and one row in ``SINKS``.

A sink writes under a temporary name in the folder of its final path; nothing is visible there before ``commit``, and
``abort`` leaves no trace. ``begin`` is called once, then ``write`` any number of times, then ``commit`` or ``abort``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PluginError
from wsikit.features import Features, Instances, Layer, MaskBlock
from wsikit.geometry import Level, Region
from wsikit.predictions import Label
from wsikit.registry import Registry

SINKS = Registry(
    "output format",
    [
        ("geojson.gz", "wsikit.sinks.geojson:GeoJSONSink"),
        ("parquet", "wsikit.sinks.parquet:ParquetSink"),
        ("omezarr", "wsikit.sinks.omezarr:OmeZarrSink"),
        ("features.zarr", "wsikit.sinks.features_zarr:FeaturesZarrSink"),
        ("features.h5", "wsikit.sinks.features_h5:FeaturesH5Sink"),
    ],
    group="wsikit.sinks",
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
    overlap: int = 0
    """px of the lattice that neighbouring patches share."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What the vectors come from: the encoder's ``identity``."""


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
    levels: tuple[Level, ...] = ()
    """The slide's stored resolutions, finest first."""
    instances: InstanceLayout | None = None
    """For models that embed patches."""
    patient: str | None = None
    """From the manifest."""
    tissue_um2: float | None = None
    """Area of the tissue that was looked at."""
    has_confidence: bool = False
    """Whether mask blocks will carry the margin between the two best scores."""
    density: Region | None = None
    """All of the density map, on the lattice of its cells; None for models that give none."""


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
    """Takes mask blocks, each once, in any order; blocks that never come are empty.

    One that has a method ``write_density(block: DensityBlock)`` as well is given density maps in the same way, where
    the context announces them.
    """

    takes: ClassVar[Literal["masks"]]
    filename: ClassVar[str]
    path: Path
    block: int
    """Side in lattice pixels of the blocks that ``write`` takes, and in cells of those of density."""

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


def part_names(stem: str, suffix: str) -> str:
    """Regular expression of the names of the files that one output is split into: <stem>-001<suffix>, -002 and so on.

    In a slide's folder such names of every sink's ``filename`` are a run's own: it removes what an earlier one left.
    """
    return rf"{re.escape(stem)}-\d{{3,}}{re.escape(suffix)}"


def sink_class(name: str) -> Any:
    """The class behind a name of ``SINKS``.

    Raises:
        UnknownNameError: no such name; the message lists the choices.
        PluginError: a package's class cannot be imported, or lacks what a sink needs.
    """
    found = SINKS.load(name)
    lacking = [item for item in ("takes", "filename", "begin", "write", "commit", "abort") if not hasattr(found, item)]
    if lacking:
        wrong = f"lacks {', '.join(lacking)}"
    elif found.takes not in {"features", "masks", "instances"}:
        wrong = f"takes {found.takes!r}, not features, masks or instances"
    elif not re.fullmatch(r"\w[\w-]*(\.\w+)+", found.filename):
        # files that look like it are removed when a slide is run again
        wrong = f"has the filename {found.filename!r}, not a plain name with a suffix"
    else:
        return found
    raise PluginError(
        f"the output format {name!r} of {SINKS.origin(name)} {wrong}",
        remedy="see FeatureSink, MaskSink and InstanceSink in wsikit.sinks",
    )
