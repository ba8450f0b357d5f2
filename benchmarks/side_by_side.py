"""What it brings to read, predict and post-process side by side in one process, against one after another.

``python benchmarks/side_by_side.py SLIDE [-m MODEL] [--supertile PX] [--delay S] [--cores N] [--repeats N]``. The two
ways take turns on the same super-tiles in one process; wall and processor seconds are medians, and what they spool is
compared byte for byte. ``--delay`` waits so long before each read, as a slow disk does; ``--cores 1`` is what a worker
has that shares the machine with one worker per core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from wsikit.config import EmbedConfig, RunConfig
from wsikit.geometry import Region
from wsikit.pipeline.busy import Busy
from wsikit.pipeline.model import load_model
from wsikit.pipeline.run import default_tissue, prepared
from wsikit.pipeline.supertile import Job, predict_supertiles
from wsikit.quality import ANY_QUALITY
from wsikit.slides import PartialRead, Slide, open_slide
from wsikit.tiling import TileGrid


class Delayed(Slide):
    """A slide on a disk that answers late."""

    delay = 0.0

    def read_partial(self, region: Region) -> PartialRead:
        time.sleep(self.delay)
        return super().read_partial(region)


def once(job: Job, parts: list[TileGrid], side_by_side: bool) -> tuple[float, float, Busy, dict[str, bytes]]:
    """Wall and processor seconds, how busy the stages were, and the spool."""
    with tempfile.TemporaryDirectory() as spool:
        job = Job(job.slide, job.predictor, Path(spool), None, ANY_QUALITY)
        wall, cpu = time.perf_counter(), time.process_time()
        results = list(predict_supertiles(job, enumerate(parts), side_by_side=side_by_side))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        files = {path.name: path.read_bytes() for path in Path(spool).iterdir()}
    return wall, cpu, Busy.total(result.busy for result in results), files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("-m", "--model", default="nuclei-classical")
    parser.add_argument("--supertile", type=int, default=1024)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    told = parser.parse_args()
    if told.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: told.cores])
    kind = EmbedConfig if ":" in told.model else RunConfig
    with open_slide(told.slide) as slide:
        model, tissue = load_model(kind(model=told.model, device="cpu")), default_tissue(slide)
        model = prepared(model, slide, tissue)
        delayed = Delayed(slide.reader)
        delayed.delay = told.delay
        job = Job(delayed, model, Path(), None, ANY_QUALITY)
        parts = TileGrid.cover(slide, model.tile, tissue).supertiles(told.supertile)
        once(job, parts[:2], False)
        runs = [(once(job, parts, False), once(job, parts, True)) for _ in range(told.repeats)]
    assert all(first[3] == second[3] == runs[0][0][3] for first, second in runs), "the spools differ"
    print(f"{len(parts)} super-tiles, {len(os.sched_getaffinity(0))} cores, {told.delay:g} s before each read")
    for name, which in (("one after another", 0), ("side by side", 1)):
        wall, cpu = (statistics.median(run[which][i] for run in runs) for i in (0, 1))
        busy = Busy.total(run[which][2] for run in runs)
        print(f"{name:18} {wall:6.2f} s wall {cpu:6.2f} s processor  {busy.told()}; {busy}")
    for i, name in enumerate(("wall", "processor")):
        ratios = sorted(second[i] / first[i] for first, second in runs)
        middle = statistics.median(ratios)
        print(f"{name}, side by side / one after another: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {middle:.2f}")


if __name__ == "__main__":
    main()
