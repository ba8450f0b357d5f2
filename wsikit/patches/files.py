"""Files that are read by offset, few of them open at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from wsikit.errors import PixelReadError
from wsikit.patches.record import REMEDY

AT_ONCE = 16
"""Files that one dataset keeps open: a system allows a process about a thousand."""


class OpenFile:
    """A file that is read by ``pread``, which shares no position: threads and forked processes may use it at once.

    Raises PixelReadError where it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise PixelReadError(f"{path} cannot be read: {error.strerror or error}", remedy=REMEDY) from error

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, length: int, offset: int) -> bytes:
        """Fewer bytes than ``length`` where the file ends before. Raises PixelReadError where the disk refuses."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self.damaged(f"it cannot be read: {error.strerror or error}") from error

    def damaged(self, what: str) -> PixelReadError:
        """To be raised."""
        return PixelReadError(f"{self.path}: {what}", remedy=REMEDY)


File = TypeVar("File", bound=OpenFile)


class OpenFiles(Generic[File]):
    """The files that were used last. One that is dropped is closed when the last thread that reads from it is done.

    Args:
        opened: makes an open file of a path.
    """

    def __init__(self, opened: Callable[[Path], File]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, File] = OrderedDict()

    def get(self, path: Path) -> File:
        """The open file. Raises what opening it raises."""
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = self._opened(path)
                if len(self._files) > AT_ONCE:
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
        return file

    def close(self) -> None:
        """Let go of all; a later ``get`` opens them again."""
        with self._lock:
            self._files.clear()
