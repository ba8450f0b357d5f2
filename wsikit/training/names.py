"""What the names of files and folders say: the split, and the slide and patient of a TCGA barcode."""

from __future__ import annotations

import re

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Name of a folder, or what a table says, in lower case -> split."""
BARCODE = re.compile(r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})((?:-[0-9A-Z]+)*)(?![0-9A-Za-z-])")


def barcode(name: str) -> tuple[str | None, str | None]:
    """(slide, patient) of a file name that begins with a TCGA barcode, as TCGA-A1-A0SK-DX1_xmin45749...

    The patient is its first three parts, the slide all of them where there are more; None where there is none.
    """
    match = BARCODE.match(name)
    if match is None:
        return None, None
    return (match[0] if match[2] else None), match[1]
