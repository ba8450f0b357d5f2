"""Which windows of a slide become patches, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.config import TileConfig
from wsikit.errors import ConfigError, ResolutionError
from wsikit.geometry import TileSpec
from wsikit.glass import GlassTest
from wsikit.patches import Encoding, Subsampling
from wsikit.patches.coords import CoordsPatches
from wsikit.pipeline.encode import can_pass, own_level, own_subsampling
from wsikit.pipeline.inputs import SlideEntry
from wsikit.slides import Slide
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The windows of one slide that become patches."""

    grid: TileGrid
    step: int
    """Distance of neighbouring windows' corners, px of the lattice."""
    share: NDArray[np.float64]
    """(N,) how much of what of each lies on the slide is tissue."""
    passed: NDArray[np.bool_]
    """(N,) whether its patch is the file's own compressed tile."""
    encoding: Encoding
    """Of the patches."""
    subsampling: Subsampling
    """Of those that are encoded as JPEG."""
    glass: GlassTest
    skipped: int = 0
    """Windows that the tissue mask would have had and the glass test left out."""
    why_none: str = ""
    """Why there are no windows, where there are none."""

    def __str__(self) -> str:
        passed = int(self.passed.sum())
        return (
            f"{len(self.grid)} patches of {self.grid.spec.patch} px at {self.grid.spec.mpp:.4g} um/px, "
            f"{passed} as they are, {len(self.grid) - passed} to encode"
        )


def choose_windows(slide: Slide, entry: SlideEntry, config: TileConfig, tissue: TissueMask) -> Windows:
    """The windows that a configuration asks for on a slide.

    1. Corners lie every ``size - overlap`` px of the lattice from the slide's (0, 0), or where ``coords`` says.
    2. ``edge`` "drop" keeps windows that lie wholly on the slide; "pad" goes on until the slide is covered.
    3. What of a window lies on the slide has at least ``min_tissue`` tissue, and no window is glass by the size of its
       tiles (``skip_glass``). Given coordinates are all cut.
    4. Windows that are one JPEG tile of the file are passed through (``passthrough``). A lossless dataset is PNG as
       soon as one of its patches is not.

    Raises:
        ResolutionError: the slide holds nothing as fine as ``mpp``; code cannot_pass where only tiles of the file were
            asked for and no window is one.
        ConfigError: ``size`` is native and the level has none; no, or wrong, coordinates.
    """
    source = coords_file(entry, config)
    if config.coords is not None:
        grid, step = _given(slide, source, config)
    else:
        grid = _on_slide(TileGrid.cover(slide, _spec(slide, config), tissue), config.edge)
        step = grid.spec.step
    why_none = "" if len(grid) else _why_none(slide, grid, tissue)
    glass = GlassTest.calibrated(slide, grid.spec.mpp, tissue)
    dense = np.ones(len(grid), np.bool_)
    if config.skip_glass == "auto" and config.coords is None:
        dense = ~glass.is_glass(grid)
    skipped = len(grid) - int(dense.sum())
    grid = grid.where(dense)
    passed = can_pass(slide, grid, step)
    if config.passthrough == "only":
        if len(grid) and not passed.any():
            raise _cannot_pass(slide, grid)
        grid, passed = grid.where(passed), passed[passed]
    elif config.passthrough == "never":
        passed = np.zeros(len(grid), np.bool_)
    encoding: Encoding = "png" if config.lossless and not passed.all() else "jpeg"
    if encoding == "png":
        passed = np.zeros(len(grid), np.bool_)
    x, y = grid.corners.T
    share = tissue.coverages(x, y, grid.spec.patch, grid.spec.mpp, grid.size)
    chosen = own_subsampling(slide, grid) if config.subsampling == "auto" else config.subsampling
    return Windows(grid, step, share, passed, encoding, chosen, glass, skipped, why_none)


