"""Annotation files in and out. To add a format: one file here and one row in ``FORMATS``.

A format is a class with ``suffixes``, ``recognises(head)`` (the first bytes of a file of that suffix),
``read(path, placement)`` and ``write(annotations, placement, path)``; see ``Format``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Protocol

from wsikit.annotations.annotations import IGNORE, Annotations, Placement, Written
from wsikit.atomic import replace_file
from wsikit.errors import AnnotationError
from wsikit.registry import Registry

__all__ = [
    "AREA_FORMATS",
    "FORMATS",
    "IGNORE",
    "Annotations",
    "Format",
    "Placement",
    "Written",
    "read_annotations",
    "suffixes",
    "title",
    "write_annotations",
]

FORMATS = Registry(
    "annotation format",
    [
        ("geojson", "wsikit.annotations.geojson:QuPathGeoJSON"),
        ("dsa", "wsikit.annotations.dsa:DSAJSON"),
        ("aperio", "wsikit.annotations.aperio:AperioXML"),
        ("asap", "wsikit.annotations.asap:ASAPXML"),
        ("csv", "wsikit.annotations.points:CSVPoints"),
        ("dots", "wsikit.annotations.dots:DotImage"),
        ("labels", "wsikit.annotations.instances:LabelImage"),
    ],
)
"""``--from`` and ``--to`` name -> class."""
AREA_FORMATS = ("geojson", "dsa", "aperio", "asap")
"""Those whose files hold drawn areas: regions of interest, tissue."""
HEAD = 4096
"""First bytes of a file that tell formats of one suffix apart."""


class Format(Protocol):
    """Reads and writes one kind of annotation file."""

    suffixes: ClassVar[tuple[str, ...]]
    """What its files' names end in, lower case."""

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether the first 4096 bytes of a file with one of these suffixes look like this format."""
        ...

    def read(self, path: Path, placement: Placement) -> Annotations:
        """Read a file; coordinates in level-0 pixels of the full plane."""
        ...

    def write(self, annotations: Annotations, placement: Placement, path: Path) -> Written:
        """The bytes of a file called ``path``, and what of the annotations it cannot hold."""
        ...


def read_annotations(
    path: str | Path,
    *,
    format: str | None = None,  # what users call it
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


def write_annotations(
    path: str | Path,
    annotations: Annotations,
    *,
    format: str | None = None,
    bounds_offset: tuple[int, int] = (0, 0),
    mpp: float | None = None,
    size: tuple[int, int] | None = None,
    downsample: float = 1.0,
    strict: bool = False,
) -> tuple[str, ...]:
    """Write an annotation file of any format in ``FORMATS``; it is whole or not there.

    Coordinates come back as they are, those of GeoJSON to 0.01 px, those of label images to a pixel. Ids of objects
    are kept by GeoJSON only.

    Args:
        path: the file, replaced if it is there.
        annotations: in level-0 pixels of the full plane.
        format: name in ``FORMATS``; by default that of the suffix, where only one has it.
        bounds_offset: the slide's: taken off in files for QuPath.
        mpp: um per level-0 pixel, which some formats note.
        size: (width, height) of the slide in level-0 pixels: the size of a label image, which otherwise ends with the
            last object.
        downsample: level-0 pixels per pixel of a label image.
        strict: refuse to write what would leave anything out.

    Returns:
        What the format cannot hold, a sentence each.

    Raises:
        AnnotationError: code not_representable where ``strict``, or the annotations do not fit the format at all.
        UnknownNameError: there is no such format.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    name = format or format_for(path)
    chosen: Format = FORMATS.load(name)()
    if not path.name.lower().endswith(chosen.suffixes):
        raise AnnotationError(f"a file of format {name} is called {' or '.join(chosen.suffixes)}, got {path.name!r}")
    written = chosen.write(annotations, Placement(bounds_offset, mpp, size, downsample), path)
    if strict and written.left_out:
        raise AnnotationError(
            f"{path.name} would not hold everything: {'; '.join(written.left_out)}",
            code="not_representable",
            remedy="choose another format (geojson holds everything), or write it without strict",
        )
    replace_file(path, written.data)
    return written.left_out


def suffixes(names: Iterable[str] = FORMATS) -> tuple[str, ...]:
    """What the names of files of some formats end in, the longest first."""
    found = {suffix for name in names for suffix in FORMATS.load(name).suffixes}
    return tuple(sorted(found, key=lambda suffix: (-len(suffix), suffix)))


def title(path: Path) -> str:
    """An annotation file's name without the suffix of its format: what the slide's file is called."""
    return next((path.name[: -len(s)] for s in suffixes() if path.name.lower().endswith(s)), path.name)


def format_for(path: Path) -> str:
    """The name of the one format that writes files of this suffix, of several suffixes that fit the longest.

    Raises AnnotationError for none or several.
    """
    name = path.name.lower()
    ending = next((suffix for suffix in suffixes() if name.endswith(suffix)), None)
    found = [each for each in FORMATS if ending in FORMATS.load(each).suffixes]
    if len(found) == 1:
        return found[0]
    what = f"the formats {' and '.join(found)} write files like it" if found else f"known formats: {', '.join(FORMATS)}"
    raise AnnotationError(f"the name {path.name!r} does not say in which format to write: {what}", remedy="name one")


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
    raise AnnotationError(
        f"{path.name} is of no known annotation format ({', '.join(FORMATS)}); known suffixes: {' '.join(suffixes())}",
        remedy="name the format if the suffix is unusual",
    )
