"""What files say without being opened as slides: may they be read, are they whole, are two of them the same."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.pipeline.doctor.companions import Companions, companions, missing_companions
from wsikit.pipeline.doctor.findings import Finding
from wsikit.pipeline.inputs import IMAGE_SUFFIXES, SLIDE_SUFFIXES, SlideEntry, stem
from wsikit.pipeline.stamps import source_stamp

SAMPLE = 1 << 16
"""Bytes of the head, the middle and the tail of a file that tell it from others of its size."""
FRESH = 60.0
"""Seconds for which a file that was changed may still be on its way."""
FOREIGN = {
    ".vsi": "Olympus",
    ".ets": "Olympus",
    ".lif": "Leica",
    ".nd2": "Nikon",
    ".oir": "Olympus",
    ".kfb": "KFBio",
    ".sdpc": "SQRAY",
    ".tmap": "UNIC",
    ".mds": "Motic",
    ".mdsx": "Motic",
    ".zif": "Zoomable Image",
    ".afi": "Aperio fluorescence",
    ".dsmeta": "DataScope",
    ".ims": "Imaris",
}
"""Suffixes of slide formats that the readers here do not know -> whose they are."""


def look_at_file(entry: SlideEntry) -> Iterator[Finding]:
    """Findings about a slide's own file and those that belong to it. Opens regular files only: a pipe would hang."""
    path = entry.path
    try:
        found = path.stat()
    except OSError:
        return  # opening it says so
    if not stat.S_ISREG(found.st_mode):
        return
    if found.st_size == 0:
        yield Finding("empty_file", "error", f"{path.name} has no bytes", "copy the file again")
    try:
        path.open("rb").close()
    except PermissionError:
        mode = stat.filemode(found.st_mode)
        yield Finding(
            "no_permission",
            "error",
            f"{path.name} exists and may not be read ({mode})",
            "ask its owner for the right to read it, or run as a user who has it",
        )
    except OSError:
        return
    if 0 <= time.time() - found.st_mtime < FRESH:
        yield Finding(
            "just_written",
            "note",
            f"{path.name} was changed less than a minute ago",
            "make sure that copying or scanning has ended",
        )
    yield from missing_companions(companions(path))
    yield from _renamed(entry)


def _renamed(entry: SlideEntry) -> Iterator[Finding]:
    name = stem(entry.path)
    # a folder's name before the file's keeps two slides apart and surprises nobody
    if entry.slide_id != name and not entry.slide_id.endswith(f"__{name}"):
        yield Finding(
            "renamed",
            "note",
            f"results of {entry.path.name} are called {entry.slide_id}",
            "another file has the same name but for its suffix or the case of letters, or the name is no safe folder "
            "name; give a manifest with a column slide_id to choose names",
        )


def parts_of_others(entries: Sequence[SlideEntry]) -> dict[Path, list[Finding]]:
    """Path -> finding, of files that are the images of another slide of the list: the JPEGs beside a VMS.

    Folders and patterns are searched for slides alone; a manifest may list anything.
    """
    listed = {entry.path for entry in entries}
    found: dict[Path, list[Finding]] = {}
    for entry in entries:
        known = companions(entry.path) or Companions(entry.path, (), needed=False)
        for path in set(known.files) & listed - {entry.path} if known.needed else ():
            said = f"{path.name} is a part of {entry.path.name} and would be run as a slide of its own"
            remedy = "take it out of the manifest"
            found[path] = [Finding("companion_as_slide", "warning", said, remedy)]
    return found


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells slides apart at a glance."""

    size: int
    digest: str
    """sha256 of head, middle and tail."""


def fingerprint(path: Path) -> Fingerprint | None:
    """Of a slide's own file and, of an MRXS, of the index that names its slide; None where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        digest = hashlib.sha256()
        size = 0
        for part in _hashed_files(path):
            with part.open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                for start in (0, max(0, (length - SAMPLE) // 2), max(0, length - SAMPLE)):
                    file.seek(start)
                    digest.update(file.read(SAMPLE))
            size += length
    except OSError:
        return None
    return Fingerprint(size, digest.hexdigest())


def duplicates(prints: Mapping[Path, Fingerprint | None]) -> dict[Path, list[Finding]]:
    """Path -> finding, of slides that hold the same bytes as an earlier one. Only candidates are read whole."""
    alike: dict[Fingerprint, list[Path]] = defaultdict(list)
    for path, found in prints.items():
        if found is not None and found.size:
            alike[found].append(path)
    result: dict[Path, list[Finding]] = {}
    for paths in alike.values():
        first: dict[str, Path] = {}
        for path in paths if len(paths) > 1 else ():
            digest = _whole_digest(path)
            original = first.setdefault(digest, path) if digest else path
            if original != path:
                result[path] = [_duplicate(path, original)]
    return result


def _duplicate(path: Path, original: Path) -> Finding:
    same = path.samefile(original)
    how = "is the same file as" if same else "holds byte for byte the same slide as"
    remedy = "keep one of them: a slide that is counted twice distorts a cohort, and splits of it leak"
    return Finding("duplicate", "warning", f"{path.name} {how} {original}", remedy)


def _hashed_files(path: Path) -> list[Path]:
    """The .mrxs itself is a small picture, which two slides may share; its index holds the slide's own id."""
    if path.suffix.lower() != ".mrxs":
        return [path]
    return [path, *(part for part in (path.with_suffix("") / "Slidedat.ini",) if part.is_file())]


def _whole_digest(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        for part in _hashed_files(path):
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return None
    return digest.hexdigest()


Stamps = Mapping[Path, dict[str, int] | None]
"""Path -> size and time of change."""


def stamps(entries: Iterable[SlideEntry]) -> Stamps:
    """As the files are now."""
    return {entry.path: source_stamp(entry.path) for entry in entries}


def still_written(before: Stamps, fresh: Iterable[Path], wait: float) -> dict[Path, list[Finding]]:
    """Path -> finding, of files that are not as they were. Waits ``wait`` seconds if any is fresh."""
    if any(True for _ in fresh):
        time.sleep(wait)
    result = {}
    for path, stamp in before.items():
        now = source_stamp(path)
        if now != stamp:
            sizes = f"{(stamp or {}).get('size', 'no')} bytes, then {(now or {}).get('size', 'no')}"
            result[path] = [
                Finding(
                    "slide_changed",
                    "error",
                    f"{path.name} is still being written, or was replaced or removed ({sizes})",
                    "wait until the file is complete, then look again",
                )
            ]
    return result


def strays(source: str | Path) -> list[Finding]:
    """Of a folder: what no reader knows, and what lost the file that it belongs to. Nothing for other sources."""
    folder = Path(source)
    if not folder.is_dir():
        return []
    foreign: dict[str, list[Path]] = defaultdict(list)
    result = []
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix in FOREIGN and suffix not in SLIDE_SUFFIXES | IMAGE_SUFFIXES:
            foreign[suffix].append(path)
        elif path.name == "Slidedat.ini" and not path.parent.with_name(f"{path.parent.name}.mrxs").exists():
            said = f"{path.parent} is the folder of an MRXS slide, and {path.parent.name}.mrxs is not beside it"
            result.append(Finding("orphan_companion", "warning", said, "copy the .mrxs file too"))
    for suffix, paths in foreign.items():
        said = f"{len(paths)} {suffix} file(s) ({FOREIGN[suffix]}) are passed over, the first is {paths[0]}"
        remedy = "convert them to pyramidal OME-TIFF (QuPath, bioformats2raw with raw2ometiff)"
        result.append(Finding("unknown_format", "warning", said, remedy))
    return result
