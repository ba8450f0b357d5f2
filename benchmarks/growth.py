"""How time and memory of the main job grow with the slide: pyramids of 8k, 16k and 32k px a side, 30 % tissue.

    python benchmarks/growth.py [--sides 8192 16384 32768] [--workers 2] [--model nuclei]

Every run is a process of its own (`wsikit run`), whose resident memory, workers included, is sampled every 50 ms.
Before its time counts, a run must have ended complete with no seam conflict, and its objects per tissue area must agree
with the smallest slide's within 10 %. Prints a table of ratios to the smallest slide and, as the last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from wsikit.samples import sample
from wsikit.slides import open_slide
from wsikit.slides.pyramid import write_pyramid


def tree_rss(process: psutil.Process) -> int:
    """Resident bytes of a process and its children; pages that they share are counted in each."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def watched(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of a command and its children."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                peak = max(peak, tree_rss(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}")
    return time.perf_counter() - start, peak / 2**20


def one(side: int, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the slide, run the model, read what it says of itself."""
    slide, out = folder / f"pyramid-{side}.svs", folder / f"out-{side}"
    with open_slide(sample()) as source:
        write_pyramid(slide, source, size=(side, side), tissue=arguments.tissue)
    command = [sys.executable, "-m", "wsikit.cli", "run", "-i", str(slide), "-o", str(out), "-m", arguments.model]
    seconds, peak = watched([*command, "-n", str(arguments.workers)])
    record = json.loads((out / slide.stem / "slide.json").read_text())
    if record["status"] != "complete" or record["seam_conflicts"]:
        raise SystemExit(f"{side}: {record['status']}, {record['seam_conflicts']} seam conflicts: no time counts")
    slide.unlink()
    tissue = record["tissue_um2"] / 1e6
    return {
        "side": side,
        "tissue_mm2": round(tissue, 3),
        "objects": record["objects"],
        "seconds": round(seconds, 1),
        "stages": record["seconds"],
        "peak_mb": round(peak),
    }


def main() -> None:
    """Run all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="nuclei-classical")
    parser.add_argument("--tissue", type=float, default=0.3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [one(side, Path(folder), arguments) for side in arguments.sides]
    first = rows[0]
    density = first["objects"] / first["tissue_mm2"]
    for row in rows:
        if abs(row["objects"] / row["tissue_mm2"] - density) > 0.1 * density:
            raise SystemExit(f"{row['side']}: objects per mm^2 differ by more than 10 %: no time counts")
    print(
        f"{'side':>6} {'mm^2':>8} {'objects':>8} {'s':>7} {'s ratio':>8} {'mm^2 ratio':>10} {'MB':>6} {'MB ratio':>8}"
    )
    for row in rows:
        print(
            f"{row['side']:>6} {row['tissue_mm2']:>8.2f} {row['objects']:>8} {row['seconds']:>7.1f} "
            f"{row['seconds'] / first['seconds']:>8.2f} {row['tissue_mm2'] / first['tissue_mm2']:>10.2f} "
            f"{row['peak_mb']:>6} {row['peak_mb'] / first['peak_mb']:>8.3f}"
        )
    last = rows[-1]
    if last["tissue_mm2"] > first["tissue_mm2"]:
        slope = math.log(last["seconds"] / first["seconds"]) / math.log(last["tissue_mm2"] / first["tissue_mm2"])
        print(f"log-log slope of seconds on tissue: {slope:.2f}")
    print(json.dumps({"machine": platform.processor() or platform.machine(), "cpus": psutil.cpu_count(), "rows": rows}))


if __name__ == "__main__":
    main()
