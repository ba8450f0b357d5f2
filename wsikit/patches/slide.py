"""Patches that are read from the slide itself: no files in between."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.geometry import Region
from wsikit.patches import PatchSet
from wsikit.slides import Pixels, Slide, open_slide


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

    @property
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

    def close(self) -> None:
        """Release the slide. Closing twice is fine."""
        if self.slide is not None:
            self.slide.close()


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
