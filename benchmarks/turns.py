"""Letting systems take turns at a bench: processes, checks before any time counts, repeats."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import psutil
from benches import Bench, System
from figures import spread
from machine import busy_seconds, wait_until_idle

FOLDER = Path(__file__).parent
LIMIT = 300.0
"""Seconds after which a turn is given up."""
FOREIGN = 0.2
"""Cores' worth of others' work above which a turn is done again."""
AGAIN = 2
"""How often a disturbed turn is done again."""
COMPARED = 24
"""Patches compared pixel by pixel where hashes differ."""
SAMPLING = 0.02
"""Seconds between two looks at the memory of a job's processes."""
POOLS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "BLOSC", "VECLIB")


class Failure(Exception):
    """What a system said when it could not go on."""


class Worker:
    """A system in a process of its own."""

    def __init__(self, system: System, threads: int) -> None:
        python = Path(sys.executable) if system.env == "own" else FOLDER / "envs" / system.env / "bin" / "python"
        if not python.exists():
            raise Failure(f"no environment {system.env}: make bench-env")
        environment = os.environ | {f"{pool}_NUM_THREADS": str(threads) for pool in POOLS}
        environment |= {"VIPS_CONCURRENCY": str(threads if system.own_threads else 1), "BLOSC_NTHREADS": str(threads)}
        self.process = subprocess.Popen(
            [python, str(FOLDER / "peers" / "worker.py"), system.call],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_LOUD") else None,
            env=environment,
            text=True,
        )
        self.versions = self._answer().get("versions", {})

    def ask(self, **told: Any) -> dict[str, Any]:
        """One line there, one line back."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        if not ready:
            self.process.kill()
            raise Failure(f"no answer in {LIMIT:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"the process ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Watch:
    """The largest resident size of a process and its children together, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLING):
            self.peak = max(self.peak, sum(self._sizes()))

    def _sizes(self) -> Iterator[int]:
        try:
            for member in [self._process, *self._process.children(recursive=True)]:
                yield member.memory_info().rss
        except psutil.NoSuchProcess:
            return


class Turns:
    """How a run is done."""

    def __init__(self, *, cores: int, rounds: int, gate: bool, scratch: Path | None) -> None:
        self.cores, self.rounds, self.gate = cores, rounds, gate
        self.scratch = scratch

    def take(self, bench: Bench) -> dict[str, Any]:
        """One bench: title, input, background load, and the figures of each system."""
        case = bench.told()
        _warm(Path(case["path"]))
        systems: dict[str, dict[str, Any]] = {system.name: {"call": system.call} for system in bench.systems}
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for system in bench.systems:
                with _noted(systems[system.name]):
                    workers[system.name] = stack.enter_context(Worker(system, bench.threads))
                    systems[system.name]["versions"] = workers[system.name].versions
            if bench.checked:
                self._check(bench, case, workers, systems)
            else:
                self._warm_up(bench, case, workers, systems)
            load = wait_until_idle() if self.gate else None
            for _ in range(bench.rounds(self.rounds)):
                for system in bench.systems:
                    if "error" not in systems[system.name]:
                        with _noted(systems[system.name]):
                            self._turn(bench, case, system, workers[system.name], systems[system.name])
        for found in systems.values():
            _summarise(found, bench)
            print(f"    {_line(found)}", file=sys.stderr, flush=True)
        told = {"title": bench.title, "input": bench.slide.name, "ours": bench.ours, "background": load}
        return told | {"systems": systems}

    def _check(self, bench: Bench, told: dict[str, Any], workers: dict[str, Worker], systems: dict[str, Any]) -> None:
        """Have every patch hashed. Whoever shows other pixels than the first system, beyond its tolerance, is out."""
        with tempfile.TemporaryDirectory() as folder:
            keep = _some(bench, told)
            reference: tuple[str, Path] | None = None
            for system in bench.systems:
                found = systems[system.name]
                if "error" in found or not system.gives_pixels:
                    continue
                kept = Path(folder) / f"{system.name.replace(' ', '-')}.npz"
                with _noted(found):
                    answer = workers[system.name].ask(**told, compare=str(kept), keep=keep)
                    reference = reference or (answer["hash"], kept)
                    found |= {"hash": answer["hash"], "total": answer["total"], "patches": answer["patches"]}
                    found["pixels"] = _difference(answer["hash"], kept, *reference)
                    if not system.accepts(found["pixels"]):
                        raise Failure(f"other pixels: {found['pixels']}")

    def _warm_up(self, bench: Bench, told: dict[str, Any], workers: dict[str, Worker], systems: dict[str, Any]) -> None:
        """Every job is done once on a small slide: what is imported when it is first needed is not timed."""
        small = told | bench.small()
        for name, worker in workers.items():
            with _noted(systems[name]), self._output(bench) as out:
                worker.ask(**small, out=out)

    def _turn(self, bench: Bench, told: dict[str, Any], system: System, worker: Worker, found: dict[str, Any]) -> None:
        for again in range(AGAIN + 1 if self.gate else 1):
            with self._output(bench) as out:
                before, start = busy_seconds(), time.perf_counter()
                with Watch(worker.process.pid) if system.watched else ExitStack() as watch:
                    answer = worker.ask(**told, out=out)
                others = (busy_seconds() - before - answer["cpu"]) / (time.perf_counter() - start)
                if out:
                    answer |= _written(Path(out))
                if isinstance(watch, Watch):
                    answer["peak"] = max(answer["peak"], watch.peak)
            if others <= FOREIGN or again == AGAIN:
                break
        if system.gives_pixels and bench.checked and answer["total"] != found["total"]:
            raise Failure("other pixels than when they were checked")
        found.setdefault("turns", []).append(answer | {"others": round(others, 3), "again": again})

    @contextmanager
    def _output(self, bench: Bench) -> Iterator[str | None]:
        if not bench.writes:
            yield None
            return
        folder = tempfile.mkdtemp(prefix="wsikit-bench-", dir=self.scratch)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            # what has not reached the disk must not be paid for by whoever comes next
            os.sync()


