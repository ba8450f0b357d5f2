"""Reading slides. To add a reader: one file here and one row in ``READERS``.

The readers are tried in the order of the table, then those that installed packages add to the entry-point group
``wsikit.readers``; the first that opens the file serves it. Those of ``ASKED_FOR`` wait until they are asked for.
"""

from __future__ import annotations

import stat
from pathlib import Path

from wsikit.errors import PluginError, SlideOpenError
from wsikit.registry import Registry
from wsikit.slides.slide import BadTile, PartialRead, Pixels, Reader, Slide

__all__ = ["READERS", "BadTile", "PartialRead", "Pixels", "Reader", "Slide", "open_reader", "open_slide", "tried"]

READERS = Registry(
    "reader",
    [
        ("tiff", "wsikit.slides.tiff:TiffReader"),
        ("openslide", "wsikit.slides.openslide:OpenSlideReader"),
        ("tiffslide", "wsikit.slides.tiffslide:TiffSlideReader"),
        ("image", "wsikit.slides.image:ImageReader"),
        ("tiff-scaled", "wsikit.slides.tiff_scaled:ScaledTiffReader"),
    ],
    group="wsikit.readers",
)
"""Reader name -> class; a class is called with the path and raises SlideOpenError where it cannot serve the file."""
SCALED = "tiff-scaled"
ASKED_FOR = frozenset({SCALED})
"""Readers that show a file otherwise than its levels are stored: only by name, or with ``scaled``."""


def tried() -> list[str]:
    """The readers that a file is offered to where none is named, in this order."""
    return [name for name in READERS if name not in ASKED_FOR]


def open_reader(path: str | Path, reader: str | None = None, *, scaled: bool = False) -> Reader:
    """Open a file with the first reader that takes it, or with the one named.

    Args:
        path: the slide's own file.
        reader: a name of ``READERS``.
        scaled: offer the file first to the reader that has JPEG's scaled decodings as further levels.

    Raises:
        SlideOpenError: code not_a_file (directory, FIFO, missing), unsupported_pixels (a reader understands the file,
            and it is not 3 x uint8 colour), too_large (a plain image beyond the limit) or unreadable. The message
            lists every reader's reason.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SlideOpenError(f"{path}: {error.strerror or error}", code="not_a_file") from error
    if not stat.S_ISREG(mode):
        raise SlideOpenError(f"{path} is not a regular file; give the slide's own file", code="not_a_file")
    reasons: dict[str, SlideOpenError] = {}
    for name in [*([SCALED] if scaled else []), *([reader] if reader else tried())]:
        try:
            return READERS.load(name)(path) if name not in READERS.plugins else _by_plugin(name, path)
        except SlideOpenError as error:
            reasons[name] = error
    specific = [error for error in reasons.values() if error.code != "unreadable"]
    chosen = specific[0] if specific else next(iter(reasons.values()))
    listed = "; ".join(f"{name}: {error}" for name, error in reasons.items())
    raise SlideOpenError(f"no reader opens {path.name} ({listed})", code=chosen.code, remedy=chosen.remedy) from chosen


def _by_plugin(name: str, path: Path) -> Reader:
    """Open with a package's reader. Whatever goes wrong in it must not keep the other readers from the file."""
    try:
        opened: Reader = READERS.load(name)(path)
    except SlideOpenError:
        raise
    except Exception as error:  # a package may raise anything
        said = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        raise SlideOpenError(f"the reader of {READERS.origin(name)} failed: {said}") from error
    return opened


def open_slide(path: str | Path, mpp: float | None = None, reader: str | None = None, *, scaled: bool = False) -> Slide:
    """Open a slide.

    Args:
        path: the slide's own file.
        mpp: micrometres per level-0 pixel, replacing what the file says.
        reader: a name of ``READERS``; by default the first that opens the file.
        scaled: where the file allows it, levels at 1/2, 1/4 and 1/8 of the stored ones too, by JPEG's scaled decoding
            (``wsikit.slides.tiff_scaled`` says how far that is from area averaging). ``reader.name`` tells.

    Raises:
        SlideOpenError: no reader takes it.
        ResolutionError: mpp missing, absurd or anisotropic, and none given.
    """
    return Slide(open_reader(path, reader, scaled=scaled), mpp)
