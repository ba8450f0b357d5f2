"""Shards of encoded patches, written and read by hand: Zarr 3's ``sharding_indexed`` with the index at the end.

One file is::

    chunk 0 | crc32c | chunk 1 | crc32c | ... | offset 0, length 0, offset 1, length 1, ... (uint64) | crc32c

Offsets count from the file's start, lengths include a chunk's checksum, numbers are little-endian; a chunk that is not
there has offset and length 2^64 - 1 (the last shard of an array is seldom full). zarr-specs.readthedocs.io, codecs
sharding-indexed 1.0 and crc32c 1.0. Reading past zarr-python costs a tenth (docs/measured.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import sync
from wsikit.patches.files import OpenFile, OpenFiles

MISSING = 2**64 - 1
CHECKSUM = 4
"""Bytes of a crc32c."""
WRITE = 1 << 20
"""Bytes handed to the system at once."""
FLUSH = 8 << 20
"""Bytes of the open shard after which what is there of it is flushed: some 10 ms of a disk's time."""


class ShardWriter:
    """Appends chunks to the shards of an array, of which one file is open at a time.

    What is written goes to disk in a thread of its own while later chunks are still being made, so that whoever flushes
    the finished array has little to wait for.

    Args:
        folder: of the array; the shards of dimension 0 are ``c/<i>/0/0/0`` in it.
        per_shard: chunks in a shard.
    """

    def __init__(self, folder: Path, per_shard: int) -> None:
        self.folder, self.per_shard = folder, per_shard
        self.count = 0
        self._index: list[tuple[int, int]] = []
        self._end = self._flushed = 0
        self._file: IO[bytes] | None = None
        self._flusher = ThreadPoolExecutor(1, "wsikit-flush")
        self._flushes: list[Future[None]] = []

    def append(self, chunks: Sequence[bytes]) -> None:
        """Write encoded chunks after those that are there."""
        for chunk in chunks:
            if self._file is None:
                path = shard_path(self.folder, self.count // self.per_shard)
                path.parent.mkdir(parents=True)
                self._file = path.open("xb", WRITE)
            self._file.write(chunk)
            self._file.write(checksum(chunk))
            length = len(chunk) + CHECKSUM
            self._index.append((self._end, length))
            self._end += length
            self.count += 1
            if self.count % self.per_shard == 0:
                self.close()
        if self._file is not None and self._end - self._flushed >= FLUSH and all(f.done() for f in self._flushes):
            self._flush(Path(self._file.name))

    def close(self) -> None:
        """Write the index of the open shard, if there is one."""
        if self._file is None:
            return
        missing = [(MISSING, MISSING)] * (self.per_shard - len(self._index))
        index = np.array(self._index + missing, "<u8").tobytes()
        with self._file:
            self._file.write(index + checksum(index))
        self._flush(Path(self._file.name))
        self._file, self._end, self._flushed = None, 0, 0
        self._index.clear()

    def settle(self) -> None:
        """Wait until all closed shards are on disk. Raises OSError where one is not: a later flush would not say it."""
        self._flusher.shutdown()
        for flush in self._flushes:
            flush.result()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._flusher.shutdown(cancel_futures=True)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _flush(self, path: Path) -> None:
        self._flushed = self._end
        self._flushes.append(self._flusher.submit(sync, path))


class ShardReader:
    """Reads chunks by offset. Safe to call from several threads.

    Args:
        folder: of the array.
        per_shard: chunks in a shard.
    """

    def __init__(self, folder: Path, per_shard: int) -> None:
        self.folder, self.per_shard = folder, per_shard
        self._shards = OpenFiles(lambda path: _Shard(path, per_shard))

    def read(self, chunk: int) -> memoryview:
        """The bytes of one chunk, their checksum compared and taken off.

        Raises PixelReadError where they are not there or not whole; the message names the shard's file.
        """
        shard, place = divmod(chunk, self.per_shard)
        return self._shards.get(shard_path(self.folder, shard)).chunk(place)

    def close(self) -> None:
        """Release the files; a later read opens them again."""
        self._shards.close()


class _Shard(OpenFile):
    """One open file and its index, which is read once."""

    def __init__(self, path: Path, per_shard: int) -> None:
        super().__init__(path)
        length = per_shard * 16 + CHECKSUM
        room = self.size() - length
        data = self.read(length, room) if room >= 0 else b""
        if len(data) < length or checksum(data[:-CHECKSUM]) != data[-CHECKSUM:]:
            raise self.damaged("its index is damaged or it is cut short")
        self.index: NDArray[np.uint64] = np.frombuffer(data, "<u8", per_shard * 2).reshape(per_shard, 2)
        offsets, lengths = self.index[self.index[:, 0] != MISSING].T
        # compared, not added: sums of uint64 wrap
        if not ((offsets <= room) & (lengths <= np.uint64(room) - offsets) & (lengths >= CHECKSUM)).all():
            raise self.damaged("its index points outside the file")

    def chunk(self, place: int) -> memoryview:
        """One chunk without its checksum."""
        offset, length = self.index[place].tolist()
        if offset == MISSING:
            raise self.damaged(f"it lacks chunk {place}")
        data = self.read(length, offset)
        if len(data) < length or checksum(data[:-CHECKSUM]) != data[-CHECKSUM:]:
            raise self.damaged(f"the bytes of chunk {place} have changed since they were written")
        return memoryview(data)[:-CHECKSUM]


def shard_path(folder: Path, shard: int) -> Path:
    """Zarr's default chunk key of the shard at (shard, 0, 0, 0)."""
    return folder / "c" / str(shard) / "0" / "0" / "0"


def checksum(data: bytes) -> bytes:
    """crc32c as Zarr appends it: little-endian uint32."""
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM, "little")
