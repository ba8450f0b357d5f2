"""One image and its count: where its pixels come from, and when they stay in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations.instances import read_image
from wsikit.errors import ConfigError, SlideOpenError
from wsikit.slides import Pixels, Reader, open_reader

MOST_PIXELS = 1 << 26
"""Of one image: it is read whole, again and again."""


class PixelSource(Protocol):
    """Where the pixels of an image come from."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        ...

    @property
    def bytes(self) -> int:
        """Size of the file."""
        ...

    def __call__(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file of its own."""

    path: Path
    size: tuple[int, int]
    """(width, height) in px."""

    @classmethod
    def open(cls, path: Path) -> tuple[ImageFile, float | None]:
        """The file, and the um per px that it says, if it does.

        Raises SlideOpenError: unreadable, too_large, or unsupported_pixels (not 8-bit colour).
        """
        reader = _reader(path)
        try:
            width, height = reader.sizes[0]
            mpp = reader.mpp[0] if reader.mpp else None
        finally:
            reader.close()
        if width * height > MOST_PIXELS:
            raise SlideOpenError(
                f"{path} has {width}x{height} px, an image to learn counts from has at most {MOST_PIXELS}",
                code="too_large",
                remedy="cut it into patches, each with a count of its own",
            )
        return cls(path, (width, height)), mpp

    def __call__(self) -> Pixels:
        """(H, W, 3) uint8; transparency is laid over white. Raises PixelReadError where it cannot be decoded."""
        reader = _reader(self.path)
        try:
            return reader.read(0, 0, 0, *self.size)
        finally:
            reader.close()

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


def _reader(path: Path) -> Reader:
    # only TIFFs are also slides, and trying all readers takes longer than reading a patch
    return open_reader(path, None if path.suffix.lower() in (".tif", ".tiff") else "image")


@dataclass(frozen=True, eq=False)
class CountedImage:
    """One image and how many cells it holds. Pickles without its pixels."""

    name: str
    count: int
    source: PixelSource = field(repr=False)
    patient: str | None = None
    slide: str | None = None
    organ: str | None = None
    split: str | None = None
    truth: Path | None = field(default=None, repr=False)
    """Instance labels, if there are any."""
    keep: bool = field(default=False, repr=False)
    """Whether the pixels stay in memory."""

    def read(self) -> Pixels:
        """(H, W, 3) uint8 RGB, not to be written to. Raises PixelReadError where they cannot be decoded."""
        return self._kept if self.keep else self._pixels()

    def labels(self) -> NDArray[np.int64] | None:
        """(H, W) number of the instance of each pixel, 0 is background; None where they are not known.

        For scoring only: nothing is learned from them. Raises AnnotationError, and ConfigError (code bad_counts) for
        labels of another size than the image.
        """
        return None if self.truth is None else read_labels(self.truth, self.source.size)

    @cached_property
    def _kept(self) -> Pixels:
        return self._pixels()

    def _pixels(self) -> Pixels:
        pixels = self.source()
        pixels.setflags(write=False)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_kept"}


def read_labels(path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """(H, W) instance labels of an image of this (width, height).

    Raises AnnotationError for what is no label image, ConfigError (code bad_counts) for one of another size.
    """
    labels = read_image(path)
    height, width = labels.shape
    if (width, height) != size:
        raise ConfigError(
            f"the labels {path} have {width}x{height} px, their image has {size[0]}x{size[1]} px",
            code="bad_counts",
            remedy="export the labels at the resolution of the image",
        )
    return labels
