"""Files that are whole or not there: temporary name in the same folder, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from wsikit.errors import OutputError

SYNC_THREADS = 16
LATE_S = (0.05, 0.2, 1.0)
"""Pauses in which what still writes into a folder that is removed should come to its end."""


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing ``path`` into an OutputError, code no_space or io_error, chained."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            code="no_space" if full else "io_error",
            remedy="free some space and run again" if full else "give a folder that exists and can be written to",
        ) from error


def temporary(path: Path) -> Path:
    """The hidden name, in the same folder, under which ``path`` is written until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, chunks: bytes | Iterable[bytes]) -> None:
    """Write a file so that ``path`` holds all of it or what it held before.

    Raises:
        OutputError: code no_space where the disk or quota is full, else io_error.
    """
    hidden = temporary(path)
    with output_errors(path):
        try:
            with hidden.open("wb") as file:
                file.writelines([chunks] if isinstance(chunks, bytes) else chunks)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
        finally:
            hidden.unlink(missing_ok=True)


def replace_folder(folder: Path, final: Path) -> None:
    """Flush ``folder`` to disk and rename it to ``final``.

    A folder cannot be renamed over another: that one steps aside first.
    """
    _sync_tree(folder)
    aside = folder.with_name(folder.name.removesuffix(".tmp") + ".old.tmp")
    remove(aside)
    if final.exists():
        final.rename(aside)
    try:
        folder.rename(final)
    except OSError:
        if aside.exists():
            aside.rename(final)
        raise
    sync(final.parent)
    remove(aside)


def _sync_tree(folder: Path) -> None:
    """Flush every file, then every folder. From many threads: a file system commits waiting flushes together, and
    thousands of chunks one by one took 11 s where this takes 0.3 s."""
    paths = list(folder.rglob("*"))
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        for chosen in ([p for p in paths if p.is_file()], [p for p in paths if p.is_dir()]):
            list(pool.map(sync, chosen))
    sync(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove a folder where a library's own threads may write on for a moment after one of them has failed (zarr's)."""
    for pause in LATE_S:
        with suppress(OSError):
            remove(folder)
        time.sleep(pause)
        if not folder.exists():
            return
    remove(folder)
