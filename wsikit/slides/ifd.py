"""The image directories (IFDs) of a TIFF, walked before any library reads it: loops, floods and false tables stop here.

A tile of 10^6 x 10^6 px makes OpenSlide abort the whole process; tiles that a table is too short to list it shows as
background; tifffile follows a circle of directories for ever.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wsikit.errors import SlideOpenError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes of TIFF and BigTIFF."""
MAX_IFDS = 1000
"""Most image directories of a slide: levels, label, macro and some. What holds more is a stack of images."""
MAX_TAGS = 1000
"""Most entries of one directory; TIFF 6.0 and all extensions together know about 300."""
MAX_TILE = 64_000_000
"""Most pixels of a tile (192 MB decoded); what is larger cannot be read piece by piece."""
WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323
TILE_OFFSETS, TILE_COUNTS, SUB_IFDS = 324, 325, 330
TABLES = (273, 279, TILE_OFFSETS, TILE_COUNTS)
SAMPLES, PLANAR, SEPARATE, DEPTH, NDPI = 277, 284, 2, 32997, 65420
"""TIFF tags (TIFF 6.0, Supplement 1), SGI's of volumes, and Hamamatsu's by which its files are known."""
NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""TIFF field type -> ``struct`` code, of those that hold whole numbers."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a directory."""

    code: str
    """``struct`` code of its numbers, or the empty string."""
    count: int
    """How many there are."""
    data: bytes
    """The numbers themselves where they fit in, else where they lie."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How the numbers of a TIFF are written."""

    order: str
    """Of bytes, as ``struct`` calls it."""
    counted: str
    """``struct`` code of a directory's number of entries."""
    pointer: str
    """``struct`` code of positions in entries."""
    link: str
    """``struct`` code of the position of the next directory: Hamamatsu's have 8 bytes."""

    def directory(self, file: BinaryIO, at: int) -> tuple[dict[int, _Entry], int]:
        """Entries by tag, and where the next directory is. Raises EOFError where the file ends before."""
        (count,) = self.unpack(self.counted, _read(file, at, struct.calcsize(self.counted)))
        if not 0 < count <= MAX_TAGS:
            raise _damaged(f"the image directory at byte {at} says that it has {count} entries")
        size = 4 + 2 * struct.calcsize(self.pointer)
        data = file.read(count * size)
        (following,) = self.unpack(self.link, _read(file, file.tell(), struct.calcsize(self.link)))
        entries = {}
        for start in range(0, len(data), size):
            tag, kind, numbers = self.unpack(f"HH{self.pointer}", data[start : start + 4 + (size - 4) // 2])
            entries[tag] = _Entry(NUMBERS.get(kind, ""), numbers, data[start + 4 + (size - 4) // 2 : start + size])
        return entries, following

    def unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        """The numbers of these bytes."""
        return struct.unpack(f"{self.order}{code}", data)

    def numbers(self, file: BinaryIO, entry: _Entry | None) -> tuple[int, ...]:
        """An entry's numbers, none where it is missing or holds something else. Raises EOFError."""
        if entry is None or not entry.code:
            return ()
        if entry.count > MAX_IFDS:
            raise _damaged(f"a list of {entry.count} numbers where {MAX_IFDS} are the most")
        size = entry.count * struct.calcsize(entry.code)
        if size <= len(entry.data):
            return self.unpack(f"{entry.count}{entry.code}", entry.data[:size])
        return self.unpack(f"{entry.count}{entry.code}", _read(file, self.unpack(self.pointer, entry.data)[0], size))


def check_ifds(path: Path, *, whole: bool = True) -> None:
    """Refuse a TIFF whose directories cannot be true. Reads them and nothing else: milliseconds, whatever they say.

    Args:
        path: the file.
        whole: whether a file that ends within its directories is refused too.

    Raises:
        SlideOpenError: no TIFF, or cut short; bad_header for directories in a circle, or so many that no slide has
            them, images or tiles without pixels, tables with fewer tiles than the image has; too_large for tiles of
            more than ``MAX_TILE`` px.
    """
    with path.open("rb") as file:
        try:
            for entries, form in _directories(file):
                _check_tiles(file, entries, form)
        except EOFError as error:
            if whole:
                raise SlideOpenError(f"the TIFF was cut short within its image directories: {error}") from error


def check_if_tiff(path: Path) -> bool:
    """Whether the file begins like a TIFF; what is left of its directories is then checked by ``check_ifds``."""
    try:
        with path.open("rb") as file:
            found = file.read(4) in TIFF_MAGIC
    except OSError as error:
        raise SlideOpenError(f"{path} cannot be read: {error.strerror}") from error
    if found:
        check_ifds(path, whole=False)
    return found


def _directories(file: BinaryIO) -> Iterator[tuple[dict[int, _Entry], _Form]]:
    """The chain of directories, after each one those that it has below it."""
    form, first = _form(file)
    chain, seen = [first] if first else [], set[int]()
    while chain:
        at = chain[-1]
        if at in seen:
            raise _damaged(f"the TIFF's image directories go in a circle: again at byte {at}")
        if len(seen) >= MAX_IFDS:
            raise _damaged(f"the TIFF holds more than {MAX_IFDS} images: no slide has so many")
        seen.add(at)
        entries, following = form.directory(file, at)
        yield entries, form
        # some are both listed and linked one to the next
        below = set(form.numbers(file, entries.get(SUB_IFDS))) - seen
        seen |= below
        for place in sorted(below):
            yield form.directory(file, place)[0], form
        chain = [following] if following else []


def _form(file: BinaryIO) -> tuple[_Form, int]:
    """How the file is written, and where its first directory lies."""
    magic = file.read(4)
    if magic not in TIFF_MAGIC:
        raise SlideOpenError("not a TIFF")
    order = "<" if magic[:1] == b"I" else ">"
    if b"+" in magic:
        form = _Form(order, "Q", "Q", "Q")
        return form, form.unpack("Q", _read(file, 8, 8))[0]
    form = _Form(order, "H", "I", "I")
    (first,) = form.unpack("I", _read(file, 4, 4))
    hamamatsu = _Form(order, "H", "I", "Q")
    (wide,) = form.unpack("Q", _read(file, 4, 8))
    for at in {first, wide}:
        try:
            if NDPI in hamamatsu.directory(file, at)[0]:
                return hamamatsu, at
        except (EOFError, SlideOpenError):
            continue
    return form, first


def _check_tiles(file: BinaryIO, entries: dict[int, _Entry], form: _Form) -> None:
    for tag in TABLES:
        # tifffile gives those of 1 byte as a string
        if tag in entries and entries[tag].code not in ("H", "I", "Q"):
            raise _damaged(f"the TIFF's table of places or sizes (tag {tag}) does not hold whole numbers")
    if TILE_WIDTH not in entries or TILE_LENGTH not in entries or DEPTH in entries:
        return
    tags = (WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH)
    width, height, tile_width, tile_height = (_one(form.numbers(file, entries.get(tag)), 0) for tag in tags)
    said = f"an image of {width}x{height} px in tiles of {tile_width}x{tile_height} px"
    if 0 in (width, height, tile_width, tile_height):
        raise _damaged(f"the TIFF holds {said}")
    if tile_width * tile_height > MAX_TILE:
        raise SlideOpenError(
            f"the TIFF holds {said}, the most is {MAX_TILE} px a tile",
            code="too_large",
            remedy="convert the file to a tiled pyramid",
        )
    separate = _one(form.numbers(file, entries.get(PLANAR)), 1) == SEPARATE
    planes = _one(form.numbers(file, entries.get(SAMPLES)), 1) if separate else 1
    needed = math.ceil(width / tile_width) * math.ceil(height / tile_height) * planes
    for tag in (TILE_OFFSETS, TILE_COUNTS):
        if tag in entries and entries[tag].count < needed:
            raise _damaged(f"the TIFF holds {said}: {needed} tiles, of which its table lists {entries[tag].count}")


def _one(numbers: tuple[int, ...], default: int) -> int:
    return numbers[0] if numbers else default


def _damaged(message: str) -> SlideOpenError:
    return SlideOpenError(message, code="bad_header")


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    if at + size > os.fstat(file.fileno()).st_size:
        raise EOFError(f"byte {at + size} is past the end of the file")
    file.seek(at)
    return file.read(size)
