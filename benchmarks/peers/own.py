"""wsikit through its public interface, and the floor under every reader: libjpeg-turbo on the same tiles."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from worker import Case, Position

import wsikit
from wsikit.config import TileConfig, load_config
from wsikit.geometry import Region, TileSpec
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.schedule import bounded, workers
from wsikit.pipeline.supertile import SlideRef, opened
from wsikit.pipeline.tile import Cutting, patch_set, tile_many, writer_of
from wsikit.pipeline.windows import choose_windows
from wsikit.slides import open_slide
from wsikit.streaming import batches
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

MIN_TISSUE, QUALITY = 0.5, 80
"""As in the peers' jobs."""
TILES = 64
"""Tiles that a thread of the floor takes at once."""


def inside(slide: wsikit.Slide, case: Case) -> TileGrid:
    """The grid of the case: patches that lie inside the slide."""
    halo = (case.size - case.stride) // 2
    corner = case.offset + halo
    spec = TileSpec(case.wanted_mpp or slide.mpp, core=case.stride, halo=halo, phase=(corner, corner))
    grid = TileGrid.cover(slide, spec)
    first = grid.cells * case.stride + case.offset
    last = first + case.size
    return grid.where((first >= 0).all(1) & (last <= np.array(grid.size)).all(1))


def patches(case: Case) -> None:
    """``wsikit.tiling.batches``, the stream that every model of wsikit is fed from."""
    _stream(case, wsikit.open_slide(case.path))


def scaled(case: Case) -> None:
    """The same with JPEG's scaled decode where the wanted resolution lies between two levels."""
    _stream(case, wsikit.open_slide(case.path, scaled=True))


def _stream(case: Case, slide: wsikit.Slide) -> None:
    sink = case.sink()
    with slide:
        for batch in batches(slide, inside(slide, case), threads=case.threads):
            sink.add_batch([(region.x, region.y) for region in batch.regions], batch.images)


def single(case: Case) -> None:
    """``Slide.read`` of one region after the other, as a sampler of random patches does it."""
    with wsikit.open_slide(case.path) as slide:

        def work(positions: Iterator[Position], sink: Any) -> None:
            for x, y in positions:
                sink.add((x, y), slide.read(Region(x, y, case.size, case.size, slide.mpp)))

        case.by_rows(work)


def floor(case: Case) -> dict[str, Any]:
    """``pread`` and libjpeg-turbo into one buffer per thread, nothing else: what no reader of these tiles can beat.

    Called through simplejpeg, as the direct reader does: through imagecodecs it took up to a third longer.
    """
    with tifffile.TiffFile(case.path) as file:
        page = file.pages[0]
        sizes = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        height, width = page.tilelength, page.tilewidth
    fileno = os.open(case.path, os.O_RDONLY)
    kept = threading.local()

    def some(start: int) -> int:
        if not hasattr(kept, "out"):
            kept.out = np.empty((height, width, 3), np.uint8)
        for offset, count in sizes[start : start + TILES]:
            simplejpeg.decode_jpeg(os.pread(fileno, count, offset), "RGB", buffer=kept.out)
        return len(sizes[start : start + TILES])

    try:
        with ThreadPoolExecutor(case.threads) as pool:
            return {"patches": sum(pool.map(some, range(0, len(sizes), TILES)))}
    finally:
        os.close(fileno)


def pooled(case: Case) -> dict[str, Any]:
    """Super-tiles, read and looked at by plain threads: what scheduling is compared with."""
    with wsikit.open_slide(case.path) as slide:
        parts = inside(slide, case).supertiles()
        with ThreadPoolExecutor(case.threads) as pool:
            return {"patches": sum(pool.map(partial(_density, slide), parts))}


def scheduled(case: Case) -> dict[str, Any]:
    """The same through dask, as `wsikit run` schedules its super-tiles: a worker opens the slide once, not once a task.

    Starting dask is not timed.
    """
    with wsikit.open_slide(case.path) as slide, workers(case.threads, processes=False) as client:
        start = time.perf_counter()
        parts = inside(slide, case).supertiles()
        patches = sum(bounded(client, partial(_density_in, SlideRef.of(slide)), parts))
        return {"patches": patches, "wall": time.perf_counter() - start}


def _density_in(slide: SlideRef, part: TileGrid) -> int:
    return _density(opened(slide), part)


def _density(slide: wsikit.Slide, part: TileGrid) -> int:
    """Read a super-tile's patches and take their mean optical density: a tenth of a second and more."""
    return sum(len(batch.regions) for batch in batches(slide, part) if _OPTICAL_DENSITY[batch.images].mean() >= 0)


_OPTICAL_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def store(case: Case) -> dict[str, Any]:
    """``wsikit tile``: tissue found, patches cut and encoded (or passed through), a Zarr store and a picture of it."""
    return _tile(case, min_tissue=MIN_TISSUE)


def store_all(case: Case) -> dict[str, Any]:
    """The store alone, of all patches of the slide, tissue or not: no picture and no report, as R1 has none."""
    out = Path(case.out or "")
    config = _configured(case, min_tissue=0.0, skip_glass="off", passthrough="only")
    (entry,) = find_slides(case.path, out)
    with open_slide(entry.path) as slide:
        tissue = TissueMask.whole(slide)
        windows = choose_windows(slide, entry, config, tissue)
        cutting = Cutting(slide, windows, config, case.threads)
        cutting.write(writer_of(entry, out, config), patch_set(slide, entry, config, tissue, windows), _silent)
    return {"patches": len(cutting.written)}


def _silent(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def _tile(case: Case, **flags: Any) -> dict[str, Any]:
    out = Path(case.out or "")
    config = _configured(case, **flags)
    (record,) = tile_many(find_slides(case.path, out), out, config)
    if record["status"] != "complete":
        raise RuntimeError(f"{record['status']}: {record}")
    return {"patches": record["patches"], "stages": record["seconds"]}


def _configured(case: Case, **flags: Any) -> TileConfig:
    flags |= {"mpp": case.mpp, "size": case.size, "overlap": case.size - case.stride, "quality": QUALITY}
    return load_config(TileConfig, flags=flags | {"num_workers": case.threads})


_SYSTEMS = ["patches", "scaled", "single", "floor", "pooled", "scheduled", "store", "store_all"]
PACKAGES = {name: ["wsikit", "simplejpeg", "imagecodecs", "tifffile", "numpy"] for name in _SYSTEMS}
