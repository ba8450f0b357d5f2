"""Patches of a slide as tar files, as the webdataset library and others like it read them.

::

    shards/
      {slide_id}-000000.tar    4096 patches a file, in order; of each patch, one after another,
                                 {key}.jpg    the image (.png where lossless)
                                 {key}.json   slide_id, x, y, corner_x, corner_y, tissue, verbatim, mpp, label, ...
                                 {key}.cls    the label, where it is a whole number
      patches.csv              one line a patch, in order: file, shard, offset, length and crc32 of the image, the rest
      patches.json             all of PatchSet

The key is ``{slide_id}_{x}_{y}`` with x, y of the upper left corner in level-0 pixels, rounded. Keys end at the first
dot (github.com/webdataset/webdataset), so that dots of a slide id are underscores in keys. ``.cls`` is read as an
integer there; labels with other names stand in the JSON. Members have no owner and no time: the same patches give the
same bytes. wsikit reads by offset and compares the crc32.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsikit.patches import PatchRows
from wsikit.patches.files import OpenFile, OpenFiles
from wsikit.patches.images import SUFFIXES
from wsikit.patches.record import about_slide, pixel_names
from wsikit.patches.store import StoreWriter, TabledPatches, write_tables

SHARD = 4096
"""Patches in a tar file: about 150 MB of JPEG at 256 px; the library's users take 100 MB to 1 GB."""


class WebDatasetPatches(TabledPatches):
    """Patches of such a folder, read by offset."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._tars = OpenFiles(OpenFile)

    @cached_property
    def _shards(self) -> list[str]:
        return self.table.text("shard")

    @cached_property
    def _spans(self) -> NDArray[np.int64]:
        return self.table.numbers(("offset", "length", "crc32"), np.int64)

    def place(self, index: int) -> str:
        """Path of the tar file and name in it."""
        return f"{self.path / self._shards[index]}: {self.files[index]}"

    def data(self, index: int) -> bytes:
        """The encoded patch. Raises as ``read``."""
        offset, length, checksum = self._spans[index].tolist()
        tar = self._tars.get(self.path / self._shards[index])
        data = tar.read(length, offset)
        if len(data) < length or zlib.crc32(data) != checksum:
            raise tar.damaged(f"the bytes of {self.files[index]} have changed since they were written")
        return data

    def close(self) -> None:
        """Release the files; a later read opens them again."""
        self._tars.close()


class WebDatasetWriter(StoreWriter):
    """Writes a folder of tar files.

    Args:
        path: the final folder. One that exists is replaced at commit.
        shard: patches in a tar file.
    """

    filename: ClassVar[str] = "{slide_id}/shards"
    source = WebDatasetPatches

    def __init__(self, path: str | Path, *, shard: int = SHARD) -> None:
        super().__init__(path)
        self.shard = shard

    def start(self) -> None:
        """No tar file yet."""
        self._columns: dict[str, list[Any]] = {"file": [], "shard": [], "offset": [], "length": [], "crc32": []}
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None

    def append(self, rows: PatchRows) -> None:
        """Two or three members a patch."""
        keys = [name.replace(".", "_") for name in pixel_names(self.patches.slide_id, rows.xy)]
        about = about_slide(self.patches)
        for index, (key, data) in enumerate(zip(keys, rows.data, strict=True)):
            values: dict[str, Any] = {"slide_id": self.patches.slide_id}
            values |= dict(zip(("x", "y"), rows.xy[index].tolist(), strict=True))
            values |= dict(zip(("corner_x", "corner_y"), rows.corners[index].tolist(), strict=True))
            verbatim = rows.verbatim is not None and bool(rows.verbatim[index])
            self._add(key, data, values | {"tissue": float(rows.tissue[index]), "verbatim": verbatim} | about)

    def _add(self, key: str, data: bytes, values: dict[str, Any]) -> None:
        shard, place = divmod(len(self._columns["file"]), self.shard)
        name = f"{self.patches.slide_id}-{shard:06d}.tar"
        if place == 0:
            self.stop()
            self._file = (self.folder / name).open("xb")
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
        image = key + SUFFIXES[self.patches.encoding]
        row = (image, name, self._member(image, data), len(data), zlib.crc32(data))
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self._member(key + ".json", json.dumps(values, ensure_ascii=False, allow_nan=False).encode())
        if re.fullmatch("[0-9]+", self.patches.label or ""):
            self._member(key + ".cls", str(self.patches.label).encode())

    def _member(self, name: str, data: bytes) -> int:
        """Add a file to the open tar; returns the byte at which its content begins."""
        assert self._tar is not None
        assert self._file is not None
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        return self._file.tell() - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def finish(self) -> None:
        """Close the last tar file and write the table."""
        self.stop()
        write_tables(self, self._columns)

    def stop(self) -> None:
        """Close the open tar file."""
        if self._file is not None and self._tar is not None:
            with self._file:
                self._tar.close()
        self._tar = self._file = None
