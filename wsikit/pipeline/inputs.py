"""From what the user points at (folder, glob, file, manifest) to a list of slides with names that cannot collide."""

from __future__ import annotations

import csv
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsikit.errors import ConfigError

SLIDE_SUFFIXES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".tiff", ".btf", ".dcm", ".vms", ".vmu", ".svslide", ".qptiff"}
    | {".czi", ".zvi", ".isyntax"}
)
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jp2", ".bmp"})
"""Files of a folder with these suffixes are accounted for, one row each; others are passed over."""
ALIASES = {
    "path": ("path", "image_path", "wsi", "filename", "slide", "image"),
    "slide_id": ("slide_id", "sample_id"),
    "mpp": ("mpp",),
    "mask_path": ("mask_path", "mask", "tissue_mask_path"),
    "patient": ("patient", "patient_id"),
}
"""Manifest columns, upper or lower case, by the names that other tools give them."""
ID_BYTES = 120
"""Longest slide id in UTF-8 bytes, so that file names made of it stay far from the limit of 255."""


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """One slide to run."""

    slide_id: str
    """Folder name under the output: safe on every file system, unique in the run."""
    path: Path
    mpp: float | None = None
    """um per level-0 pixel from the manifest."""
    mask_path: Path | None = None
    """Tissue mask image from the manifest."""
    patient: str | None = None


def find_slides(source: str | Path, out: Path | None = None) -> list[SlideEntry]:
    """All slides that ``source`` names, in a stable order.

    Args:
        source: a folder (searched recursively), a glob pattern, one file, or a CSV manifest.
        out: the output folder; what lies in it, or in any other output of wsikit, is no input.

    Raises:
        ConfigError: nothing there, no slide among it, or a broken manifest.
    """
    text = str(source)
    path = Path(source)
    if path.is_dir() and path.suffix.lower() not in SLIDE_SUFFIXES:
        return _from_folder(path, out)
    if path.suffix.lower() in {".csv", ".tsv", ".txt"} and path.is_file():
        return _from_manifest(path)
    if path.exists():
        return [SlideEntry(safe_name(stem(path)), path)]
    found = sorted(Path(name) for name in glob.glob(text, recursive=True))  # noqa: PTH207  # absolute patterns
    if not found:
        raise ConfigError(f"{text!r}: no such file or folder, and as a pattern it matches nothing")
    slides = [item for item in found if _is_slide(item)]
    if not slides:
        raise ConfigError(f"{text!r} matches {len(found)} files, none with a slide's suffix; {_suffixes()}")
    return _named(slides, _common_folder(slides))


def _suffixes() -> str:
    return f"known suffixes: {' '.join(sorted(SLIDE_SUFFIXES | IMAGE_SUFFIXES))}"


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in SLIDE_SUFFIXES | IMAGE_SUFFIXES and not path.name.startswith(".")


def _from_folder(folder: Path, out: Path | None) -> list[SlideEntry]:
    slides = sorted(p for p in folder.rglob("*") if _is_slide(p) and not _hidden(p, folder) and not _is_output(p, out))
    if not slides:
        raise ConfigError(f"no slides in {folder} or below; {_suffixes()}")
    return _named(slides, folder)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_output(path: Path, out: Path | None) -> bool:
    inside = out is not None and path.absolute().is_relative_to(out.absolute())
    return inside or path.with_name("slide.json").exists()


def _common_folder(paths: Sequence[Path]) -> Path:
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def stem(path: Path) -> str:
    """The file name without its last suffix."""
    return path.name[: -len(path.suffix)] if path.suffix and path.name != path.suffix else path.name


def _named(paths: Sequence[Path], folder: Path) -> list[SlideEntry]:
    """Ids from the path below the folder, so that adding files later renames nobody."""

    def name(path: Path, full: bool) -> str:
        parts = path.relative_to(folder).parts
        return safe_name("__".join([*parts[:-1], path.name if full else stem(path)]))

    return _distinct([SlideEntry(name(path, False), path) for path in paths], lambda entry: name(entry.path, True))


def _distinct(entries: list[SlideEntry], longer: Callable[[SlideEntry], str]) -> list[SlideEntry]:
    """Give those that share an id (whatever the case of letters) their suffix as well, and a hash if that fails."""
    for rename in (longer, lambda entry: _hashed(entry.slide_id, str(entry.path))):
        counts = Counter(entry.slide_id.casefold() for entry in entries)
        entries = [
            replace(entry, slide_id=rename(entry)) if counts[entry.slide_id.casefold()] > 1 else entry
            for entry in entries
        ]
    return entries


def safe_name(text: str) -> str:
    """A folder name for any text: letters of all scripts kept, what a file system or shell may trip over replaced.

    A name that is only cut short or had something replaced carries a hash of the original, so that two different names
    stay different.
    """
    name = re.sub(r"[^\w.+=@~ -]", "_", text).strip(" .")
    name = re.sub(r"\.{2,}", "_", name)
    while len(name.encode()) > ID_BYTES:
        name = name[:-1]
    reserved = re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", name.partition(".")[0])
    return name if name == text and name and not reserved else _hashed(name, text)


def _hashed(name: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{name or 'slide'}-{digest}"


def _from_manifest(manifest: Path) -> list[SlideEntry]:
    rows = _rows(manifest)
    entries = [_entry(manifest, number, row) for number, row in enumerate(rows, 2)]
    if not entries:
        raise ConfigError(f"the manifest {manifest} has no rows")
    given = Counter(entry.slide_id.casefold() for entry, row in zip(entries, rows, strict=True) if row.get("slide_id"))
    twice = [name for name, count in given.items() if count > 1]
    if twice:
        raise ConfigError(f"the manifest {manifest} names the slide_id {twice[0]!r} more than once")
    return _distinct(entries, lambda entry: safe_name(entry.path.name))


def _rows(manifest: Path) -> list[dict[str, str]]:
    """Rows with canonical column names; a text file without a header is a list of paths."""
    try:
        lines = manifest.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the manifest {manifest}: {error}") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        return []
    if manifest.suffix.lower() == ".txt":
        return [{"path": line.strip()} for line in lines]
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    header = {name: name.strip().lower() for name in reader.fieldnames or []}
    columns = {
        canonical: next((name for alias in aliases for name, low in header.items() if low == alias), None)
        for canonical, aliases in ALIASES.items()
    }
    if columns["path"] is None:
        raise ConfigError(
            f"the manifest {manifest} has no column for the slide's file; it has {', '.join(header)}, "
            f"one of {', '.join(ALIASES['path'])} is needed"
        )
    return [
        {canonical: (row.get(name) or "").strip() for canonical, name in columns.items() if name is not None}
        for row in reader
    ]


def _entry(manifest: Path, line: int, row: dict[str, str]) -> SlideEntry:
    where = f"{manifest}, line {line}"
    if not row["path"]:
        raise ConfigError(f"{where}: the slide's path is empty")
    path = manifest.parent / row["path"]
    mpp = None
    if row.get("mpp"):
        try:
            mpp = float(row["mpp"])
        except ValueError as error:
            raise ConfigError(f"{where}: mpp must be a number in um per pixel, got {row['mpp']!r}") from error
    mask = manifest.parent / row["mask_path"] if row.get("mask_path") else None
    name = row.get("slide_id") or stem(path)
    return SlideEntry(safe_name(name), path, mpp, mask, row.get("patient") or None)
