"""From what the user points at (folder, glob, file, manifest) to a list of slides with names that cannot collide."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path

from wsikit.annotations.points import delimiter_of
from wsikit.errors import ConfigError, PluginError, SlideOpenError
from wsikit.patches.cohort import PATIENT_COLUMNS, SLIDE_COLUMNS
from wsikit.patches.images import SUFFIXES
from wsikit.patches.record import SETTINGS, TABLE
from wsikit.pipeline.stamps import listed_parts
from wsikit.slides import READERS, open_reader

SLIDE_SUFFIXES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".tiff", ".btf", ".dcm", ".vms", ".vmu", ".svslide", ".qptiff"}
    | {".czi", ".zvi", ".isyntax"}
)
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jp2", ".bmp"})
"""Files of a folder with these suffixes are accounted for, one row each; others are passed over."""
ALIASES = {
    "path": ("path", "image_path", "wsi", "filename", "slide", "image"),
    "slide_id": SLIDE_COLUMNS,
    "mpp": ("mpp",),
    "mask_path": ("mask_path", "mask", "tissue_mask_path"),
    "roi_path": ("roi_path", "roi", "annotation_path", "annotations"),
    "patient": PATIENT_COLUMNS,
    "split": ("split", "fold"),
    "label": ("label", "target"),
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
    """Tissue from the manifest: a mask image or an annotation file."""
    patient: str | None = None
    roi_path: Path | None = None
    """Region of interest from the manifest: an annotation file."""
    part_of: str | None = None
    """The id of the slide that this file is read with: another file of the same DICOM series. Not run by itself."""
    split: str | None = None
    """Part of the data that the manifest puts it in: train, validation, test, or a fold."""
    label: str | None = None
    """The slide's weak label from the manifest."""
    parts: tuple[Path, ...] = ()
    """Files that are read with this one: those whose ``part_of`` it is."""


def find_slides(source: str | Path, out: Path | None = None, *, isolate: bool = False) -> list[SlideEntry]:
    """All slides that ``source`` names, in a stable order.

    Args:
        source: a folder (searched recursively), a glob pattern, one file, or a CSV manifest.
        out: the output folder; what lies in it is no input, nor are pictures and patches that wsikit wrote elsewhere.
        isolate: where files are opened to see what belongs together (DICOM), do it in child processes.

    Raises:
        ConfigError: nothing there, no slide among it, or a broken manifest.
    """
    text = str(source)
    path = Path(source)
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:
        raise ConfigError(f"{text!r} cannot be looked at: {error.strerror}") from error
    if is_folder and path.suffix.lower() not in SLIDE_SUFFIXES:
        return _one_per_slide(_from_folder(path, out), isolate)
    if is_file and path.suffix.lower() in {".csv", ".tsv", ".txt"}:
        return _from_manifest(path)
    if exists:
        return [SlideEntry(safe_name(stem(path)), path)]
    found = sorted(Path(name) for name in glob.glob(text, recursive=True))  # noqa: PTH207  # absolute patterns
    if not found:
        raise ConfigError(f"{text!r}: no such file or folder, and as a pattern it matches nothing")
    folder = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    like = [item for item in found if _is_slide(item)]
    slides = [item for item in like if not _is_output(item, _inside(out, folder))]
    if not slides:
        raise ConfigError(
            f"{text!r} matches {len(found)} files, none of them a slide{_but_outputs(like)}; {_suffixes()}"
        )
    return _one_per_slide(_named(slides, folder), isolate)


def _suffixes() -> str:
    return f"known suffixes: {' '.join(sorted(_known_suffixes()))}"


@cache
def _known_suffixes() -> frozenset[str]:
    """wsikit's own, and those that readers of other packages say of themselves."""
    found = SLIDE_SUFFIXES | IMAGE_SUFFIXES
    for name in READERS.plugins:
        # one that is broken says so where a file is opened
        with suppress(PluginError):
            found |= frozenset(getattr(READERS.load(name), "suffixes", ()))
    return found


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in _known_suffixes() and not path.name.startswith(".")


