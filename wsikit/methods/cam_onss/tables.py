"""Tables of patch labels: a row for each image, the classes in a column each or together in one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.annotations.points import read_table
from wsikit.errors import ConfigError
from wsikit.methods.cam_onss.classes import ClassSchema
from wsikit.methods.cam_onss.files import CODE
from wsikit.training.names import SPLITS
from wsikit.training.tables import ALIASES, columns

LABELS = ("labels", "label", "classes")
"""The column of all codes, parted by blanks, semicolons, commas, plus signs or bars."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says of one patch; None where it says nothing."""

    where: str
    """File and line, for messages."""
    image: str
    present: tuple[bool, ...]
    """(K,) which classes it holds."""
    patient: str | None = None
    slide: str | None = None
    split: str | None = None


def read_rows(path: Path, schema: ClassSchema) -> list[Row]:
    """All rows of a CSV (commas or semicolons, UTF-8 with or without a byte order mark) or TSV, in its order.

    Raises:
        ConfigError: code bad_patches: a missing column, an empty name, an unknown code or split, or what is neither 0
            nor 1 in the column of a class.
        AnnotationError: it cannot be read as a table.
    """
    header, lines = read_table(path)
    known = columns(path, header, ALIASES, ("image",), CODE)
    of_classes = _class_columns(path, header, schema)
    rows = []
    for line, cells in lines:
        where = f"{path.name}, line {line}"
        said = {key: _cell(cells, k) or None for key, k in known.items()}
        if said["image"] is None:
            raise ConfigError(f"{where}: the name of the image is empty", code=CODE, remedy="fill it in")
        present = _present(cells, of_classes, schema, where)
        split = _split(said.get("split"), where)
        rows.append(Row(where, said["image"], present, said.get("patient"), said.get("slide"), split))
    return rows


def _class_columns(path: Path, header: Sequence[str], schema: ClassSchema) -> dict[str, int]:
    """Code -> index of its column; or, for a column of codes, "" -> its index."""
    names = [name.strip().upper() for name in header]
    found = {code: names.index(code.upper()) for code in schema.codes if code.upper() in names}
    together = [names.index(name.upper()) for name in LABELS if name.upper() in names]
    if together and not found:
        return {"": together[0]}
    missing = [code for code in schema.codes if code not in found]
    if missing or together:
        what = f"both a column of labels and {', '.join(found)}" if together else f"no column {', '.join(missing)}"
        raise ConfigError(
            f"{path} has {what}; its columns are {', '.join(repr(name) for name in header)}",
            code=CODE,
            remedy=f"write one column of 0 and 1 for each of {', '.join(schema.codes)}, or a column labels with codes",
        )
    return found


def _present(cells: Sequence[str], of_classes: Mapping[str, int], schema: ClassSchema, where: str) -> tuple[bool, ...]:
    if "" in of_classes:
        codes = [code for code in re.split(r"[\s;,+|]+", _cell(cells, of_classes[""])) if code]
        try:
            indices = {schema.index(code) for code in codes}
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}", code=CODE, remedy=error.remedy) from error
        return tuple(index in indices for index in range(len(schema.classes)))
    for code, column in of_classes.items():
        if _cell(cells, column) not in ("0", "1"):
            raise ConfigError(
                f"{where}: the column {code} holds 0 or 1, got {_cell(cells, column)!r}",
                code=CODE,
                remedy="write 1 where the class is in the patch, 0 where it is not",
            )
    return tuple(_cell(cells, of_classes[code]) == "1" for code in schema.codes)


def _split(said: str | None, where: str) -> str | None:
    if said is None or said.lower() in SPLITS:
        return said and SPLITS[said.lower()]
    raise ConfigError(
        f"{where}: the split is {said!r}, not one of {', '.join(SPLITS)}",
        code=CODE,
        remedy="mend it, or leave the column out",
    )


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column].strip() if column < len(cells) else ""
