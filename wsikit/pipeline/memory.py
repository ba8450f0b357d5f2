"""``--max-memory``: the peak of a run's resident memory, part by part, and sizes of the run that keep it below a limit.

What a worker holds at its worst is taken as the *sum* of what predicting takes and of what finding tissue or merging
takes, though they come one after another: an allocator gives back little of what one has freed (threads of their own
have heaps of their own), and the next one fits into it by luck only. Everything here is arithmetic;
``pipeline/probe.py`` measures what goes in. Constants: docs/measured.md, "Memory of a run, part by part".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wsikit.errors import ConfigError
from wsikit.geometry import TileSpec
from wsikit.pipeline.supertile import BATCHES_AHEAD
from wsikit.predictions import BagPredictor, Encoder, Model, Predictor, ScoreMap, area_spec, density_cell
from wsikit.stitching.maps import sum_type

MB = 1 << 20
CHANNELS = 3
MASK_BYTES = 45
"""Bytes per pixel of the tissue mask while tissue is found."""
OBJECT_BYTES = 3
"""Bytes per lattice pixel that a super-tile's objects take at most: 4 kB for a nucleus of 40 um^2 at 0.5 um per px, ten
times as dense as ordinary tissue."""
MERGE_BYTES = 160 * MB
"""Of merging, the overview and its fields, and writing, beside blocks of score maps."""
MERGE_BLOCK = 2048
"""Side in lattice pixels of the blocks that score maps are merged in."""
DENSITY_BYTES = 3 * 4 * MERGE_BLOCK**2 + 40 * MB
"""Of merging a block of density: its counts, what is spooled of them, what is written, a strip's places."""
AREA_BYTES = 16
"""Per pixel of a block of a class map that becomes areas: numbers of its connected areas, corners."""
OUTLINE_BYTES = 1
"""Of outlines for each lattice pixel of a slide: 170 for a corner (``stitching.areas``), and areas that are 200 px wide
have one for every 100 px, half of a slide being tissue."""
PARENT_BYTES = 60 * MB
"""What the process that watches over the others grows by: their threads, the report."""
RECORD_BYTES = 30_000
"""Of a slide in that process: its record, and its place in the report."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the memory of a run depends on beside the sizes that can be chosen. All ``*_bytes`` are resident ones."""

    spec: TileSpec
    """Windows of the model."""
    parent_bytes: int
    """Of the calling process when the run begins."""
    loaded_bytes: int
    """Of a worker that has loaded libraries and model, and has bound it to a slide."""
    batch_bytes: int
    """That a batch took above that: pixels, what the model makes of them, its answer."""
    answer_bytes: int
    """Of the answer alone."""
    collected: float
    """Bytes per lattice pixel that a super-tile's answers are collected in: see ``collected_bytes``."""
    merged_bytes: int
    """Of what is merged at once: see ``merged_bytes``."""
    mask_pixels: int
    """Of the largest tissue mask."""
    strip_bytes: int
    """Of the largest strip that a resampled read holds beside its result."""
    lattice_pixels: int
    """Of the largest slide, at the resolution of the model."""
    slides: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """What can be chosen. None of it changes results."""

    workers: int
    side: int
    """Of super-tiles in lattice pixels, at most."""
    side_by_side: bool
    """Whether a worker reads the next super-tile while the model works on this one."""


