"""Images to train on: where their pixels come from, when they stay in memory, and what tells two sets of them apart."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

from wsikit.errors import SlideOpenError
from wsikit.slides import Pixels, Reader, open_reader

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".jp2")
"""Of files that are taken for images."""
MOST_PIXELS = 1 << 26
"""Of one image: it is read whole, again and again."""
KEPT_BYTES = 1 << 30
"""Images stay in memory when all of them together take less than this, decoded."""
LOOKED_AT = 256
"""Images of a larger data set whose pixels are part of its digest."""
OTHER_MPP = 0.1
"""An image whose file says a resolution that differs by more than this share is warned of: as much as a slide's level
may be finer than what a model asks for."""


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
                f"{path} has {width}x{height} px, an image to learn from has at most {MOST_PIXELS}",
                code="too_large",
                remedy="cut it into patches, each with a label of its own",
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


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingImage:
    """One image of a data set; a method adds what it learns from it. Pickles without its pixels."""

    name: str
    source: PixelSource = field(repr=False)
    patient: str | None = None
    slide: str | None = None
    split: str | None = None
    keep: bool = field(default=False, repr=False)
    """Whether the pixels stay in memory."""

    def read(self) -> Pixels:
        """(H, W, 3) uint8 RGB, not to be written to. Raises PixelReadError where they cannot be decoded."""
        return self._kept if self.keep else self._pixels()

    @cached_property
    def _kept(self) -> Pixels:
        return self._pixels()

    def _pixels(self) -> Pixels:
        pixels = self.source()
        pixels.setflags(write=False)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_kept"}


Image = TypeVar("Image", bound=TrainingImage)


def kept_where_small(images: Sequence[Image]) -> tuple[Image, ...]:
    """The images, whose pixels stay in memory where all of them take less than ``KEPT_BYTES``."""
    total = sum(3 * width * height for width, height in (image.source.size for image in images))
    return tuple(replace(image, keep=total < KEPT_BYTES) for image in images)


@dataclass(frozen=True, eq=False)
class ImageSet(Sequence[Image]):
    """The images of a data set; a method adds what it says of them."""

    images: tuple[Image, ...]
    kind: str
    """How their labels were given."""
    warnings: tuple[str, ...] = ()
    """Sentences on what is odd about them."""

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        return self.images[index]

    @abstractmethod
    def said(self) -> Sequence[Sequence[object]]:
        """What is learned from beside the pixels, of each image, as JSON values."""

    @cached_property
    def digest(self) -> str:
        """``digest`` of it all. Raises PixelReadError, and what ``said`` raises."""
        return digest(self.images, self.said())


def digest(images: Sequence[TrainingImage], said: Sequence[Sequence[object]]) -> str:
    """sha256 (hexadecimal) of what is learned from: what is said of each image (JSON values), sizes and pixels.

    It knows no paths and no times, so that a copy is the same data. Of images that do not stay in memory it takes the
    sizes of all files and the pixels of ``LOOKED_AT``, evenly over their order. Reads them: call it where they are
    about to be read anyway. Raises PixelReadError.
    """
    found = hashlib.sha256()
    step = max(1, len(images) // LOOKED_AT)
    for index, (image, words) in enumerate(zip(images, said, strict=True)):
        size = None if image.keep else image.source.bytes
        found.update(json.dumps([*words, *image.source.size, size]).encode())
        if image.keep or index % step == 0:
            found.update(image.read().tobytes())
    return found.hexdigest()


def other_mpp(said: Mapping[str, float], mpp: float | None) -> list[str]:
    """What to warn of: image name -> um per px that its file says, against what they are meant to have."""
    other = {name: own for name, own in said.items() if mpp is not None and abs(own - mpp) > OTHER_MPP * mpp}
    if not other:
        return []
    name, own = next(iter(other.items()))
    return [f"{len(other)} of the images say another resolution than {mpp:g} um/px: {name} has {own:.4g}"]


def image_paths(folder: Path) -> list[Path]:
    """The files of a folder that are images by their suffix, by name; no hidden ones."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