def _from_folder(folder: Path, out: Path | None) -> list[SlideEntry]:
    own = _inside(out, folder)
    like = sorted(p for p in folder.rglob("*") if _is_slide(p) and not _hidden(p, folder))
    slides = [p for p in like if not _is_output(p, own)]
    if not slides:
        raise ConfigError(f"no slides in {folder} or below{_but_outputs(like)}; {_suffixes()}")
    return _named(slides, folder)


def _but_outputs(left_out: Sequence[Path]) -> str:
    return f" but {len(left_out)} files that wsikit wrote (to run those, list them in a manifest)" if left_out else ""


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _inside(out: Path | None, folder: Path) -> Path | None:
    """The output folder, resolved, where it lies below the input; around it or beside it, it hides nothing."""
    if out is None:
        return None
    inner, outer = out.resolve(), folder.resolve()
    return inner if inner != outer and inner.is_relative_to(outer) else None


def _is_output(path: Path, out: Path | None) -> bool:
    # pictures are the only outputs that look like slides; a neighbour called slide.json alone may be the user's own
    picture = path.name in {"overview.png", "tissue.png", "tissue-overview.png"}
    made = picture and any(path.with_name(name).exists() for name in ("slide.json", "tissue.geojson"))
    # the folder format's images; its tables are always both there
    patch = path.suffix in SUFFIXES.values() and all(path.with_name(name).exists() for name in (TABLE, SETTINGS))
    return made or patch or (out is not None and path.parent.resolve().is_relative_to(out))


def stem(path: Path) -> str:
    """The file name without its last suffix."""
    return path.name[: -len(path.suffix)] if path.suffix and path.name != path.suffix else path.name


def _named(paths: Sequence[Path], folder: Path) -> list[SlideEntry]:
    """Ids from the path below the folder, so that adding files later renames nobody."""

    def name(path: Path, full: bool) -> str:
        parts = path.relative_to(folder).parts
        return safe_name("__".join([*parts[:-1], path.name if full else stem(path)]))

    entries = [SlideEntry(name(path, False), path) for path in paths]
    return _distinct(entries, lambda entry: name(entry.path, True))


def _one_per_slide(entries: list[SlideEntry], isolate: bool) -> list[SlideEntry]:
    """Mark the files that are read with another one.

    A DICOM slide is a folder of files, and each of them opens all of it: the first stands for its series. A Hamamatsu
    VMS or VMU lists its images, which are JPEG files like any other.
    """
    siblings = Counter(entry.path.parent for entry in entries if entry.path.suffix.lower() == ".dcm")
    listed = {part: entry.slide_id for entry in reversed(entries) for part in listed_parts(entry.path)}
    first: dict[tuple[Path, str], str] = {}
    result = []
    for entry in entries:
        series = _series(entry.path, isolate) if siblings[entry.path.parent] > 1 else None
        owner = first.setdefault((entry.path.parent, series), entry.slide_id) if series else entry.slide_id
        owner = listed.get(entry.path, owner)
        result.append(entry if owner == entry.slide_id else replace(entry, part_of=owner))
    parts: dict[str, list[Path]] = {}
    for entry in result:
        if entry.part_of is not None:
            parts.setdefault(entry.part_of, []).append(entry.path)
    return [replace(entry, parts=tuple(parts.get(entry.slide_id, ()))) for entry in result]


def _series(path: Path, isolate: bool) -> str | None:
    """SeriesInstanceUID of a DICOM file, or None for one that is no slide: that is said when it is run."""
    if path.suffix.lower() != ".dcm":
        return None
    try:
        reader = open_reader(path, isolate=isolate)
    except SlideOpenError:
        return None
    uid = reader.properties.get("dicom.SeriesInstanceUID")
    reader.close()
    return uid


