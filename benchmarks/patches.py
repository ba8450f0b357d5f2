"""How patches are encoded, and how fast they are read back from every format.

    python benchmarks/patches.py [--patches 400] [--repeats 5] [--colours SLIDE ...]

Encoding: the tissue patches of the sample slide; bits per pixel, PSNR against the slide, speed. Reading: the same
patches (256 px, repeated to the wanted number, JPEG 4:4:4 at quality 90) in every format, in random order, one thread.
Feeding: passes of a DataLoader without workers over a pyramid of 4096 px with 60 % tissue. Before a time of reading
counts, the pixels are compared. Ways are taken in turn (A B C A B C ...); medians of processor seconds. Prints three
tables and, as the last line, JSON.

``--colours`` prints nothing but what 4:2:0 loses against 4:4:4 on slides of one's own: 60 tissue patches, on the blocks
of 16 px of the slide's tiles and beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
import zarr
from torch.utils.data import DataLoader

from wsikit.geometry import Region, TileSpec
from wsikit.patches import FORMATS, PatchRows, PatchSet, open_patches
from wsikit.patches.images import QUALITY, decode, encode
from wsikit.patches.torch import PatchDataset, PatchStream
from wsikit.samples import sample
from wsikit.slides import Pixels, open_slide
from wsikit.slides.pyramid import write_pyramid
from wsikit.tiling import TileGrid
from wsikit.tissue import find_tissue

SIDE = 256
BESIDE = (0, 8, 1)
JPEGS = [(chroma, quality) for chroma in ("444", "422", "420") for quality in (80, 85, 90, 95)]
PNGS = {"level 1, RLE, Paeth": (1, 3, 128), "level 1, default": (1, 0, None), "level 6, default": (6, 0, None)}


def tissue_patches(path: Path) -> list[Pixels]:
    """Patches at least half tissue."""
    with open_slide(path) as slide:
        grid = TileGrid.cover(slide, TileSpec(slide.mpp, SIDE, min_tissue=0.5), find_tissue(slide))
        return [np.array(slide.read(region)) for region in grid]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process, and the answer."""
    start = time.process_time()
    answer = work()
    return time.process_time() - start, answer


def encoding(patches: list[Pixels], repeats: int) -> list[dict[str, Any]]:
    """One row for each way to encode."""
    ways: dict[str, Callable[[Pixels], bytes]] = {
        f"jpeg {chroma} q{quality}": lambda p, c=chroma, q=quality: imagecodecs.jpeg8_encode(p, level=q, subsampling=c)
        for chroma, quality in JPEGS
    }
    ways |= {
        f"png {name}": lambda p, o=options: imagecodecs.png_encode(p, level=o[0], strategy=o[1], filter=o[2])
        for name, options in PNGS.items()
    }
    pixels, rows = len(patches) * SIDE * SIDE, []
    for name, way in ways.items():
        times, data = zip(*(seconds(lambda: [way(p) for p in patches]) for _ in range(repeats)), strict=True)  # noqa: B023
        decode = imagecodecs.jpeg8_decode if name.startswith("jpeg") else imagecodecs.png_decode
        error = np.mean([(decode(d).astype(float) - p) ** 2 for d, p in zip(data[0], patches, strict=True)])
        rows.append(
            {
                "way": name,
                "bits per px": 8 * sum(map(len, data[0])) / pixels,
                "PSNR dB": 10 * float(np.log10(255**2 / error)) if error else float("inf"),
                "MP/s": pixels / statistics.median(times) / 1e6,
            }
        )
    return rows


def colours(path: Path) -> list[dict[str, Any]]:
    """Nearness to the slide's pixels of patches at 0, 8 and 1 px from multiples of 16."""
    rows = []
    with open_slide(path) as slide:
        grid = TileGrid.cover(slide, TileSpec(slide.mpp, SIDE, min_tissue=0.5), find_tissue(slide))
        inside = ((grid.corners >= 0) & (grid.corners + SIDE + BESIDE[1] <= grid.size)).all(1)
        corners = np.random.default_rng(0).permutation(grid.corners[inside])[:60].tolist()
        for beside, quality, chroma in itertools.product(BESIDE, (80, 85, 90), ("444", "420")):
            patches = [slide.read(Region(x + beside, y + beside, SIDE, SIDE, slide.mpp)) for x, y in corners]
            data = [encode(patch, "jpeg", quality, chroma) for patch in patches]
            off = np.stack([decode(d).astype(float) - p for d, p in zip(data, patches, strict=True)])
            rows.append(
                {
                    "way": f"{path.name} {beside} px beside, {chroma} q{quality}",
                    "bits per px": 8 * sum(map(len, data)) / off[..., 0].size,
                    "PSNR dB": 10 * float(np.log10(255**2 / np.mean(off**2))),
                    "mean off": float(np.abs(off).mean()),
                    "most off": float(np.abs(off).max()),
                }
            )
    return rows


