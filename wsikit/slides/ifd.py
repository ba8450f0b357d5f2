"""The chain of image directories (IFDs) of a TIFF, walked before any library reads it: loops and floods stop here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Literal

from wsikit.errors import SlideOpenError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes of TIFF and BigTIFF."""
MAX_IFDS = 1000
"""Most image directories of a slide: levels, label, macro and some. What holds more is a stack of images."""
MAX_TAGS = 1000
"""Most entries of one directory; TIFF 6.0 and all extensions together know about 300."""


def check_ifds(path: Path) -> None:
    """Raise SlideOpenError unless the file is a TIFF whose directories lie inside it and come to an end.

    Reads a few bytes of each directory and nothing else: milliseconds, whatever the file says.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic not in TIFF_MAGIC:
            raise SlideOpenError("not a TIFF")
        order: Literal["little", "big"] = "little" if magic[:1] == b"I" else "big"
        count_bytes, entry, pointer, first = (8, 20, 8, 8) if b"+" in magic else (2, 12, 4, 4)
        seen: set[int] = set()
        at = _number(file, first, pointer, order)
        while at:
            if at in seen:
                raise SlideOpenError(f"the TIFF's image directories go in a circle: again at byte {at}")
            if len(seen) == MAX_IFDS:
                raise SlideOpenError(f"the TIFF holds more than {MAX_IFDS} images: no slide has so many")
            seen.add(at)
            tags = _number(file, at, count_bytes, order)
            if not 0 < tags <= MAX_TAGS:
                raise SlideOpenError(f"the image directory at byte {at} says that it has {tags} entries")
            at = _number(file, at + count_bytes + tags * entry, pointer, order)


def _number(file: BinaryIO, at: int, length: int, order: Literal["little", "big"]) -> int:
    if at + length > os.fstat(file.fileno()).st_size:
        raise SlideOpenError(f"an image directory should reach byte {at + length}, past the end of the file")
    file.seek(at)
    return int.from_bytes(file.read(length), order)
