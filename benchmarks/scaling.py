"""Strong scaling on this machine: the same slides with 1, 2, ... workers, interleaved.

    python benchmarks/scaling.py [--side 8192] [--slides 4] [--repeats 3] [--workers 1 2]

Runs `nuclei` by `wsikit.run_many` into a new folder each time, with children (`--cluster local`) and with threads.
Printed for each: the median of wall seconds, the speed-up over one worker and what that is of the ideal one, and CPU
seconds (this process and its children), whose growth is what working side by side costs. Outputs must be equal, byte
for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

from inputs import Input
from machine import busy_seconds

from wsikit.config import RunConfig
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides


def measured(slides: Path, cluster: str, workers: int) -> dict[str, float | str]:
    """One run: wall, CPU, and the digest of its GeoJSON files."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        config = RunConfig(cluster=cluster, num_workers=workers, format=("geojson.gz",))
        before, others, begun = os.times(), busy_seconds(), time.perf_counter()
        records = run_many(find_slides(str(slides)), out, config)
        wall, after = time.perf_counter() - begun, os.times()
        if any(record["status"] != "complete" for record in records):
            raise SystemExit(f"not all slides are complete: {records}")
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(out.glob("*/*.geojson.gz")))).hexdigest()
    cpu = sum(after[:4]) - sum(before[:4])
    return {"wall": wall, "cpu": cpu, "others": (busy_seconds() - others - cpu) / wall, "digest": digest}


def main() -> None:
    """Print a line for each kind and number of workers, and as the last line JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8192, help="of the slides, px")
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    runs = list(product(("local", "threads"), asked.workers))
    found: dict[tuple[str, int], list[dict[str, float | str]]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        source = Input(asked.side, tissue=0.3).path()
        for number in range(asked.slides):
            (Path(folder) / f"slide-{number}.svs").symlink_to(source)
        for _ in range(asked.repeats):
            for run in runs:
                found[run].append(measured(Path(folder), *run))
    if len({turn["digest"] for turns in found.values() for turn in turns}) != 1:
        raise SystemExit("outputs differ: no time counts")
    told = []
    for (cluster, workers), turns in found.items():
        wall, cpu, others = (statistics.median(float(turn[key]) for turn in turns) for key in ("wall", "cpu", "others"))
        one = statistics.median(float(turn["wall"]) for turn in found[cluster, asked.workers[0]])
        gain = one * asked.workers[0] / wall
        print(
            f"{cluster:8} {workers} workers {wall:7.2f} s  x {gain:.2f}  {gain / workers:4.0%}  {cpu:7.2f} CPU s  "
            f"others {others:.2f} cores"
        )
        told.append({"cluster": cluster, "workers": workers, "wall": wall, "cpu": cpu, "speedup": gain})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
