"""Peers that read patches, each in the way that its own documentation shows to be the fastest.

``worker.py`` calls ``PREPARE[name]`` first, so that importing the library is not timed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from worker import Case, Position

BATCH = 16
"""Patches in a batch of cuCIM: 16 read faster than 64 here."""
CACHE_MB = 512
"""Of cuCIM's and fastslide's tile cache, where it helps."""


def openslide(case: Case) -> None:
    """A handle, hence a tile cache, per thread."""
    from openslide import OpenSlide

    def work(positions: Iterator[Position], sink: Any) -> None:
        with OpenSlide(case.path) as slide:
            for place in positions:
                patch = slide.read_region(place, 0, (case.size, case.size)).convert("RGB")
                sink.add(place, np.asarray(patch))

    case.by_rows(work)


def tiffslide(case: Case) -> None:
    """One object for all threads, arrays instead of pictures."""
    from tiffslide import TiffSlide

    slide = TiffSlide(case.path)

    def work(positions: Iterator[Position], sink: Any) -> None:
        for place in positions:
            sink.add(place, slide.read_region(place, 0, (case.size, case.size), as_array=True))

    case.by_rows(work)


def pyvips_fetch(case: Case) -> None:
    """``Region.fetch`` in the order of rows, a region per thread over one image."""
    import pyvips

    image = pyvips.Image.tiffload(case.path)
    size = case.size

    def work(positions: Iterator[Position], sink: Any) -> None:
        region = pyvips.Region.new(image)
        for x, y in positions:
            patch = np.frombuffer(region.fetch(x, y, size, size), np.uint8).reshape(size, size, 3)
            sink.add((x, y), patch)

    case.by_bands(work)


def fastslide(case: Case) -> None:
    """One reader for all threads with no cache: what is aligned is decoded once anyway."""
    _fastslide(case, cache=False)


def fastslide_cached(case: Case) -> None:
    """One reader for all threads with a tile cache of its own, empty at first."""
    _fastslide(case, cache=True)


def _fastslide(case: Case, *, cache: bool) -> None:
    import fastslide as library

    slide = library.FastSlide.from_file_path(case.path)
    if cache:
        slide.set_cache(CACHE_MB * 2**20)

    def work(positions: Iterator[Position], sink: Any) -> None:
        for place in positions:
            sink.add(place, slide.read_region(place, 0, (case.size, case.size)).numpy())

    case.by_rows(work)
    slide.close()


def cucim(case: Case) -> None:
    """The batch interface, its own threads."""
    _cucim(case, "nocache")


def cucim_cached(case: Case) -> None:
    """The batch interface with its tile cache."""
    _cucim(case, "per_process")


def _cucim(case: Case, cache: str) -> None:
    from cucim import CuImage

    # a new cache each time: no run finds the tiles of the one before
    CuImage.cache("nocache")
    if cache != "nocache":
        CuImage.cache(cache, memory_capacity=CACHE_MB)
    positions = case.positions()
    sink = case.sink()
    image = CuImage(case.path)
    size = case.size
    batches = image.read_region(positions, (size, size), 0, num_workers=case.threads, batch_size=BATCH)
    for first, batch in zip(range(0, len(positions), BATCH), batches, strict=True):
        group = positions[first : first + BATCH]
        sink.add_batch(group, np.asarray(batch).reshape(-1, size, size, 3))


def tifffile(case: Case) -> None:
    """All tiles of the page in its order: for patches that are the tiles."""
    from tifffile import TiffFile

    sink = case.sink()
    with TiffFile(case.path) as file:
        page = file.pages[0]
        if (page.tilewidth, page.tilelength) != (case.size, case.size) or case.offset or case.stride != case.size:
            raise ValueError("tifffile gives whole tiles, not patches")
        for data, (*_, y, x, _), _ in page.segments(maxworkers=case.threads):
            sink.add((x, y), data[0])


def _import(name: str) -> Any:
    def prepare() -> None:
        os.environ.setdefault("VIPS_CONCURRENCY", "1")
        __import__(name)

    return prepare


PREPARE = {
    "openslide": _import("openslide"),
    "tiffslide": _import("tiffslide"),
    "pyvips_fetch": _import("pyvips"),
    "fastslide": _import("fastslide"),
    "fastslide_cached": _import("fastslide"),
    "cucim": _import("cucim"),
    "cucim_cached": _import("cucim"),
    "tifffile": _import("tifffile"),
}
PACKAGES = {
    "openslide": ["openslide-python", "openslide-bin"],
    "tiffslide": ["tiffslide", "tifffile", "imagecodecs", "zarr"],
    "pyvips_fetch": ["pyvips", "pyvips-binary"],
    "fastslide": ["fastslide"],
    "fastslide_cached": ["fastslide"],
    "cucim": ["cucim-cu12"],
    "cucim_cached": ["cucim-cu12"],
    "tifffile": ["tifffile", "imagecodecs"],
}