def _spec(slide: Slide, config: TileConfig) -> TileSpec:
    mpp = slide.resolve(config.mpp)
    size = _native_size(slide, mpp) if config.size == "native" else config.size
    if config.overlap >= size:
        raise ConfigError(f"patches of {size} px share less than all of it, got an overlap of {config.overlap}")
    return TileSpec(mpp, core=size, stride=size - config.overlap, min_tissue=config.min_tissue)


def _native_size(slide: Slide, mpp: float) -> int:
    level = own_level(slide, mpp)
    if level is None:
        stored = ", ".join(f"{level.mpp:.4g}" for level in slide.levels)
        raise ResolutionError(
            f"{slide.path.name} has no level of {mpp:.4g} um per px whose tiles could be native, it has {stored}",
            code="resolution_unavailable",
            remedy="give --mpp one of these, or --size a number",
        )
    width, height = slide.reader.tile_size(level.index)
    if width != height:
        raise ConfigError(f"the tiles of {slide.path.name} are {width}x{height} px, not square; give --size a number")
    return width


def _on_slide(grid: TileGrid, edge: str) -> TileGrid:
    """Windows wholly on the slide ("drop"); or as many as it takes to cover it ("pad"), the last ones sticking out."""
    patch, step = grid.spec.patch, grid.spec.step
    count = np.array([_count(side, patch, step, edge) for side in grid.size])
    inside: NDArray[np.bool_] = np.all((grid.cells >= 0) & (grid.cells < count), axis=1)
    return grid.where(inside)


def _count(side: int, patch: int, step: int, edge: str) -> int:
    """Windows along a side of the slide.

    >>> [_count(1000, 256, 256, edge) for edge in ("drop", "pad")]
    [3, 4]
    """
    if edge == "drop":
        return (side - patch) // step + 1 if side >= patch else 0
    return max(0, -(-(side - patch) // step)) + 1


def coords_file(entry: SlideEntry, config: TileConfig) -> Path | None:
    """The slide's file of coordinates where CLAM, TRIDENT and ``--format coords`` put it; None where there is none."""
    if config.coords is None:
        return None
    names = [f"{entry.slide_id}.h5", f"{entry.slide_id}_patches.h5"]
    tried = [folder / name for folder in (config.coords, config.coords / "patches") for name in names]
    return next((path for path in tried if path.is_file()), None)


def _given(slide: Slide, path: Path | None, config: TileConfig) -> tuple[TileGrid, int]:
    """The windows of a file of coordinates, by row, then column; and its step."""
    if path is None:
        raise ConfigError(
            f"{config.coords} holds no coordinates of {slide.path.name}",
            code="missing_coords",
            remedy="its file is called like the slide's id, <slide_id>.h5, in that folder or in patches/",
        )
    source = CoordsPatches(path, slide)
    corners = np.unique(source.corners, axis=0)
    corners = corners[np.lexsort((corners[:, 0], corners[:, 1]))]
    patches = source.patches
    mpp = slide.resolve(patches.mpp)
    return TileGrid(TileSpec(mpp, core=patches.patch, stride=1), corners, slide.size_at(mpp)), patches.step


def _why_none(slide: Slide, grid: TileGrid, tissue: TissueMask) -> str:
    if not tissue.array.any():
        return "no tissue was found"
    if min(grid.size) < grid.spec.patch:
        return f"at {grid.spec.mpp:.4g} um per px the slide is {grid.size[0]}x{grid.size[1]} px, less than a patch"
    return f"no patch of {grid.spec.patch} px has a tissue share of {grid.spec.min_tissue:g}"


def _cannot_pass(slide: Slide, grid: TileGrid) -> ResolutionError:
    level = own_level(slide, grid.spec.mpp)
    tiles = "no level's own" if level is None else "its tiles are {}x{} px".format(*slide.reader.tile_size(level.index))
    return ResolutionError(
        f"none of the patches of {grid.spec.patch} px at {grid.spec.mpp:.4g} um per px is a JPEG tile of "
        f"{slide.path.name}: {tiles}",
        code="cannot_pass",
        remedy="give --size native, --overlap 0 and --mpp that of a level, or --passthrough auto",
    )
