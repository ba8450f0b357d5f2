"""Reading slides. To add a reader: one file here and one row in ``READERS``.

The readers are tried in the order of the table, then those that installed packages add to the entry-point group
``wsikit.readers``; the first that opens the file serves it. (The place of the direct TIFF reader is before OpenSlide.)
"""

from __future__ import annotations

import stat
from pathlib import Path

from wsikit.errors import PluginError, SlideOpenError
from wsikit.registry import Registry
from wsikit.slides.slide import BadTile, PartialRead, Pixels, Reader, Slide

__all__ = ["READERS", "BadTile", "PartialRead", "Pixels", "Reader", "Slide", "open_reader", "open_slide"]

READERS = Registry(
    "reader",
    [
        ("tiff", "wsikit.slides.tiff:TiffReader"),
        ("openslide", "wsikit.slides.openslide:OpenSlideReader"),
        ("tiffslide", "wsikit.slides.tiffslide:TiffSlideReader"),
        ("image", "wsikit.slides.image:ImageReader"),
    ],
    group="wsikit.readers",
)
"""Reader name -> class; a class is called with the path and raises SlideOpenError where it cannot serve the file."""


def open_reader(path: str | Path, reader: str | None = None) -> Reader:
    """Open a file with the first reader that takes it, or with the one named.

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
    for name in [reader] if reader else list(READERS):
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


def open_slide(path: str | Path, mpp: float | None = None, reader: str | None = None) -> Slide:
    """Open a slide.

    Args:
        path: the slide's own file.
        mpp: micrometres per level-0 pixel, replacing what the file says.
        reader: a name of ``READERS``; by default the first that opens the file.

    Raises:
        SlideOpenError: no reader takes it.
        ResolutionError: mpp missing, absurd or anisotropic, and none given.
    """
    return Slide(open_reader(path, reader), mpp)
