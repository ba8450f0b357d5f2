"""What all files of patch features hold, whatever their format: the rows, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError, PredictionError
from wsikit.features import Instances
from wsikit.sinks import InstanceLayout, SinkContext


@dataclass(slots=True)
class Table:
    """The rows of one slide on their way to a file."""

    context: SinkContext
    layout: InstanceLayout
    written: int = 0

    @classmethod
    def of(cls, context: SinkContext) -> Table:
        """Raises ConfigError for a context of a model that does not embed."""
        if context.instances is None:
            raise ConfigError(f"the model {context.model!r} gives no features of patches to write")
        return cls(context, context.instances)

    @property
    def scale(self) -> float:
        """Level-0 pixels per pixel of the lattice."""
        return self.context.mpp / self.context.slide_mpp

    def columns(self) -> dict[str, tuple[tuple[int, int], str]]:
        """name -> (shape, dtype)."""
        count = self.layout.count
        return {
            "features": ((count, self.layout.width), "float32"),
            "coords": ((count, 2), "float64"),
            "corners": ((count, 2), "int64"),
        }

    def attributes(self) -> dict[str, Any]:
        """Where the vectors come from. JSON-ready; lengths say their pixels, ``bounds_offset`` is not subtracted."""
        context, layout = self.context, self.layout
        return {
            "slide_id": context.slide_id,
            "encoder": {"name": context.model, **layout.identity},
            "mpp": context.mpp,
            "patch": layout.patch,
            "overlap": layout.overlap,
            "patch_size_level0": layout.patch * self.scale,
            "level0_mpp": context.slide_mpp,
            "bounds_offset": list(context.bounds_offset),
            "coords": "x, y of the upper left corner in level-0 pixels of the full plane",
            "wsikit": version("wsikit"),
        }

    def take(self, instances: Instances) -> tuple[slice, dict[str, NDArray[Any]]]:
        """The rows that instances fill, and the values of each column.

        Raises PredictionError where they are of another width, or more than announced.
        """
        start, count = self.written, len(instances)
        width = instances.features.shape[1]
        if (count and width != self.layout.width) or start + count > self.layout.count:
            raise PredictionError(
                f"{self.layout.count} instances of {self.layout.width} features were announced; got {count} of {width} "
                f"after {start}"
            )
        self.written += count
        values = {
            "features": instances.features.astype(np.float32, copy=False),
            "coords": instances.corners * self.scale,
            "corners": instances.corners,
        }
        return slice(start, start + count), values

    def finish(self) -> None:
        """Raises PredictionError unless all instances have come."""
        if self.written != self.layout.count:
            raise PredictionError(f"{self.layout.count} instances were announced, {self.written} came")
