"""Files that belong to a slide beside its own: the folder of an MRXS, the images of a VMS, a set of NDPI files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsikit.pipeline.doctor.findings import Finding

MOST_TEXT = 1 << 20
"""Bytes that an index file is read of; those of real slides have a few thousand."""
REMEDY = "copy the slide again with all files that belong to it, in the same places"
MRXS = re.compile(r"^\s*(?:FILE_\d+|INDEXFILE)\s*=\s*(\S.*?)\s*$", re.MULTILINE)
"""Data and index files that Slidedat.ini lists (3DHISTECH MIRAX)."""
VMS = re.compile(r"^\s*(?:ImageFile(?:\(\d+(?:,\d+)*\))?|MapFile)\s*=\s*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE)
"""Images without which a Hamamatsu VMS or VMU has no pixels; macro and optimisation files can be done without."""
NDPIS = re.compile(r"^\s*Image\d+\s*=\s*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE)
"""Members of a Hamamatsu NDPI set."""
OME = re.compile(r'\b(?:FileName|MetadataFile)="([^"]+)"')
"""Other files of a multi-file OME-TIFF, or its companion file."""


@dataclass(frozen=True, slots=True)
class Companions:
    """What a slide's index names, and what is missing of it."""

    index: Path
    """The file that names them."""
    files: tuple[Path, ...]
    needed: bool = True
    """Whether the slide cannot be read without them."""

    @property
    def missing(self) -> list[Path]:
        """Those that are not there, or empty."""
        return [path for path in self.files if not path.is_file() or not path.stat().st_size]


def companions(path: Path) -> Companions | None:
    """What belongs to a slide by its suffix; None where nothing does."""
    match path.suffix.lower():
        case ".mrxs":
            index = path.with_suffix("") / "Slidedat.ini"
            # index.parent may be missing: then the index itself is what is not there
            return Companions(index, (index, *_named(index, MRXS)))
        case ".vms" | ".vmu":
            return Companions(path, _named(path, VMS))
        case ".ndpi":
            sets = [index for index in sorted(path.parent.glob("*.ndpis")) if path in _named(index, NDPIS)]
            return Companions(sets[0], _named(sets[0], NDPIS), needed=False) if sets else None
    return None


def missing_companions(found: Companions | None) -> Iterator[Finding]:
    """The finding where files are missing."""
    missing = found.missing if found else []
    if found and missing:
        names = ", ".join(_shown(path, found.index) for path in missing[:4])
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        said = f"{len(missing)} file(s) that {found.index.name} stands for are missing or empty: {names}{more}"
        yield Finding("missing_companion", "error" if found.needed else "warning", said, REMEDY)


def missing_ome(path: Path, properties: Mapping[str, str]) -> Iterator[Finding]:
    """The finding where an OME-TIFF names other files that are not beside it."""
    named = {name for text in properties.values() for name in OME.findall(text)}
    # the only name is the file's own, which may have been given another one since
    if len(named) < 2 and not any("MetadataFile=" in text for text in properties.values()):
        return
    files = tuple(_beside(path, name) for name in sorted(named))
    yield from missing_companions(Companions(path, files))


def _named(index: Path, pattern: re.Pattern[str]) -> tuple[Path, ...]:
    """The files that an index names, beside it; none where it cannot be read."""
    try:
        with index.open("rb") as file:
            text = file.read(MOST_TEXT).decode("utf-8-sig", "surrogateescape")
    except OSError:
        return ()
    return tuple(dict.fromkeys(_beside(index, name) for name in pattern.findall(text) if "\0" not in name))


def _beside(index: Path, name: str) -> Path:
    """A file in the folder of the index, whatever folder the name speaks of: slides are moved with their folder."""
    return index.parent / name.replace("\\", "/").rpartition("/")[2]


def _shown(path: Path, index: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path == index else path.name
