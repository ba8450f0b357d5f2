"""One system under test in a process of its own, told what to do line by line.

    python worker.py MODULE:FUNCTION

imports the function, then answers each line of JSON on its standard input (a case, with what is done with it under
"mode") with one line of JSON. Standard output is kept for that: whatever libraries print goes to standard error. Needs
numpy and nothing else, since it runs in every system's environment.

A system is a function of a case that hands every patch to ``case.sink``, or does a whole job and returns its numbers.
What is timed is the call: opening the slide, reading, and looking at one pixel in 32 of each patch, so that no system
gets away with promising pixels. Imports are not timed.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 32
"""Every so many pixels of a patch are looked at while the time runs."""
KEPT = 24
"""Patches kept whole for a comparison."""
Position = tuple[int, int]
Pixels = NDArray[np.uint8]


class Sampled:
    """What is done with patches while the time runs: a sum over a few pixels of each."""

    def __init__(self) -> None:
        self.patches = 0
        self.total = 0

    def add(self, position: Position, patch: Pixels) -> None:
        """One patch, (H, W, 3)."""
        self.patches += 1
        self.total += int(patch[::SAMPLE, ::SAMPLE].sum(dtype=np.int64))

    def add_batch(self, positions: Sequence[Position], patches: Pixels) -> None:
        """N patches, (N, H, W, 3)."""
        self.patches += len(positions)
        self.total += int(patches[: len(positions), ::SAMPLE, ::SAMPLE].sum(dtype=np.int64))


class Hashed(Sampled):
    """What is done with patches before any time counts: a hash of place and pixels, in any order; some are kept."""

    def __init__(self, keep: frozenset[Position] = frozenset()) -> None:
        super().__init__()
        self.keep = keep
        self.hash = 0
        self.kept: dict[Position, Pixels] = {}

    def add(self, position: Position, patch: Pixels) -> None:
        super().add(position, patch)
        digest = hashlib.blake2b(np.ascontiguousarray(patch), digest_size=8, key=b"%d,%d" % position).digest()
        self.hash = (self.hash + int.from_bytes(digest, "little")) % (1 << 64)
        if position in self.keep:
            self.kept[position] = np.array(patch)

    def add_batch(self, positions: Sequence[Position], patches: Pixels) -> None:
        for position, patch in zip(positions, patches, strict=False):
            self.add(position, patch)


@dataclass
class Case:
    """What is to be read, and the sinks that the patches go to."""

    path: str
    """The slide."""
    threads: int
    mpp: float
    """Micrometres per level-0 pixel."""
    width: int = 0
    """Level-0 pixels."""
    height: int = 0
    size: int = 256
    """Side of the square patches, px of the resolution that is read."""
    offset: int = 0
    """x and y of the first patch, px."""
    stride: int = 256
    """From one patch to the next, px."""
    wanted_mpp: float | None = None
    """Resolution to read at; None is level 0."""
    random: int = 0
    """Number of patches at random places in random order; 0 is the whole grid, row by row."""
    out: str | None = None
    """Folder that a job writes to; empty."""
    hashed: bool = False
    keep: frozenset[Position] = frozenset()
    sinks: list[Sampled] = field(default_factory=list)

    def sink(self) -> Any:
        """A new sink; one per thread."""
        self.sinks.append(Hashed(self.keep) if self.hashed else Sampled())
        return self.sinks[-1]

    def rows(self) -> list[list[Position]]:
        """(x, y) of all patches that lie inside the slide, row by row; random ones in 64 groups."""
        if self.random:
            return [group.tolist() for group in np.array_split(self._scattered(), 64)]
        scale = self.mpp / (self.wanted_mpp or self.mpp)
        right, bottom = int(self.width * scale) - self.size, int(self.height * scale) - self.size
        columns = range(self.offset, right + 1, self.stride)
        return [[(x, y) for x in columns] for y in range(self.offset, bottom + 1, self.stride)]

    def positions(self) -> list[Position]:
        """The same in one list."""
        return [(x, y) for row in self.rows() for x, y in row]

    def _scattered(self) -> NDArray[np.int64]:
        generator = np.random.default_rng(0)
        return generator.integers(0, (self.width - self.size, self.height - self.size), (self.random, 2), endpoint=True)

    def by_rows(self, work: Callable[[Iterator[Position], Any], None]) -> None:
        """Call ``work(positions, sink)`` on every thread; whoever is free takes the next row."""
        rows = iter(self.rows())
        lock = threading.Lock()

        def taken() -> Iterator[Position]:
            while True:
                with lock:
                    row = next(rows, None)
                if row is None:
                    return
                yield from (tuple(p) for p in row)

        self._threaded([taken() for _ in range(self.threads)], work)

    def by_bands(self, work: Callable[[Iterator[Position], Any], None]) -> None:
        """Call ``work(positions, sink)`` on every thread, each with one band of neighbouring rows."""
        rows = self.rows()
        cuts = [len(rows) * i // self.threads for i in range(self.threads + 1)]
        bands = [iter([tuple(p) for row in rows[a:b] for p in row]) for a, b in pairwise(cuts)]
        self._threaded(bands, work)

    def _threaded(self, shares: list[Iterator[Position]], work: Callable[[Iterator[Position], Any], None]) -> None:
        errors: list[BaseException] = []

        def run(share: Iterator[Position], sink: Any) -> None:
            try:
                work(share, sink)
            except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                errors.append(error)

        running = [threading.Thread(target=run, args=(share, self.sink())) for share in shares]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if errors:
            raise errors[0]


def reset_peak() -> None:
    """Give freed memory back and forget the largest resident size (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def resident(what: str) -> int:
    """Bytes: VmRSS (now) or VmHWM (the largest since the last reset). Unlike ru_maxrss it begins anew at exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the system does not say {what}")


def cpu_seconds() -> float:
    """Of this process, its threads and its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(system: Callable[[Case], dict[str, Any] | None], case: Case) -> dict[str, Any]:
    """Run a system once."""
    reset_peak()
    before, cpu, start = resident("VmRSS"), cpu_seconds(), time.perf_counter()
    told = system(case) or {}
    wall = time.perf_counter() - start
    answer = {
        "wall": wall,
        "cpu": cpu_seconds() - cpu,
        "peak": resident("VmHWM"),
        "before": before,
        "patches": sum(sink.patches for sink in case.sinks),
        "total": sum(sink.total for sink in case.sinks),
    }
    return answer | told


def checked(case: Case, compare: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Add the hash, and write the kept patches beside it."""
    sinks = [sink for sink in case.sinks if isinstance(sink, Hashed)]
    kept = {position: patch for sink in sinks for position, patch in sink.kept.items()}
    np.savez(compare, **{f"{x},{y}": patch for (x, y), patch in kept.items()})
    return answer | {"hash": f"{sum(sink.hash for sink in sinks) % (1 << 64):016x}"}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def serve(named: str) -> None:
    """Answer lines until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    module, function = named.split(":")
    try:
        sys.path.insert(0, str(Path(__file__).parent))
        home = importlib.import_module(module)
        system = getattr(home, function)
        if prepare := getattr(home, "PREPARE", {}).get(function):
            prepare()
    except BaseException as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise
    say({"versions": versions(getattr(home, "PACKAGES", {}).get(function, ()))})
    for line in sys.stdin:
        told = json.loads(line)
        compare = told.pop("compare", None)
        keep = frozenset(tuple(p) for p in told.pop("keep", ()))
        case = Case(**told, hashed=compare is not None, keep=keep)
        try:
            answer = measured(system, case)
            say(checked(case, compare, answer) if compare else answer)
        except Exception as error:  # noqa: BLE001 - the system's own failure is its result
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    # systems import from this file: one Case, one set of sinks
    sys.modules["worker"] = sys.modules["__main__"]
    serve(sys.argv[1])
