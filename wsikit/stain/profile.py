"""What every stain method is: a profile of colours that is fitted, saved, and carried over to pixels."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.stain.table import apply, tabulate


@dataclass(frozen=True)
class StainProfile(ABC):
    """The colours of one slide or image, as one method sees them.

    Subclasses are frozen dataclasses of numbers and tuples of numbers, so that a profile pickles, compares, hashes and
    is the same after a round through JSON.
    """

    method: ClassVar[str]
    """Name in ``STAINS``."""
    shapes: ClassVar[Mapping[str, tuple[int, ...]]]
    """Field -> shape of its numbers."""

    @classmethod
    @abstractmethod
    def fit(cls, pixels: NDArray[np.uint8]) -> Self:
        """The profile of (..., 3) RGB pixels, of which those without stain are left out.

        Raises StainError where they do not show what the method needs.
        """

    @abstractmethod
    def move(self, rgb: NDArray[np.float64], target: Self) -> NDArray[np.float64]:
        """(N, 3) colours of this profile, 0 to 255, as colours of ``target``. Each pixel for itself; glass stays."""

    @classmethod
    def standard(cls) -> Self:
        """A published target. Raises ConfigError where the method has none."""
        raise ConfigError(f"{cls.method} has no published target: name a reference, such as {cls.method}:reference.png")

    def transform(self, images: NDArray[np.uint8], source: Self | None = None) -> NDArray[np.uint8]:
        """Give images the colours of this profile.

        Each pixel's outcome depends on that pixel and the two profiles alone, so that with one ``source`` for a slide
        its patches agree wherever they are cut. Worked out on a lattice of colours, interpolated in between: nearly
        always within 1 of 255 of the exact values, farther off only near black (docs/measured.md).

        Args:
            images: (..., H, W, 3) RGB.
            source: the profile of the slide that the images are of; by default fitted on the images themselves.

        Raises:
            StainError: the images are too pale to be fitted, or not stained as the method expects.
        """
        return apply(tabulate(type(self).fit(images) if source is None else source, self), images)

    def to_json(self) -> dict[str, Any]:
        """Method and numbers, JSON-ready."""
        return {"method": self.method, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The profile that ``to_json`` gave. Raises ConfigError where it is not one of this method."""
        if values.get("method") != cls.method:
            raise ConfigError(f"a profile of the method {values.get('method')!r} is no profile of {cls.method}")
        return cls(**{name: cls._numbers(name, values.get(name)) for name in cls.shapes})

    @classmethod
    def _numbers(cls, name: str, value: Any) -> Any:
        shape = cls.shapes[name]
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.shape != shape or not np.isfinite(array).all():
            wanted = " x ".join(map(str, shape))
            raise ConfigError(f"a profile of {cls.method} needs {wanted} finite numbers as {name!r}, got {value!r}")
        return nested(array)


def nested(array: NDArray[np.float64]) -> Any:
    """An array's numbers as tuples of tuples, seven digits each: more would be noise, and differ between machines."""
    if array.ndim:
        return tuple(nested(row) for row in array)
    value = float(array)
    return round(value, 6 - math.floor(math.log10(abs(value)))) if value else 0.0
