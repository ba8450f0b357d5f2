"""Patches that are read from the slide itself: no files in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsikit.bags import SlideRow
from wsikit.errors import ConfigError
from wsikit.geometry import Region, TileSpec
from wsikit.patches import PatchSet
from wsikit.slides import Pixels, Slide, open_slide
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask, find_tissue

BLOCK = 2048
"""Side in lattice pixels of the squares that are read at once: 12 MB, and borders cost a quarter at 256 px tiles."""
SPARSE = 4
"""Read one by one, a patch costs up to this many times its area (four tiles of its size); so may a block."""


class SlideFile(SlideRow, Protocol):
    """A slide with what a manifest says of it; ``wsikit.find_slides`` gives these."""

    @property
    def path(self) -> Path:
        """The slide's own file."""
        ...

    @property
    def mpp(self) -> float | None:
        """um per level-0 pixel, replacing what the file says."""
        ...


class SlideHandle:
    """A slide that is opened in the process that reads it, when it first does.

    A handle of a C library does not survive a fork; every process gets one of its own.

    Args:
        slide: its path, or an open slide, whose path, reader and mpp are taken. This process reads from the one given.
        mpp: micrometres per level-0 pixel, replacing what the file says; not with an open slide.
    """

    def __init__(self, slide: str | Path | Slide, mpp: float | None = None, reader: str | None = None) -> None:
        is_open = isinstance(slide, Slide)
        self.path = slide.path if isinstance(slide, Slide) else Path(slide)
        self.mpp = slide.mpp_override if isinstance(slide, Slide) else mpp
        self.reader = slide.reader.name if isinstance(slide, Slide) else reader
        self._owned = not is_open
        self._slide = slide if isinstance(slide, Slide) else None
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.mpp, self.reader)

    def get(self) -> Slide:
        """The open slide of this process. Raises as ``open_slide``."""
        if self._process != os.getpid():
            # the parent's is the parent's to close; its lock may be held by a thread that is not here
            self._lock = threading.Lock()
            self._slide, self._owned, self._process = None, True, os.getpid()
        with self._lock:
            if self._slide is None:
                self._slide, self._owned = open_slide(self.path, self.mpp, self.reader), True
            return self._slide

    def close(self) -> None:
        """Close the slide if it was opened here; a later ``get`` opens it again."""
        with self._lock:
            if self._slide is not None and self._owned and self._process == os.getpid():
                self._slide.close()
                self._slide = None


class SlidePatches:
    """A ``PatchSource`` over a slide: every ``read`` decodes the tiles that the patch lies on.

    Args:
        slide: the slide; it is opened when a patch is first read. Without one only places are known.
        patches: what the patches share.
        corners: (N, 2) x, y on the lattice of ``patches.mpp``.
    """

    def __init__(self, slide: SlideHandle | None, patches: PatchSet, corners: NDArray[np.int64]) -> None:
        self.slide, self.patches, self.corners = slide, patches, corners

    def __len__(self) -> int:
        return len(self.corners)

    @cached_property
    def xy(self) -> NDArray[np.float64]:
        """(N, 2) in level-0 pixels of the full plane."""
        return self.corners * np.float64(self.patches.mpp / self.patches.slide_mpp)

    def open(self) -> Slide:
        """The slide of this process. Raises as ``read``."""
        if self.slide is None:
            raise no_slide(self.patches.slide_id)
        slide = self.slide.get()
        if (slide.width, slide.height) != self.patches.slide_size:
            raise other_slide(slide, self.patches.slide_size)
        return slide

    def region(self, index: int) -> Region:
        """Where patch ``index`` is. Raises IndexError."""
        x, y = self.corners[index].tolist()
        return Region(x, y, self.patches.patch, self.patches.patch, self.patches.mpp)

    def read(self, index: int, out: Pixels | None = None) -> Pixels:
        """(patch, patch, 3) uint8 RGB, copied into ``out`` where one is given.

        Raises:
            PixelReadError: some of it cannot be decoded.
            SlideOpenError: the slide is gone.
            ConfigError: code no_slide (none was given) or other_slide (its size is not that of these patches' slide).
            IndexError: past the end.
        """
        pixels = self.open().read(self.region(index))
        if out is None:
            return pixels
        np.copyto(out, pixels)
        return out

    def blocks(self, side: int = BLOCK) -> list[NDArray[np.int64]]:
        """Indices of patches that lie together: with their corners in one square of ``side`` px, by row of squares."""
        square = self.corners // side
        order = np.lexsort((np.arange(len(square)), square[:, 0], square[:, 1]))
        cuts = np.flatnonzero(np.any(np.diff(square[order], axis=0), axis=1)) + 1
        return [block.astype(np.int64) for block in np.split(order, cuts) if len(block)]

    def block(self, indices: NDArray[np.int64]) -> Iterator[Pixels]:
        """The patches of a block, cut from one read where they lie close. Raises as ``read``."""
        side = self.patches.patch
        low, high = self.corners[indices].min(axis=0), self.corners[indices].max(axis=0) + side
        (x0, y0), (width, height) = low.tolist(), (high - low).tolist()
        if width * height > SPARSE * len(indices) * side * side:
            yield from map(self.read, indices.tolist())
            return
        pixels = self.open().read(Region(x0, y0, width, height, self.patches.mpp))
        for x, y in (self.corners[indices] - low).tolist():
            # copied: a patch that is kept would keep the whole block
            yield pixels[y : y + side, x : x + side].copy()

    def close(self) -> None:
        """Release the slide. Closing twice is fine."""
        if self.slide is not None:
            self.slide.close()