@contextmanager
def _noted(found: dict[str, Any]) -> Iterator[None]:
    """A system that fails is out, with its words; the others go on."""
    try:
        yield
    except (Failure, BrokenPipeError) as error:
        found["error"] = str(error)


def _warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def _some(bench: Bench, told: dict[str, Any]) -> list[tuple[int, int]]:
    places = bench.case(told).positions()
    return random.Random(0).sample(places, min(COMPARED, len(places)))


def _difference(ours: str, kept: Path, theirs: str, reference: Path) -> dict[str, Any]:
    if ours == theirs:
        return {"equal": True}
    with np.load(kept) as a, np.load(reference) as b:
        if set(a) != set(b):
            return {"equal": False, "max": 255, "mean": 255.0, "missing": len(set(a) ^ set(b))}
        gaps = np.concatenate([np.abs(a[name].astype(int) - b[name]).ravel() for name in b])
    return {"equal": False, "max": int(gaps.max()), "mean": round(float(gaps.mean()), 3)}


def _written(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _summarise(found: dict[str, Any], bench: Bench) -> None:
    """Medians and spreads of the turns."""
    turns = found.get("turns")
    if not turns or "error" in found:
        return
    walls = [turn["wall"] for turn in turns]
    found["patches"] = turns[0]["patches"]
    if not found["patches"]:
        found["error"] = "it gave no patches"
        return
    found["wall"], found["spread"] = median(walls), spread(walls)
    found["cpu"] = median(turn["cpu"] for turn in turns)
    found["peak_mb"] = max(turn["peak"] for turn in turns) / 2**20
    found["before_mb"] = turns[0]["before"] / 2**20
    found["megapixels"] = found["patches"] * bench.pixels / 1e6
    found["disturbed"] = sum(turn["others"] > FOREIGN for turn in turns)
    for name in ("files", "bytes"):
        if name in turns[0]:
            found[name] = turns[0][name]


def _line(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{found['call']:34s} {found['error']}"
    pixels = found.get("pixels", {})
    told = "" if not pixels else "equal" if pixels["equal"] else f"max {pixels['max']} mean {pixels['mean']}"
    return (
        f"{found['call']:34s} {found['wall']:7.3f} s ±{found['spread'] * 50:3.0f} %  {found['cpu']:7.3f} CPU s "
        f"{found['megapixels'] / found['wall']:7.0f} MP/s {found['peak_mb']:6.0f} MB  {told}"
    )
