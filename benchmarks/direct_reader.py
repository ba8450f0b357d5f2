"""The direct TIFF reader against its own limit and against OpenSlide, and its scaled levels against area averaging.

    python benchmarks/direct_reader.py [SLIDE ...] [--repeats 5] [--threads 1 2]

Without slides: the sample slide and an 8192 px pyramid made of it. Speed: every tile of level 0 once, in order, into
one reused array a thread, the ways interleaved A/B/A/B; medians of million pixels a second of wall time and of CPU time
(the latter is what counts on a busy machine), and the median of the ratios of CPU time within a repeat. The limit is
`pread` and libjpeg-turbo (imagecodecs) and nothing else. Before any time counts, the pixels of all ways must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from wsikit.errors import SlideOpenError
from wsikit.samples import sample
from wsikit.slides import open_reader, open_slide
from wsikit.slides.pyramid import write_pyramid
from wsikit.slides.resample import area_average

Tile = Callable[[int, int, np.ndarray], np.ndarray]


def bare(path: Path) -> Tile:
    """`pread` and imagecodecs, from lists of places."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = list(zip(map(int, page.databytecounts), map(int, page.dataoffsets), strict=True))
        columns, tables = -(-page.imagewidth // page.tilewidth), page.jpegtables
        colours = {"colorspace": "RGB" if page.photometric == 2 else "YCBCR", "outcolorspace": "RGB"}
    file = os.open(path, os.O_RDONLY)

    def tile(column: int, row: int, out: np.ndarray) -> np.ndarray:
        return imagecodecs.jpeg8_decode(
            os.pread(file, *places[row * columns + column]), tables=tables, out=out, **colours
        )

    return tile


def through(path: Path, name: str, *, whole_tiles: bool) -> tuple[Tile, list[tuple[int, int]]]:
    """A reader's tiles, and the (column, row) of all of them."""
    reader = open_reader(path, name)
    (width, height), (tile_width, tile_height) = reader.sizes[0], reader.tile_size(0)
    tiles = [(i, j) for j in range(-(-height // tile_height)) for i in range(-(-width // tile_width))]

    def read(column: int, row: int, _: np.ndarray) -> np.ndarray:
        x, y = column * tile_width, row * tile_height
        return reader.read(0, x, y, min(tile_width, width - x), min(tile_height, height - y))

    def read_tile(column: int, row: int, out: np.ndarray) -> np.ndarray:
        reader.read_tile(0, column, row, out)
        return out

    return (read_tile if whole_tiles else read), tiles


def seconds(tile: Tile, tiles: list[tuple[int, int]], shape: tuple[int, ...], threads: int) -> tuple[float, float]:
    """Wall and CPU seconds of all tiles."""

    def work(part: list[tuple[int, int]]) -> None:
        out = np.empty(shape, np.uint8)
        for column, row in part:
            tile(column, row, out)

    cuts = [len(tiles) * i // threads for i in range(threads + 1)]
    parts = [tiles[a:b] for a, b in pairwise(cuts)]
    wall, cpu = time.perf_counter(), time.process_time()
    if threads == 1:
        work(tiles)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(path: Path, repeats: int, threads: list[int]) -> None:
    width, height = open_reader(path, "tiff").tile_size(0)
    whole, tiles = through(path, "tiff", whole_tiles=True)
    ways = {"bare": bare(path), "read_tile": whole, "read": through(path, "tiff", whole_tiles=False)[0]}
    with suppress(SlideOpenError):  # it does not know every file
        ways["OpenSlideReader.read"] = through(path, "openslide", whole_tiles=False)[0]
    for column, row in tiles[:: max(1, len(tiles) // 200)]:
        out = [way(column, row, np.empty((height, width, 3), np.uint8)) for way in ways.values()]
        h, w = out[-1].shape[:2]
        if not all(np.array_equal(found[:h, :w], out[-1]) for found in out):
            raise SystemExit(f"{path}: tile ({column}, {row}) differs")
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for count in threads:
            for name, way in ways.items():
                found.setdefault((count, name), []).append(seconds(way, tiles, (height, width, 3), count))
    pixels = len(tiles) * width * height / 1e6
    print(f"\n{path.name}: {len(tiles)} tiles of {width}x{height} px")
    print("threads  way                    MP/s wall  MP/s CPU  of bare")
    for (count, name), times in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        of_bare = statistics.median(b[1] / t[1] for b, t in zip(found[count, "bare"], times, strict=True))
        print(f"{count:<8} {name:<22} {pixels / wall:9.0f}  {pixels / cpu:8.0f}  {of_bare:7.2f}")


def scaled(path: Path) -> None:
    """How far the scaled levels of level 0 are from averaging it, and what decoding them costs."""
    with open_slide(path) as slide, open_slide(path, scaled=True) as wide:
        full = slide.reader.read(0, 0, 0, slide.width, slide.height)
        print(f"\n{path.name}\n1/n  mean difference  99.9 %  largest  (of 255)")
        for level in wide.levels[1:]:
            if any(stored.downsample <= level.downsample for stored in slide.levels[1:]):
                break
            box = (0, 0, level.width, level.height)
            average = area_average(full, (0, 0), int(level.downsample), box).astype(int)
            off = np.abs(wide.reader.read(level.index, *box) - average)
            print(f"{level.downsample:<4g} {off.mean():<16.2f} {np.percentile(off, 99.9):<7.0f} {off.max()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slides = arguments.slides
        if not slides:
            with open_slide(sample()) as source:
                made = write_pyramid(Path(folder) / "pyramid-8192.svs", source, size=(8192, 8192))
            slides = [sample(), made]
        for path in slides:
            speed(path, arguments.repeats, arguments.threads)
        for path in slides:
            scaled(path)


if __name__ == "__main__":
    main()