def cut_slides(
    slides: Iterable[str | Path | Slide | SlideFile],
    spec: TileSpec,
    tissue: Callable[[Slide], TissueMask] | None = find_tissue,
) -> list[SlidePatches]:
    """The patches of slides as ``spec`` cuts them.

    Args:
        slides: paths, open slides or rows of a manifest. A path's slide id is its name without the suffix.
        spec: how they are cut.
        tissue: finds the tissue of a slide; None takes all of it.

    Raises:
        ConfigError: two slides of one id.
        What opening a slide, finding tissue and ``TileGrid.cover`` raise.
    """
    found: dict[str, SlidePatches] = {}
    for item in slides:
        if getattr(item, "part_of", None) is not None:
            continue
        patches = _cut(item, spec, tissue)
        if found.setdefault(patches.patches.slide_id, patches) is not patches:
            raise ConfigError(
                f"two slides are called {patches.patches.slide_id!r}",
                remedy="give the rows of wsikit.find_slides, which have names of their own",
            )
    return list(found.values())


def _cut(
    item: str | Path | Slide | SlideFile, spec: TileSpec, tissue: Callable[[Slide], TissueMask] | None
) -> SlidePatches:
    about: dict[str, Any] = {}
    if isinstance(item, str | Path | Slide):
        handle = SlideHandle(item)
        slide_id = handle.path.stem
    else:
        handle, slide_id = SlideHandle(item.path, item.mpp), item.slide_id
        about = {"patient": item.patient, "label": item.label, "split": item.split}
    slide = handle.get()
    grid = TileGrid.cover(slide, spec, tissue(slide) if tissue else None)
    spec = grid.spec
    patches = PatchSet(
        slide_id=slide_id,
        source=slide.path.name,
        slide_mpp=slide.mpp,
        slide_size=(slide.width, slide.height),
        mpp=spec.mpp,
        patch=spec.patch,
        step=spec.step,
        level=next((level.index for level in slide.levels if level.mpp == spec.mpp), None),
        **about,
    )
    handle.close()
    return SlidePatches(handle, patches, grid.corners)


def no_slide(what: object) -> ConfigError:
    """Coordinates without pixels."""
    return ConfigError(
        f"{what} holds coordinates and no pixels: these come from the slide, and none was given",
        code="no_slide",
        remedy="pass the slide: open_patches(path, slide=...) or open_dataset(out, slides={slide_id: path})",
    )


def other_slide(slide: Slide, size: tuple[int, ...]) -> ConfigError:
    """Coordinates on one slide and the pixels of another."""
    return ConfigError(
        f"{slide.path.name} has {slide.width} x {slide.height} px, the slide of these patches has "
        f"{' x '.join(map(str, size))}",
        code="other_slide",
        remedy="give the slide that the patches were cut from",
    )
