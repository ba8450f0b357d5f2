"""Files that are whole or not there: temporary name in the same folder, flushed, then renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wsikit.errors import OutputError


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
