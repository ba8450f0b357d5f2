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

from typing import ClassVar

from wsikit.errors import PixelReadError
from wsikit.patches import PatchRows
from wsikit.patches.images import SUFFIXES
from wsikit.patches.record import REMEDY, pixel_names
from wsikit.patches.store import StoreWriter, TabledPatches, write_tables


class FolderPatches(TabledPatches):
    """Patches of such a folder."""

    def place(self, index: int) -> str:
        """Path of the image."""
        return str(self.path / self.files[index])

    def data(self, index: int) -> bytes:
        """The encoded patch. Raises as ``read``."""
        path = self.path / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise PixelReadError(f"{path} cannot be read: {error.strerror or error}", remedy=REMEDY) from error


class FolderWriter(StoreWriter):
    """Writes a folder of images."""

    filename: ClassVar[str] = "{slide_id}/patches"
    source = FolderPatches

    def start(self) -> None:
        """No image yet."""
        self._files: list[str] = []

    def append(self, rows: PatchRows) -> None:
        """One file a patch."""
        suffix = SUFFIXES[self.patches.encoding]
        for name, data in zip(pixel_names(self.patches.slide_id, rows.xy), rows.data, strict=True):
            # x: two patches of one name would be one file
            with (self.folder / (name + suffix)).open("xb") as file:
                file.write(data)
            self._files.append(name + suffix)

    def finish(self) -> None:
        """Write the table."""
        write_tables(self, {"file": self._files})
