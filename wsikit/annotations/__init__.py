"""Annotation files in and out. To add a format: one file here and one row in ``FORMATS``.

A format is a class with ``suffixes``, ``recognises(head)`` (the first bytes of a file of that suffix) and
``read(path, placement)``; see ``Format``.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from wsikit.annotations.annotations import Annotations, Placement
from wsikit.errors import AnnotationError
from wsikit.registry import Registry

__all__ = ["FORMATS", "Annotations", "Format", "Placement", "read_annotations"]

FORMATS = Registry(
    "annotation format",
    [
        ("geojson", "wsikit.annotations.geojson:QuPathGeoJSON"),
        ("aperio", "wsikit.annotations.aperio:AperioXML"),
    ],
)
"""``--from`` and ``--to`` name -> class."""
HEAD = 4096
"""First bytes of a file that tell formats of one suffix apart."""


class Format(Protocol):
    """Reads one kind of annotation file."""

    suffixes: ClassVar[tuple[str, ...]]
    """What its files' names end in, lower case."""

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first 4096 bytes of a file with one of these suffixes look like this format."""
        ...

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a file; coordinates in level-0 pixels of the full plane."""
        ...


def read_annotations(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002  # what users call it
    bounds_offset: tuple[int, int] = (0, 0),
    mpp: float | None = None,
    size: tuple[int, int] | None = None,
    downsample: float = 1.0,
) -> Annotations:
    """Read an annotation file of any format in ``FORMATS``.

    Args:
        path: the file.
        format: name in ``FORMATS``; by default found by suffix and content.
        bounds_offset: the slide's (``Slide.bounds_offset``): added to files of QuPath, which crops slides to their
            bounds. Files of other programs are in the full plane already.
        mpp: um per level-0 pixel of the slide, for files in um.
        size: (width, height) of the slide in level-0 pixels, for label images, which must cover it.
        downsample: level-0 pixels per pixel of a label image.

    Raises:
        AnnotationError: the file cannot be read, is of no known format or holds what its format does not allow.
        UnknownNameError: there is no such format.
    """
    path = Path(path)
    chosen: Format = FORMATS.load(format or format_of(path))()
    return chosen.read(path, Placement(bounds_offset, mpp, size, downsample))


def format_of(path: Path) -> str:
    """The name of the format of a file that is there, by suffix and content. Raises AnnotationError for none."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error
    for name in FORMATS:
        candidate: type[Format] = FORMATS.load(name)
        if path.name.lower().endswith(candidate.suffixes) and candidate.recognises(head):
            return name
    suffixes = sorted({suffix for name in FORMATS for suffix in FORMATS.load(name).suffixes})
    raise AnnotationError(
        f"{path.name} is of no known annotation format ({', '.join(FORMATS)}); known suffixes: {' '.join(suffixes)}",
        remedy="name the format if the suffix is unusual",
    )