def _distinct(
    entries: list[SlideEntry], longer: Callable[[SlideEntry], str], given: Sequence[bool] = ()
) -> list[SlideEntry]:
    """Give those that share an id (whatever the case of letters) their suffix as well, and a hash if that fails.

    Entries marked in ``given`` keep the id that the user chose.
    """
    fixed = given or [False] * len(entries)
    for rename in (longer, lambda entry: _hashed(entry.slide_id, str(entry.path))):
        counts = Counter(entry.slide_id.casefold() for entry in entries)
        entries = [
            replace(entry, slide_id=rename(entry)) if counts[entry.slide_id.casefold()] > 1 and not own else entry
            for entry, own in zip(entries, fixed, strict=True)
        ]
    counts = Counter(entry.slide_id.casefold() for entry in entries)
    twice = [str(entry.path) for entry in entries if counts[entry.slide_id.casefold()] > 1]
    if twice:
        raise ConfigError(f"{twice[0]!r} is listed more than once; give each row a slide_id of its own")
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
    if reserved or re.fullmatch(r"(?i)run\.yaml|summary\.csv|report\.html", name):
        return _hashed(f"_{name}", text)  # Windows reserves a name whatever follows its first dot
    return name if name == text and name else _hashed(name, text)


def _hashed(name: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{name or 'slide'}-{digest}"


def _from_manifest(manifest: Path) -> list[SlideEntry]:
    rows = _rows(manifest)
    entries = [_entry(manifest, line, row) for line, row in rows]
    if not entries:
        raise ConfigError(f"the manifest {manifest} has no rows")
    given = [bool(row.get("slide_id")) for _, row in rows]
    counts = Counter(entry.slide_id.casefold() for entry, own in zip(entries, given, strict=True) if own)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(f"the manifest {manifest} names the slide_id {twice[0]!r} more than once")
    return _distinct(entries, lambda entry: safe_name(entry.path.name), given)


def _rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and row with canonical column names; a .txt file has no header, it is a list of paths.

    Columns are separated as in wsikit's other tables: see ``delimiter_of``.
    """
    try:
        text = manifest.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the manifest {manifest}: {error}") from error
    if manifest.suffix.lower() == ".txt":
        return [(number, {"path": line.strip()}) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(manifest, text))
    try:
        filled = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ConfigError(f"{manifest}, line {reader.line_num}: {error}") from error
    if not filled:
        return []
    columns = _columns(manifest, filled[0][1])
    return [
        (line, {canonical: row[index].strip() for canonical, index in columns.items() if index < len(row)})
        for line, row in filled[1:]
    ]


def _columns(manifest: Path, header: list[str]) -> dict[str, int]:
    """Canonical name -> index of the column, for those that the manifest has."""
    names = [name.strip().lower() for name in header]
    found = {
        canonical: next(names.index(alias) for alias in aliases if alias in names)
        for canonical, aliases in ALIASES.items()
        if set(aliases) & set(names)
    }
    if "path" not in found:
        raise ConfigError(
            f"the manifest {manifest} has no column for the slide's file; it has {', '.join(header)}, "
            f"one of {', '.join(ALIASES['path'])} is needed"
        )
    return found


def _entry(manifest: Path, line: int, row: dict[str, str]) -> SlideEntry:
    where = f"{manifest}, line {line}"
    if not row.get("path"):
        raise ConfigError(f"{where}: the slide's path is empty")
    if any("\0" in value for value in row.values()):
        raise ConfigError(f"{where}: a NUL character; save the manifest as UTF-8 text")
    path = manifest.parent / row["path"]
    mask, roi = (manifest.parent / row[key] if row.get(key) else None for key in ("mask_path", "roi_path"))
    name = row.get("slide_id") or stem(path)
    patient, split, label = (row.get(key) or None for key in ("patient", "split", "label"))
    mpp = _mpp(where, row.get("mpp"))
    return SlideEntry(safe_name(name), path, mpp, mask, patient, roi_path=roi, split=split, label=label)


def _mpp(where: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: mpp must be a number in um per pixel, got {text!r}") from error
    if not 0 < mpp < math.inf:
        raise ConfigError(f"{where}: mpp must be a positive number of um per pixel, got {text!r}")
    return mpp