def worker_parts(demand: Demand, sizes: Sizes) -> dict[str, int]:
    """Bytes of a worker process at its peak, by part. The sum is a promise for dense tissue, hence more than most take.

    ==============  ==============================================================================================
    part            how much
    ==============  ==============================================================================================
    libraries       measured: a process that has loaded the model
    super-tile      3 for each pixel, halo included; twice where the next one is read meanwhile
    reading         the strip of a finer level that a resampled read averages
    batch           measured: pixels, the model's intermediates, its answer
    answers         side by side: ``BATCHES_AHEAD`` batches that wait to be collected, and the one that is
    collected       score maps: labels x bytes of a sum, and one more label while they are saved; objects: see
                    ``OBJECT_BYTES``; features: twice their floats
    tissue, merge   the larger of two: finding tissue, ``MASK_BYTES`` for each pixel of the mask; merging,
                    ``MERGE_BYTES`` and a block of all labels of score maps or the features of a bag
    ==============  ==============================================================================================
    """
    spec, copies = demand.spec, 2 if sizes.side_by_side else 1
    cores = max(1, sizes.side // spec.step) * spec.step
    # a slide smaller than a super-tile is read with the windows that reach past its border
    held = min(cores**2, demand.lattice_pixels + 2 * spec.step * int(demand.lattice_pixels**0.5) + spec.step**2)
    side = int(held**0.5) + 2 * spec.halo
    return {
        "libraries and model": demand.loaded_bytes,
        "super-tile": side**2 * CHANNELS * copies,
        "reading": demand.strip_bytes,
        "batch": demand.batch_bytes,
        "answers ahead": (BATCHES_AHEAD + 1) * demand.answer_bytes if sizes.side_by_side else 0,
        "collected": int(side**2 * demand.collected) * copies,
        "tissue, merge": max(demand.mask_pixels * MASK_BYTES, MERGE_BYTES + demand.merged_bytes),
    }


def run_parts(demand: Demand, sizes: Sizes, *, threads: bool = False) -> dict[str, int]:
    """Bytes of all processes of a run at their peak, by part: the caller's own, and each part of all workers.

    With ``threads`` all are one process that has libraries and model once.
    """
    parts = worker_parts(demand, sizes)
    once = {"libraries and model"} if threads else set()
    caller = demand.parent_bytes + PARENT_BYTES + RECORD_BYTES * demand.slides
    return {"main process": caller} | {
        name: size if name in once else size * sizes.workers for name, size in parts.items()
    }


def choices(demand: Demand, asked: Sizes) -> Iterator[Sizes]:
    """Sizes to try, the dearest last.

    Smaller super-tiles cost least (halos are read once more: a few per cent at half the side), then reading while the
    model works, which one worker alone does; workers cost most and go last.
    """
    for workers in range(asked.workers, 0, -1):
        for side_by_side in sorted({asked.side_by_side, False}, reverse=True):
            side = asked.side
            while side >= min(demand.spec.step, asked.side):
                yield Sizes(workers, side, side_by_side)
                side //= 2


def choose(demand: Demand, asked: Sizes, most: int, *, threads: bool = False) -> Sizes:
    """The first of ``choices`` whose peak is at most ``most`` bytes.

    Raises ConfigError (code no_memory) where there is none; it names the parts of the smallest.
    """
    smallest = asked
    for smallest in choices(demand, asked):
        if sum(run_parts(demand, smallest, threads=threads).values()) <= most:
            return smallest
    parts = run_parts(demand, smallest, threads=threads)
    listed = ", ".join(f"{name} {size / MB:.0f}" for name, size in parts.items() if size >= MB)
    raise ConfigError(
        f"a run needs {sum(parts.values()) / MB:.0f} MB at least and may take {most / MB:.0f}: with one worker and "
        f"super-tiles of {smallest.side} px, in MB: {listed}",
        code="no_memory",
        remedy=f"give --max-memory {-(-sum(parts.values()) // MB)}M or more"
        + (", or a smaller --batch-size" if parts["batch"] > parts["main process"] else ""),
    )


@dataclass(frozen=True, slots=True)
class Promise:
    """Sizes of a run that keep its memory below a limit."""

    demand: Demand
    sizes: Sizes
    asked: Sizes
    most: int
    threads: bool = False

    @classmethod
    def of(cls, demand: Demand, asked: Sizes, most: int, *, threads: bool = False) -> Promise:
        """Raises what ``choose`` does."""
        return cls(demand, choose(demand, asked, most, threads=threads), asked, most, threads)

    @property
    def parts(self) -> dict[str, int]:
        """See ``run_parts``."""
        return run_parts(self.demand, self.sizes, threads=self.threads)

    @property
    def worker_limit(self) -> int:
        """Bytes that a worker process may take before it is ended: its share of what the main process leaves."""
        return (self.most - self.parts["main process"]) // self.sizes.workers

    @property
    def workers_mb(self) -> float:
        """Of all workers, as records hold their peak."""
        return round((sum(self.parts.values()) - self.parts["main process"]) / MB, 1)

    def facts(self) -> dict[str, Any]:
        """For run.yaml."""
        sizes = self.sizes
        return {
            "max_mb": round(self.most / MB, 1),
            "predicted_mb": round(sum(self.parts.values()) / MB, 1),
            "parts_mb": {name: round(size / MB, 1) for name, size in self.parts.items()},
            "workers": sizes.workers,
            "supertile": sizes.side,
            "side_by_side": sizes.side_by_side,
        }

    def __str__(self) -> str:
        sizes, asked = self.sizes, self.asked
        changed = [
            *([f"{sizes.workers} instead of {asked.workers} workers"] if sizes.workers != asked.workers else []),
            *([f"super-tiles of {sizes.side} instead of {asked.side} px"] if sizes.side != asked.side else []),
            *(["no super-tile read ahead"] if sizes.side_by_side != asked.side_by_side else []),
        ]
        total = sum(self.parts.values()) / MB
        said = f"memory: {total:.0f} MB predicted, {self.most / MB:.0f} allowed"
        return f"{said}; with {', '.join(changed)}" if changed else said


def collected_bytes(model: Model) -> float:
    """Bytes per lattice pixel that a super-tile's answers are collected in."""
    if isinstance(model, Predictor):
        if model.produces is not ScoreMap:
            return OBJECT_BYTES + (4 / density_cell(model) ** 2 if density_cell(model) else 0)
        return float((len(model.labels) + 1) * _item(model.tile))
    assert isinstance(model, Encoder | BagPredictor)
    return 2 * 4 * model.width / model.tile.step**2


def merged_bytes(model: Model, lattice_pixels: int) -> int:
    """Bytes that are merged at once: a block of score maps (sums, their blend, its scores) or of density, the
    outlines of areas, all features of a bag."""
    if isinstance(model, BagPredictor):
        return 2 * 4 * model.width * lattice_pixels // model.tile.step**2
    if not (isinstance(model, Predictor) and model.produces is ScoreMap):
        return DENSITY_BYTES if density_cell(model) else 0
    block = len(model.labels) * (3 * _item(model.tile) + 1) + 2 * 8
    areas = MERGE_BLOCK**2 * AREA_BYTES + lattice_pixels * OUTLINE_BYTES if area_spec(model) else 0
    return MERGE_BLOCK**2 * block + areas


def _item(spec: TileSpec) -> int:
    return int(sum_type(spec.halo)().itemsize)
