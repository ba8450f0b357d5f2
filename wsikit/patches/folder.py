"""Patches of a slide as a folder of JPEG or PNG files.

::

    patches/
      {slide_id}_{x}_{y}.jpg   x, y of the upper left corner in level-0 pixels, rounded; .png where lossless
      patches.csv              one line a patch, in order: file, exact places, tissue, and what is said of the slide
      patches.json             all of PatchSet

Others may change the images and keep their names and size. A file that is cut short is noticed, a flipped bit is not:
``zarr`` and ``webdataset`` have checksums.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import output_errors, remove, replace_folder, temporary
from wsikit.errors import OutputError, PixelReadError
from wsikit.patches import PatchRows, PatchSet
from wsikit.patches.images import SUFFIXES, decode
from wsikit.patches.record import (
    REMEDY,
    SETTINGS,
    TABLE,
    Rows,
    Table,
    described,
    json_bytes,
    patch_set,
    pixel_names,
    read_json,
    table_bytes,
)
from wsikit.slides import Pixels


class FolderWriter:
    """Writes a folder of images.

    Args:
        path: the final folder. One that exists is replaced at commit.

    Raises:
        OutputError: from begin, write and commit, where the disk refuses.
    """

    filename: ClassVar[str] = "{slide_id}/patches"
    has_pixels: ClassVar[bool] = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._patches: PatchSet | None = None

    def begin(self, patches: PatchSet) -> None:
        """Make the temporary folder."""
        self.abort()
        folder = temporary(self.path)
        with output_errors(self.path):
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove(folder)
            folder.mkdir()
        self._patches, self._rows, self._files = patches, Rows(), list[str]()

    def write(self, rows: PatchRows) -> None:
        """Append patches."""
        patches = self._begun()
        self._rows.add(rows, pixels=True)
        names = [name + SUFFIXES[patches.encoding] for name in pixel_names(patches.slide_id, rows.xy)]
        with output_errors(self.path):
            for name, data in zip(names, rows.data, strict=True):
                # x: two patches of one name would be one file
                with (temporary(self.path) / name).open("xb") as file:
                    file.write(data)
        self._files += names

    def commit(self) -> None:
        """Write the table, flush to disk and rename to the final path."""
        patches, folder = self._begun(), temporary(self.path)
        with output_errors(self.path):
            (folder / TABLE).write_bytes(table_bytes(patches, self._rows, {"file": self._files}))
            (folder / SETTINGS).write_bytes(json_bytes(described(patches)))
            replace_folder(folder, self.path)
        self._patches = None

    def abort(self) -> None:
        """Remove everything written."""
        if self._patches is not None:
            remove(temporary(self.path))
        self._patches = None

    def _begun(self) -> PatchSet:
        if self._patches is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._patches


class FolderPatches:
    """Patches of such a folder.

    Raises ConfigError (code no_patches) where the path holds no such dataset, or not a whole one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.patches = patch_set(read_json(self.path / SETTINGS), self.path)
        self.table = Table(self.path / TABLE)
        """``patches.csv``."""
        self.files = self.table.text("file")
        """Names of the images, in order."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """(N, 2) on the lattice of ``patches.mpp``."""
        return self.table.numbers(("corner_x", "corner_y"), np.int64)

    @cached_property
    def xy(self) -> NDArray[np.float64]:
        """(N, 2) in level-0 pixels of the full plane."""
        return self.table.numbers(("x", "y"), np.float64)

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """(N,) share of the patch that is tissue."""
        return self.table.numbers(("tissue",), np.float32)[:, 0]

    @cached_property
    def verbatim(self) -> NDArray[np.bool_]:
        """(N,) whether the image is the slide's own compressed tile."""
        return self.table.numbers(("verbatim",), np.int64)[:, 0] == 1

    def data(self, index: int) -> bytes:
        """The encoded patch. Raises as ``read``."""
        path = self.path / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise PixelReadError(f"{path} cannot be read: {error.strerror or error}", remedy=REMEDY) from error

    def read(self, index: int, out: Pixels | None = None) -> Pixels:
        """(patch, patch, 3) uint8 RGB of one patch, decoded into ``out`` where one is given.

        Raises PixelReadError where its file is damaged, IndexError past the end.
        """
        data = self.data(index)
        try:
            return decode(data, out, side=self.patches.patch)
        except PixelReadError as error:
            raise PixelReadError(f"{self.path / self.files[index]}: {error}", remedy=REMEDY) from error

    def close(self) -> None:
        """Nothing is kept open."""
