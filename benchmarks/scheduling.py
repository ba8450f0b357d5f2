"""What scheduling costs: super-tiles of a slide through plain threads and through each kind of workers, interleaved.

    python benchmarks/scheduling.py [--side 8192] [--supertile 2048] [--repeats 7]

A task reads the patches of a super-tile and takes their mean optical density. Printed for each kind: the median of wall
seconds, of CPU seconds (this process and its children) and of the idle share, what of the slots' time was spent outside
tasks. On a machine that others use, CPU seconds and idle shares are what to look at. Starting is measured by itself:
the first round of each kind is not counted. Then what a task that does nothing costs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from inputs import Input

from wsikit.geometry import TileSpec
from wsikit.pipeline.supertile import SlideRef, _opened
from wsikit.pipeline.workers import bounded
from wsikit.pipeline.workers.children import ChildWorkers
from wsikit.pipeline.workers.threads import ThreadWorkers
from wsikit.slides import open_slide
from wsikit.streaming import batches
from wsikit.tiling import TileGrid

Tasks = Callable[[list[TileGrid]], list[float]]
"""Runs super-tiles; the seconds that each of them took."""


def density(slide: SlideRef, part: TileGrid) -> float:
    """Read a super-tile and look at it; seconds."""
    begun = time.perf_counter()
    table = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    for batch in batches(_opened(slide), part):
        table[batch.images].mean()
    return time.perf_counter() - begun


def used() -> float:
    """CPU seconds of this process and its children so far."""
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in tree)


def measured(run: Tasks, parts: list[TileGrid], slots: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, idle share."""
    cpu, begun = used(), time.perf_counter()
    busy = sum(run(parts))
    wall = time.perf_counter() - begun
    return wall, used() - cpu, 1 - busy / (slots * wall)


def nothing(_: int) -> None:
    """The least that a task can do."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--supertile", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--slide", type=Path, help="another slide than the one of the benchmarks")
    asked = parser.parse_args()
    with open_slide(asked.slide or Input(asked.side).path()) as slide:
        parts = list(TileGrid.cover(slide, TileSpec(slide.mpp, core=256)).supertiles(asked.supertile))
        task = partial(density, SlideRef.of(slide))
    children, threads = ChildWorkers(asked.slots), ThreadWorkers(asked.slots)
    with ThreadPoolExecutor(asked.slots) as pool, children:
        kinds: dict[str, Tasks] = {
            "plain threads": lambda parts: list(pool.map(task, parts)),
            "threads": lambda parts: [future.result() for _, future in bounded(threads, task, parts)],
            "children": lambda parts: [future.result() for _, future in bounded(children, task, parts)],
        }
        for run in kinds.values():
            run(parts)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
        for _ in range(asked.repeats):
            for name, run in kinds.items():
                found[name].append(measured(run, parts, asked.slots))
        print(f"{len(parts)} tasks on {asked.slots} slots, medians of {asked.repeats}")
        for name, rounds in found.items():
            wall, cpu, idle = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{name:14} wall {wall:7.3f} s   CPU {cpu:7.3f} s   idle {idle:7.2%}")
        for name, workers in (("threads", threads), ("children", children)):
            cpu = used()
            for _, future in bounded(workers, nothing, range(2000)):
                future.result()
            print(f"{name:14} {(used() - cpu) / 2:.3f} ms of CPU for a task that does nothing")
    threads.stop()
    start(asked.slots)


def start(rounds: int) -> None:
    """What it takes until the first task of a child is answered."""
    for _ in range(rounds):
        cpu, begun = used(), time.perf_counter()
        with ChildWorkers(1) as workers:
            workers.submit(nothing, 0).result()
            wall, spent = time.perf_counter() - begun, used() - cpu
        print(f"a child and its first task: wall {wall:.2f} s, CPU {spent:.2f} s")


if __name__ == "__main__":
    main()
