"""Tables that say something of images: their columns, and which row is whose. Each method has its own error code."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from wsikit.errors import ConfigError
from wsikit.patches.cohort import PATIENT_COLUMNS, SLIDE_COLUMNS

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_name", "file", "filename", "file_name", "name"),
    "patient": PATIENT_COLUMNS,
    "slide": ("slide", *SLIDE_COLUMNS),
    "split": ("split", "fold"),
}
"""Columns, upper or lower case, by the names that tables give them."""
SHOWN = 5
"""Most names in a message."""


class TableRow(Protocol):
    """What a table says of one image."""

    @property
    def where(self) -> str:
        """File and line, for messages."""
        ...

    @property
    def image(self) -> str | None:
        """File name, with or without its suffix, or path from the folder of the images."""
        ...


Row = TypeVar("Row", bound=TableRow)


def columns(
    path: Path, header: Sequence[str], aliases: Mapping[str, Sequence[str]], needed: Iterable[str], code: str
) -> dict[str, int]:
    """Canonical name -> index, for the columns that a table has. Raises ConfigError where a needed one is missing."""
    names = [name.strip().lower() for name in header]
    found = {
        key: next(names.index(alias) for alias in known if alias in names)
        for key, known in aliases.items()
        if set(known) & set(names)
    }
    for key in needed:
        if key not in found:
            raise ConfigError(
                f"{path} has no column {key!r}; it has {', '.join(repr(name) for name in header)}",
                code=code,
                remedy=f"name the column one of {', '.join(aliases[key])}; columns are parted by commas or semicolons",
            )
    return found


def rows_of_files(rows: Iterable[Row], files: Sequence[Path], folder: Path, code: str) -> dict[Path, Row]:
    """Image file -> its row, in the order of the table.

    Args:
        rows: of the table.
        files: the images.
        folder: that they lie in or below.
        code: of the errors.

    Raises:
        ConfigError: a row without an image or for several, or two rows of one image.
    """
    known = _by_name(files, folder)
    found: dict[Path, Row] = {}
    for row in rows:
        path = _named(str(row.image), known, row.where, folder, code)
        if path in found:
            raise ConfigError(
                f"{row.where}: the image {path.name} has a row already ({found[path].where})",
                code=code,
                remedy="take one of the rows out: each image has one",
            )
        found[path] = row
    return found


def _by_name(files: Iterable[Path], folder: Path) -> dict[str, list[Path]]:
    """File name and path from the folder, each with and without its suffix -> the files."""
    known: dict[str, list[Path]] = {}
    for path in files:
        below = path.relative_to(folder)
        for name in dict.fromkeys((path.name, path.stem, below.as_posix(), below.with_suffix("").as_posix())):
            known.setdefault(name, []).append(path)
    return known


def _named(image: str, known: Mapping[str, list[Path]], where: str, folder: Path, code: str) -> Path:
    paths = known.get(image, [])
    if not paths:
        raise ConfigError(
            f"{where}: there is no image {image!r} in {folder}",
            code=code,
            remedy="give its file name, with or without its suffix; or take the row out",
        )
    if len(paths) > 1:
        raise ConfigError(
            f"{where}: {image!r} may be {' or '.join(path.relative_to(folder).as_posix() for path in paths)}",
            code=code,
            remedy="write the file name with its suffix, and its folder where several hold one of that name",
        )
    return paths[0]


def refuse(names: Collection[str], what: str, remedy: str, code: str) -> None:
    """Raise ConfigError, "N what: first names", where there are such images."""
    if names:
        listed = ", ".join([*names][:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        raise ConfigError(f"{len(names)} {what}: {listed}", code=code, remedy=remedy)
