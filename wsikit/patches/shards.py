"""Shards of encoded patches, written and read by hand: Zarr 3's ``sharding_indexed`` with the index at the end.

One file is::

    chunk 0 | crc32c | chunk 1 | crc32c | ... | offset 0, length 0, offset 1, length 1, ... (uint64) | crc32c

Offsets count from the file's start, lengths include a chunk's checksum, numbers are little-endian; a chunk that is not
there has offset and length 2^64 - 1 (the last shard of an array is seldom full). zarr-specs.readthedocs.io, codecs
sharding-indexed 1.0 and crc32c 1.0. Reading past zarr-python costs a tenth (docs/measured.md).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsikit.errors import PixelReadError

MISSING = np.iinfo(np.uint64).max
CHECKSUM = 4
"""Bytes of a crc32c."""
OPEN_SHARDS = 16
"""Files that one array keeps open for reading."""
REMEDY = "copy the dataset again, or make it anew with `wsikit tile`"


class ShardWriter:
    """Appends chunks to the shards of an array, of which one file is open at a time.

    Args:
        folder: of the array; the shards of dimension 0 are ``c/<i>/0/0/0`` in it.
        per_shard: chunks in a shard.
    """

    def __init__(self, folder: Path, per_shard: int) -> None:
        self.folder, self.per_shard = folder, per_shard
        self.count = 0
        self._index = np.full((per_shard, 2), MISSING, "<u8")
        self._end = 0
        self._file: IO[bytes] | None = None

    def append(self, chunks: Sequence[bytes]) -> None:
        """Write encoded chunks after those that are there."""
        for chunk in chunks:
            if self._file is None:
                path = shard_path(self.folder, self.count // self.per_shard)
                path.parent.mkdir(parents=True)
                self._file = path.open("xb")
            self._file.write(chunk)
            self._file.write(checksum(chunk))
            length = len(chunk) + CHECKSUM
            self._index[self.count % self.per_shard] = self._end, length
            self._end += length
            self.count += 1
            if self.count % self.per_shard == 0:
                self.close()

    def close(self) -> None:
        """Write the index of the open shard, if there is one."""
        if self._file is None:
            return
        index = self._index.tobytes()
        with self._file:
            self._file.write(index + checksum(index))
        self._file, self._end = None, 0
        self._index[:] = MISSING

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


class ShardReader:
    """Reads chunks by offset. Safe to call from several threads: ``pread`` shares no position.

    Args:
        folder: of the array.
        per_shard: chunks in a shard.
    """

    def __init__(self, folder: Path, per_shard: int) -> None:
        self.folder, self.per_shard = folder, per_shard
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def read(self, chunk: int) -> memoryview:
        """The bytes of one chunk, their checksum compared and taken off.

        Raises PixelReadError where they are not there or not whole; the message names the shard's file.
        """
        shard, place = divmod(chunk, self.per_shard)
        with self._lock:
            opened = self._open.get(shard)
            if opened is None:
                opened = self._open[shard] = _Shard(shard_path(self.folder, shard), self.per_shard)
                # a shard that is dropped closes its file when the last thread that reads from it is done
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
        return opened.read(place)

    def close(self) -> None:
        """Release the files; a later read opens them again."""
        with self._lock:
            self._open.clear()


class _Shard:
    """One open file and its index."""

    def __init__(self, path: Path, per_shard: int) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise PixelReadError(f"{path} cannot be read: {error.strerror or error}", remedy=REMEDY) from error
        self.index = self._read_index(per_shard)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def _read_index(self, per_shard: int) -> NDArray[np.uint64]:
        length = per_shard * 16 + CHECKSUM
        size = os.fstat(self.descriptor).st_size
        data = os.pread(self.descriptor, length, max(size - length, 0))
        if len(data) < length or checksum(data[:-CHECKSUM]) != data[-CHECKSUM:]:
            raise self._damaged("its index is damaged or it is cut short")
        index = np.frombuffer(data, "<u8", per_shard * 2).reshape(per_shard, 2)
        offsets, lengths = index[index[:, 0] != MISSING].T
        room = np.uint64(size - length)
        # compared, not added: sums of uint64 wrap
        if not ((offsets <= room) & (lengths <= room - offsets) & (lengths > CHECKSUM)).all():
            raise self._damaged("its index points outside the file")
        return index

    def read(self, place: int) -> memoryview:
        offset, length = (int(value) for value in self.index[place])
        if offset == MISSING:
            raise self._damaged(f"it lacks chunk {place}")
        data = os.pread(self.descriptor, length, offset)
        if len(data) < length or checksum(data[:-CHECKSUM]) != data[-CHECKSUM:]:
            raise self._damaged(f"the bytes of chunk {place} have changed since they were written")
        return memoryview(data)[:-CHECKSUM]

    def _damaged(self, what: str) -> PixelReadError:
        return PixelReadError(f"{self.path}: {what}", remedy=REMEDY)


def shard_path(folder: Path, shard: int) -> Path:
    """Zarr's default chunk key of the shard at (shard, 0, 0, 0)."""
    return folder / "c" / str(shard) / "0" / "0" / "0"


def checksum(data: bytes) -> bytes:
    """crc32c as Zarr appends it: little-endian uint32."""
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM, "little")