def reading(patches: list[Pixels], count: int, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """One row for each way to read."""
    data = [encode(patches[i % len(patches)], "jpeg") for i in range(count)]
    corners = np.stack([np.arange(count) * SIDE, np.zeros(count, np.int64)], axis=1)
    about = PatchSet("bench", "bench.svs", 0.5, (SIDE * count, SIDE), 0.5, SIDE, SIDE, 0, "jpeg", QUALITY)
    sources: dict[str, Any] = {}
    for name in ("zarr", "webdataset", "folder"):
        writer = FORMATS.load(name)(folder / FORMATS.load(name).filename.format(slide_id="bench"))
        writer.begin(about)
        writer.write(PatchRows(corners, corners.astype(float), np.ones(count, np.float32), data))
        writer.commit()
        sources[name] = open_patches(writer.path)
    images: Any = zarr.open_group(folder / "bench" / "patches.zarr", mode="r")["images"]
    order = np.random.default_rng(0).permutation(count).tolist()
    right = [imagecodecs.jpeg8_decode(d) for d in data]
    out = np.empty((SIDE, SIDE, 3), np.uint8)
    ways: dict[str, Callable[[int], Any]] = {
        "libjpeg-turbo alone, bytes in memory": lambda i: imagecodecs.jpeg8_decode(data[i], out=out),
        "zarr by offset": lambda i: sources["zarr"].read(i, out),
        "zarr by offset, bytes only": sources["zarr"].data,
        "zarr through zarr-python": lambda i: images[i],
        "webdataset": lambda i: sources["webdataset"].read(i, out),
        "folder": lambda i: sources["folder"].read(i, out),
    }
    for name, way in ways.items():
        if "bytes only" not in name:
            assert all(np.array_equal(way(i), right[i]) for i in order[:50]), name
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(seconds(lambda: [way(i) for i in order])[0])  # noqa: B023
    return [{"way": name, "ms per patch": 1e3 * statistics.median(t) / count} for name, t in times.items()]


def feeding(sample_slide: Path, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """One row for each way to feed a model; patches lie half a tile off the slide's own tiles."""
    torch.set_num_threads(1)
    with open_slide(sample_slide) as slide:
        path = write_pyramid(folder / "pyramid.svs", slide, size=(4096, 4096), tissue=0.6)
    over = PatchDataset.over([path], TileSpec(0.5, SIDE, phase=(SIDE // 2, SIDE // 2)))
    files = PatchDataset([open_patches(folder / "bench" / "patches.zarr")])
    ways: dict[str, tuple[Any, bool]] = {
        "over the slide, in order": (over, False),
        "over the slide, shuffled": (over, True),
        "over the slide, stream (shuffled)": (PatchStream(over), False),
        "zarr, shuffled": (files, True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (dataset, shuffle) in ways.items():
            loader: Any = DataLoader(dataset, batch_size=32, shuffle=shuffle or None)
            took, found = seconds(lambda: sum(len(batch["slide"]) for batch in loader))  # noqa: B023
            times[name].append(took / found)
    return [{"way": name, "ms per patch": 1e3 * statistics.median(t)} for name, t in times.items()]


def show(rows: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(v if isinstance(v, str) else f"{v:.3g}" for v in row.values()) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--colours", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    if options.colours:
        show([row for path in options.colours for row in colours(path)])
        return
    slide = sample()
    patches = tissue_patches(slide)
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            "encoding": encoding(patches, options.repeats),
            "reading": reading(patches, options.patches, options.repeats, Path(folder)),
            "feeding": feeding(slide, Path(folder), options.repeats),
        }
    for table in tables.values():
        show(table)
    print(json.dumps({"machine": platform.processor() or platform.machine(), "tissue patches": len(patches), **tables}))


if __name__ == "__main__":
    main()
