"""Patch datasets on disk. To add a format: one file here with a writer and a source, and one row in ``FORMATS``.

A dataset is written slide by slide. A writer works under a temporary name in the folder of its final path; nothing is
visible there before ``commit``, and ``abort`` leaves no trace. ``begin`` is called once, then ``write`` any number of
times, then ``commit`` or ``abort``. Patches come and stay in the order of ``TileGrid``: by row, then column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.registry import Registry
from wsikit.slides import Pixels, Slide

Encoding = Literal["jpeg", "png"]
Subsampling = Literal["444", "422", "420"]
"""Of a JPEG's colours: as fine as its brightness, half as fine across, half as fine across and down."""


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
    subsampling: Subsampling | None = None
    """Of the same patches; None as for ``quality``."""
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
    """(N,) share that is tissue, 0 to 1, of what of the patch lies on the slide."""
    data: Sequence[bytes] = ()
    """N encoded patches (JPEG or PNG, ``PatchSet.encoding``); empty for formats that hold no pixels."""
    verbatim: NDArray[np.bool_] | None = None
    """(N,) whether ``data`` is the slide's own compressed tile, bit for bit; None means none is."""


class PatchWriter(Protocol):
    """Writes the patches of one slide."""

    filename: ClassVar[str]
    """Name within the dataset's folder; ``{slide_id}`` stands for the slide ("{slide_id}/patches.zarr")."""
    has_pixels: ClassVar[bool]
    source: ClassVar[Callable[..., PatchSource]]
    """Opens what this wrote, by its path; without pixels, by its path and the slide (or None)."""
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

    @property
    def corners(self) -> NDArray[np.int64]:
        """(N, 2) as in ``PatchRows``."""
        ...

    @property
    def xy(self) -> NDArray[np.float64]:
        """(N, 2) as in ``PatchRows``."""
        ...

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
        ("folder", "wsikit.patches.folder:FolderWriter"),
        ("webdataset", "wsikit.patches.webdataset:WebDatasetWriter"),
        ("coords", "wsikit.patches.coords:CoordsWriter"),
    ],
    group="wsikit.patches",
)
"""Format name -> writer class, called with the path that its ``filename`` gives in the dataset's folder."""


def open_patches(
    path: str | Path, format: str | None = None, *, slide: str | Path | Slide | None = None
) -> PatchSource:
    """The patches of one slide.

    Args:
        path: what a writer wrote: ``patches.zarr``, the folder ``patches`` or ``shards``, or a file of coordinates
            ``*.h5`` (of CLAM or TRIDENT, too).
        format: a name of ``FORMATS``; by default the one whose files are named like this.
        slide: the slide or its path, for formats that hold no pixels.

    Raises:
        ConfigError: code no_patches (nothing there, or no whole dataset), no_slide or other_slide (see CoordsPatches).
        UnknownNameError: no such format.
    """
    path = Path(path)
    writer: type[PatchWriter] = FORMATS.load(format or _format_of(path))
    return writer.source(path) if writer.has_pixels else writer.source(path, slide)


def _format_of(path: Path) -> str:
    names = []
    for name in FORMATS if path.exists() else ():
        names.append(Path(FORMATS.load(name).filename.format(slide_id="*")).name)
        if path.match(names[-1]):
            return name
    raise ConfigError(
        f"{path} is no dataset of patches by its name; they are called {', '.join(names)}"
        if names
        else f"{path} does not exist",
        code="no_patches",
        remedy="give the patches of one slide, or the format",
    )


def open_dataset(
    out: str | Path, format: str | None = None, *, slides: Mapping[str, str | Path | Slide] | None = None
) -> list[PatchSource]:
    """The patches of all slides in a folder that ``wsikit tile -o`` wrote, by slide id.

    Args:
        out: the folder.
        format: a name of ``FORMATS``; needed where the folder holds more than one.
        slides: slide id -> slide or its path, for formats that hold no pixels. TRIDENT's ``s1_patches.h5`` is of
            slide s1.

    Raises:
        ConfigError: code no_patches (none there) or two_formats; what ``open_patches`` raises.
    """
    out = Path(out)
    found = {name: _paths(out, FORMATS.load(name).filename) for name in ([format] if format else FORMATS)}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise ConfigError(
            f"{out} holds no patches{f' as {format}' if format else ''}",
            code="no_patches",
            remedy="give the folder that `wsikit tile -o` wrote",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{out} holds patches as {' and as '.join(found)}", code="two_formats", remedy="say which format is meant"
        )
    [(name, paths)] = found.items()
    known = {f"{slide_id}{end}": slide for slide_id, slide in (slides or {}).items() for end in ("_patches", "")}
    return [open_patches(path, name, slide=known.get(slide_id)) for slide_id, path in sorted(paths.items())]


def _paths(out: Path, filename: str) -> dict[str, Path]:
    """Slide id -> what is there of a format; hidden files are not finished."""
    pattern = re.compile("([^/]+)".join(map(re.escape, filename.split("{slide_id}"))))
    named = {
        path: pattern.fullmatch(path.relative_to(out).as_posix()) for path in out.glob(filename.format(slide_id="*"))
    }
    return {match[1]: path for path, match in named.items() if match and not match[1].startswith(".")}
