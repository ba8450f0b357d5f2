"""What a task costs on a dask cluster, beside the work in it: the bound on how many workers one scheduler keeps busy.

    python benchmarks/scheduler.py [--tasks 2000] [--waiting 5000] [--workers 2]

A scheduler and workers run on loopback, each a process of its own. First tasks are queued behind others that block, and
what scheduler and client grow by is the memory of one that waits. Then tasks that do nothing but carry what a
super-tile's do (the job, its windows; what it tells the caller) pass through ``DaskWorkers``, as ``bounded`` hands them
out. Processor seconds are those of the processes themselves, so that what else runs here counts little. Prints a table
and, as the last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from wsikit.config import RunConfig
from wsikit.pipeline.model import load_model
from wsikit.pipeline.run import default_tissue, prepared
from wsikit.pipeline.supertile import Job, SlideRef, TaskResult, predict_supertile
from wsikit.pipeline.workers import Workers, bounded
from wsikit.pipeline.workers.opening import open_workers
from wsikit.predictors.files import dumps
from wsikit.quality import ANY_QUALITY
from wsikit.samples import sample
from wsikit.slides import open_slide
from wsikit.tiling import TileGrid


def a_task(folder: Path) -> tuple[Job, TileGrid, TaskResult]:
    """A super-tile of the sample slide and what it gives."""
    with open_slide(sample()) as slide:
        tissue = default_tissue(slide)
        model = prepared(load_model(RunConfig()), slide, tissue.unlimited())
        grid = TileGrid.cover(slide, model.tile, tissue)
        job = Job(SlideRef.of(slide), dumps(model), folder, None, ANY_QUALITY)
        return job, grid, predict_supertile(job, (0, grid))


def nothing(job: Job, grid: TileGrid, result: TaskResult, number: int) -> TaskResult:
    """Carries what a super-tile's task carries, there and back."""
    return result


@contextmanager
def started(count: int) -> Iterator[tuple[str, dict[str, list[psutil.Process]]]]:
    """(address, what it is -> processes) of a scheduler and workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def start(verb: str, *arguments: str) -> psutil.Process:
            command = [sys.executable, "-m", f"distributed.cli.dask_{verb}", *arguments]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=psutil.Process().environ())
            stack.callback(process.wait)
            stack.callback(process.kill)
            return psutil.Process(process.pid)

        host, port = address.removeprefix("tcp://").split(":")
        scheduler = start("scheduler", "--host", host, "--port", port, "--dashboard-address", ":0")
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", folder)
        workers = [start("worker", address, *options) for _ in range(count)]
        yield address, {"scheduler": [scheduler], "client": [psutil.Process()], "workers": workers}


@contextmanager
def all_of(address: str, count: int) -> Iterator[Workers]:
    """Workers of a scheduler, as soon as all are there."""
    with open_workers(address, slots=1) as workers:
        while workers.slots < count:
            time.sleep(0.1)
        yield workers


def spent(processes: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """Processor seconds of each kind, and of the workers' children."""
    members = processes | {"children": [child for worker in processes["workers"] for child in worker.children()]}
    return {
        kind: sum(times.user + times.system for times in (process.cpu_times() for process in listed))
        for kind, listed in members.items()
    }


def per_task(workers: Workers, task: Any, processes: dict[str, list[psutil.Process]], count: int) -> dict[str, float]:
    """Milliseconds of a task, on the wall and of the processors of each kind of process."""
    for _, future in bounded(workers, task, range(50)):
        future.result()
    before, begun = spent(processes), time.perf_counter()
    for _, future in bounded(workers, task, range(count)):
        future.result()
    wall, after = time.perf_counter() - begun, spent(processes)
    figures = {kind: after[kind] - seconds for kind, seconds in before.items()} | {"wall": wall}
    return {kind: round(1000 * seconds / count, 3) for kind, seconds in figures.items()}


def idle(processes: dict[str, list[psutil.Process]], seconds: float = 10) -> dict[str, float]:
    """Milliseconds of the processors in a second without tasks, for each kind of process."""
    before = spent(processes)
    time.sleep(seconds)
    return {kind: round(1000 * (used - before[kind]) / seconds, 1) for kind, used in spent(processes).items()}


def waiting_kb(workers: Workers, task: Any, processes: dict[str, list[psutil.Process]], count: int) -> dict[str, float]:
    """Kilobytes that a task takes while it waits."""
    blocked = [workers.submit(time.sleep, 600) for _ in range(workers.slots)]
    sizes = {kind: processes[kind][0].memory_info().rss for kind in ("scheduler", "client")}
    futures = [workers.submit(task, number) for number in range(count)]
    time.sleep(5)
    grown = {kind: processes[kind][0].memory_info().rss - size for kind, size in sizes.items()}
    for future in [*futures, *blocked]:
        future.cancel()
    return {kind: round(size / count / 1024, 1) for kind, size in grown.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--waiting", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, started(arguments.workers) as (address, processes):
        task = partial(nothing, *a_task(Path(folder)))
        # memory first: later there is some to use again. Leaving ends the tasks that block.
        with all_of(address, arguments.workers) as workers:
            memory = waiting_kb(workers, task, processes, arguments.waiting)
        with all_of(address, arguments.workers) as workers:
            cost = per_task(workers, task, processes, arguments.tasks)
            resting = idle(processes)
    sizes = {"task_bytes": len(dumps((task, (0,)))), "result_bytes": len(dumps(task(0)))}
    for kind, milliseconds in cost.items():
        print(f"{kind:10} {milliseconds:8.3f} ms a task")
    for kind, milliseconds in resting.items():
        print(f"{kind:10} {milliseconds:8.1f} ms a second without tasks")
    for kind, kilobytes in memory.items():
        print(f"{kind:10} {kilobytes:8.1f} kB a task that waits")
    print(json.dumps({"ms": cost, "idle_ms": resting, "waiting_kb": memory} | sizes))


if __name__ == "__main__":
    main()
