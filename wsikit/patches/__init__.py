"""Patch datasets on disk. To add a format: one file here with a writer and a source, and one row in ``FORMATS``.

A dataset is written slide by slide. A writer works under a temporary name in the folder of its final path; nothing is
visible there before ``commit``, and ``abort`` leaves no trace. ``begin`` is called once, then ``write`` any number of
times, then ``commit`` or ``abort``. Patches come and stay in the order of ``TileGrid``: by row, then column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.registry import Registry
from wsikit.slides import Pixels

Encoding = Literal["jpeg", "png"]


@dataclass(frozen=True, slots=True)
class PatchSet:
    """What all patches of one slide share."""

    slide_id: str
    source: str
    """File name of the slide, without its folder."""
    slide_mpp: float
    """Micrometres per level-0 pixel."""
    slide_size: tuple[int, int]
    """(width, height) in level-0 pixels."""
    mpp: float
    """Micrometres per pixel of the patches: a level's own where one was near the wish."""
    patch: int
    """Side of the square patches, px of the lattice of ``mpp``."""
    step: int
    """Distance of neighbouring patches' corners, px of that lattice; patch - step is the overlap."""
    level: int | None = None
    """Level of the slide that the patches are unresampled pixels of; None where they were resampled."""
    encoding: Encoding = "jpeg"
    quality: int | None = None
    """JPEG quality of the patches encoded for this dataset; None where all are as in the slide or lossless."""
    patient: str | None = None
    label: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the manifest."""
    made: Mapping[str, object] = field(default_factory=dict)
    """How it was made: version, options, tissue. For people and for resuming; nothing reads pixels by it."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchRows:
    """Some patches of a slide, in order."""

    corners: NDArray[np.int64]
    """(N, 2) x, y of the upper left corner on the lattice of ``PatchSet.mpp``: exact, for reading the patch again."""
    xy: NDArray[np.float64]
    """(N, 2) the same corner in level-0 pixels of the full plane."""
    tissue: NDArray[np.float32]
    """(N,) share of the patch that is tissue, 0 to 1."""
    data: Sequence[bytes] = ()
    """N encoded patches (JPEG or PNG, ``PatchSet.encoding``); empty for formats that hold no pixels."""
    verbatim: NDArray[np.bool_] | None = None
    """(N,) whether ``data`` is the slide's own compressed tile, bit for bit; None means none is."""


class PatchWriter(Protocol):
    """Writes the patches of one slide."""

    filename: ClassVar[str]
    """Name within the dataset's folder; ``{slide_id}`` stands for the slide ("{slide_id}/patches.zarr")."""
    has_pixels: ClassVar[bool]
    path: Path
    """The final file or folder."""

    def begin(self, patches: PatchSet) -> None:
        """Open the temporary output."""
        ...

    def write(self, rows: PatchRows) -> None:
        """Append patches."""
        ...

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path."""
        ...

    def abort(self) -> None:
        """Remove everything written."""
        ...


class PatchSource(Protocol):
    """The patches of one slide, read back. Pickles as its path; safe to read from several threads and processes."""

    patches: PatchSet
    corners: NDArray[np.int64]
    """(N, 2) as in ``PatchRows``."""
    xy: NDArray[np.float64]
    """(N, 2) as in ``PatchRows``."""

    def __len__(self) -> int: ...

    def read(self, index: int, out: Pixels | None = None) -> Pixels:
        """(patch, patch, 3) uint8 RGB of one patch, decoded into ``out`` where one is given.

        Raises PixelReadError where its bytes are damaged, IndexError past the end.
        """
        ...

    def close(self) -> None:
        """Release the files. Closing twice is fine."""
        ...


FORMATS = Registry(
    "patch format",
    [
        ("zarr", "wsikit.patches.zarr:ZarrPatchWriter"),
        ("coords", "wsikit.patches.coords:CoordsWriter"),
    ],
    group="wsikit.patches",
)
"""Format name -> writer class, which is called with the path that its ``filename`` gives in the dataset's folder."""
