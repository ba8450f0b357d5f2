"""What formats that hold pixels share: a folder that is whole or not there, and the place of an image in errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import output_errors, remove, replace_folder, temporary
from wsikit.errors import ConfigError, OutputError, PixelReadError
from wsikit.patches import PatchRows, PatchSet, PatchSource
from wsikit.patches.images import decode
from wsikit.patches.record import (
    REMEDY,
    SETTINGS,
    TABLE,
    Rows,
    Table,
    described,
    json_bytes,
    patch_set,
    read_json,
    table_bytes,
)
from wsikit.slides import Pixels


class StoreWriter:
    """A ``PatchWriter`` of a folder. Subclasses write into ``folder``, the hidden one that becomes ``path``.

    Args:
        path: the final folder. One that exists is replaced at commit.

    Raises:
        OutputError: from begin, write and commit, where the disk refuses.
    """

    filename: ClassVar[str]
    has_pixels: ClassVar[bool] = True
    source: ClassVar[Callable[..., PatchSource]]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows = Rows()
        self._patches: PatchSet | None = None

    @property
    def folder(self) -> Path:
        """Where files are written until commit."""
        return temporary(self.path)

    @property
    def patches(self) -> PatchSet:
        """What ``begin`` was given."""
        if self._patches is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._patches

    def begin(self, patches: PatchSet) -> None:
        """Make the hidden folder."""
        self.abort()
        with output_errors(self.path):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            remove(self.folder)
            self.folder.mkdir()
        self._patches, self.rows = patches, Rows()
        self.start()

    def write(self, rows: PatchRows) -> None:
        """Append patches."""
        _ = self.patches
        self.rows.add(rows, pixels=True)
        with output_errors(self.path):
            self.append(rows)

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path."""
        _ = self.patches
        with output_errors(self.path):
            self.finish()
            replace_folder(self.folder, self.path)
        self._patches = None

    def abort(self) -> None:
        """Remove everything written."""
        if self._patches is not None:
            self.stop()
            remove(self.folder)
        self._patches = None

    def start(self) -> None:
        """Prepare for the first patch."""

    def append(self, rows: PatchRows) -> None:
        """Write the images."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what describes them and close all files."""
        raise NotImplementedError

    def stop(self) -> None:
        """Close all files as they are."""


class StoredPatches:
    """A ``PatchSource`` of encoded images. Subclasses say where each is (``place``) and give its bytes (``data``)."""

    path: Path
    patches: PatchSet

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def place(self, index: int) -> str:
        """Of one image, for messages."""
        return f"{self.path}, patch {index}"

    def data(self, index: int) -> bytes | memoryview:
        """The encoded patch. Raises as ``read``."""
        raise NotImplementedError

    def read(self, index: int, out: Pixels | None = None) -> Pixels:
        """(patch, patch, 3) uint8 RGB of one patch, decoded into ``out`` where one is given.

        Raises PixelReadError where its bytes are damaged, IndexError past the end.
        """
        data = self.data(index)
        try:
            return decode(data, out, side=self.patches.patch)
        except PixelReadError as error:
            raise PixelReadError(f"{self.place(index)}: {error}", remedy=REMEDY) from error

    def close(self) -> None:
        """Release the files. Closing twice is fine."""


class TabledPatches(StoredPatches):
    """A source whose folder has ``patches.csv`` and ``patches.json`` beside the images.

    Raises ConfigError (code no_patches) where the path holds no such dataset, or not a whole one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        settings = read_json(self.path / SETTINGS)
        self.patches = patch_set(settings, self.path)
        self._count = int(settings.get("count", -1))
        if not (self.path / TABLE).is_file():
            raise ConfigError(f"{self.path} has no {TABLE}", code="no_patches", remedy=REMEDY)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def columns(self) -> dict[str, Any]:
        """What is needed of ``patches.csv``, which is read when any of it is: some 200 bytes a patch stay in memory."""
        table = Table(self.path / TABLE)
        if len(table) != len(self):
            raise ConfigError(
                f"{table.path} has {len(table)} patches, {SETTINGS} says {len(self)}", code="no_patches", remedy=REMEDY
            )
        return self.take(table)

    def take(self, table: Table) -> dict[str, Any]:
        """The columns to keep."""
        return {
            "file": table.text("file"),
            "corners": table.numbers(("corner_x", "corner_y"), np.int64),
            "xy": table.numbers(("x", "y"), np.float64),
            "tissue": table.numbers(("tissue",), np.float32)[:, 0],
            "verbatim": table.numbers(("verbatim",), np.int64)[:, 0] == 1,
        }

    @property
    def files(self) -> list[str]:
        """Names of the images, in order."""
        found: list[str] = self.columns["file"]
        return found

    @property
    def corners(self) -> NDArray[np.int64]:
        """(N, 2) on the lattice of ``patches.mpp``."""
        return np.asarray(self.columns["corners"])

    @property
    def xy(self) -> NDArray[np.float64]:
        """(N, 2) in level-0 pixels of the full plane."""
        return np.asarray(self.columns["xy"])

    @property
    def tissue(self) -> NDArray[np.float32]:
        """(N,) share that is tissue, of what of the patch lies on the slide."""
        return np.asarray(self.columns["tissue"])

    @property
    def verbatim(self) -> NDArray[np.bool_]:
        """(N,) whether the image is the slide's own compressed tile."""
        return np.asarray(self.columns["verbatim"])


def write_tables(writer: StoreWriter, extra: Mapping[str, Sequence[object]]) -> None:
    """``patches.csv`` and ``patches.json`` of a writer, with the format's own columns."""
    settings = described(writer.patches) | {"count": len(extra["file"])}
    (writer.folder / TABLE).write_bytes(table_bytes(writer.patches, writer.rows, extra))
    (writer.folder / SETTINGS).write_bytes(json_bytes(settings))
