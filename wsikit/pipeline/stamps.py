"""What tells one file from another: of slides cheaply, from a few pieces; of outputs from every byte."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PIECE = 1 << 16
"""Bytes read at the head, in the middle and at the tail of a slide's file for its quick hash."""
THREADS = 4
"""hashlib computes without the interpreter's lock; many small files are waits for the disk."""
PARTS = {".mrxs": "folder", ".vms": "listed", ".vmu": "listed"}
"""Suffix -> where the rest of a slide in many files is: in a folder of its stem, or listed in the file itself."""


def source_stamp(path: Path, parts: Iterable[Path] = ()) -> dict[str, Any] | None:
    """What a slide's file is known by, or None where there is none; any difference makes it another slide.

    Args:
        path: the slide's own file.
        parts: files that are read with it, beside those that the format has by rule (MRXS, VMS, VMU).

    Returns:
        ``bytes``, ``mtime_ns``, ``quick`` (sha256 of size and three pieces, None where it cannot be read) and, where
        the slide has more files, ``parts`` (sha256 over their names, sizes and modification times).
    """
    try:
        status = path.stat()
    except OSError:
        return None
    found = [*_parts(path), *parts]
    return {
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        # opening a pipe or a device might wait for ever
        "quick": _quick_hash(path, status.st_size) if stat.S_ISREG(status.st_mode) else None,
        **({"parts": _listing(path.parent, found)} if found else {}),
    }


def output_facts(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file; of a folder the sum, and the sha256 over its files' listing.

    The listing has a line for each file, sorted by path: sha256, size and path relative to the folder with slashes,
    as in ``"<sha256> <bytes> <path>\\n"``, in UTF-8. Memory does not grow with the size of the files.

    Raises OSError.
    """
    if not path.is_dir():
        return {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    files = sorted(_files(path))
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(_sha256, (path / name for name in files))
        sizes = [(path / name).stat().st_size for name in files]
        digest = hashlib.sha256()
        for name, size, sha256 in zip(files, sizes, hashes, strict=True):
            digest.update(f"{sha256} {size} {name}\n".encode("utf-8", "surrogateescape"))
    return {"bytes": sum(sizes), "sha256": digest.hexdigest()}


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a folder. Raises OSError where there is neither."""
    if path.is_dir():
        return sum((path / name).stat().st_size for name in _files(path))
    return path.stat().st_size


def _files(folder: Path) -> Iterator[str]:
    """Relative paths, with slashes, of all files below."""
    for root, _, names in os.walk(folder):
        for name in names:
            yield (Path(root) / name).relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quick_hash(path: Path, size: int) -> str | None:
    digest = hashlib.sha256(str(size).encode())
    try:
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - PIECE)):
                file.seek(start)
                digest.update(file.read(PIECE))
    except OSError:
        return None
    return digest.hexdigest()


def _listing(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        try:
            status = path.stat()
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # a name in a listing may be none at all
            facts = "missing"
        digest.update(f"{os.path.relpath(path, folder)} {facts}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _parts(path: Path) -> Iterator[Path]:
    """The other files of a slide whose format has them by rule; those that are listed and missing as well."""
    rule = PARTS.get(path.suffix.lower())
    if rule == "folder":
        folder = path.with_suffix("")
        yield from (folder / name for name in _files(folder))
    else:
        yield from listed_parts(path)


def listed_parts(path: Path) -> Iterator[Path]:
    """The other files that a slide's own lists: of a Hamamatsu VMS or VMU, whether they are there or not."""
    if PARTS.get(path.suffix.lower()) != "listed":
        return
    try:
        with path.open("rb") as file:
            lines = file.read(1 << 20).decode("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, _, value = line.partition("=")
        if key.startswith(("ImageFile", "MapFile", "OptimisationFile", "MacroImage")) and value.strip():
            yield path.parent / Path(value.strip().replace("\\", "/")).name
