"""What a task does: a super-tile is read, its windows are predicted, and what they own is spooled."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Box, Region, TileSpec
from wsikit.nn.device import gpu_seconds
from wsikit.pipeline.ahead import ahead
from wsikit.pipeline.busy import Busy, Clock
from wsikit.pipeline.contract import checked_features, checked_predictions
from wsikit.pipeline.resident import peak_rss_mb
from wsikit.predictions import Batch, Model, Prediction, Predictor, density_cell
from wsikit.quality import Quality, QualityFilter, inspect_windows
from wsikit.slides import BadTile, Pixels, Slide
from wsikit.stitching import MapCollector, ObjectCollector, collector
from wsikit.stitching.bags import InstanceCollector
from wsikit.stitching.density import DensityCollector
from wsikit.tiling import BATCH_PIXELS, TileGrid, cut

BATCHES_AHEAD = 2
"""Batches that the model may be ahead of post-processing. Score maps take 16 MB a batch and class."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all super-tiles of a slide share."""

    slide: Slide
    model: Model
    spool: Path
    batch_size: int | None
    qc: QualityFilter


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task tells the caller; what it found lies in the spool."""

    quality: Quality
    """Of each window of the super-tile."""
    dropped: NDArray[np.int64]
    """(N, 2) cells of the windows that were not good enough to be predicted."""
    bad: tuple[BadTile, ...]
    readable: bool
    """Whether any pixel of a window of the super-tile could be decoded."""
    files: dict[str, str]
    """Name of each file that it spooled -> sha256 of its bytes."""
    busy: Busy
    pid: int
    peak_rss_mb: float


def predict_supertiles(
    job: Job, numbered: Iterable[tuple[int, TileGrid]], *, side_by_side: bool = False
) -> Generator[TaskResult]:
    """Super-tiles in their order.

    Args:
        job: what they share.
        numbered: their indices and windows.
        side_by_side: whether a super-tile is read while the model works on the one before it, and what that gave is
            collected and spooled meanwhile: a thread for each. It takes the memory of a super-tile more, and changes
            nothing of the results.

    An error of any stage stops the others and is raised here.
    """
    begun = time.perf_counter()
    tiles = (_read(job, index, grid) for index, grid in numbered)
    answers = _answers(job.model, ahead(tiles) if side_by_side else tiles, job.batch_size)
    with closing(ahead(answers, BATCHES_AHEAD) if side_by_side else answers) as stream:
        for tile, answer in stream:
            if answer is not None:
                tile.take(answer)
                continue
            tile.save()
            now = time.perf_counter()
            tile.clock.add("wall", now - begun)
            begun = now
            yield tile.result()


def _read(job: Job, index: int, grid: TileGrid) -> tuple[_Supertile, Pixels]:
    """Read a super-tile and look at its quality."""
    clock = Clock()
    with clock("read"):
        slide = job.slide
        region = grid.extent()
        part = slide.read_partial(region)
        # those that the extent reads between the windows would make the outcome depend on the super-tile's size
        met = [tile for tile in part.bad if any(patch.overlap(tile.lattice(slide.mpp / region.mpp)) for patch in grid)]
        bad = [tile.lattice(slide.mpp / region.mpp) for tile in met]
        readable = any(_is_readable(slide, patch, bad) for patch in grid)
        quality = inspect_windows(part.pixels, region, grid)
        good = job.qc.passes(quality)
    kept = grid.where(good)
    collected = _collector(job, kept, bad, index) if len(kept) else None
    return _Supertile(grid, kept, quality, grid.cells[~good], tuple(met), readable, clock, collected), part.pixels


Answer = Sequence[Prediction] | NDArray[np.float32]
"""What a model said of a batch."""


def _answers(
    model: Model, tiles: Generator[tuple[_Supertile, Pixels]], batch_size: int | None
) -> Generator[tuple[_Supertile, Answer | None]]:
    """What the model says of each batch of each super-tile; None when that was all of it."""
    with closing(tiles):
        for tile, pixels in tiles:
            batches = cut(pixels, tile.grid.extent(), tile.kept, batch_size or whole_passes(model, tile.grid.spec))
            while (answer := _answer(model, tile.clock, batches)) is not None:
                yield tile, answer
            yield tile, None
            # not to be held while the next one is read
            del pixels, batches


def _answer(model: Model, clock: Clock, batches: Iterator[Batch]) -> Answer | None:
    """Of the next batch; None where there is no other."""
    before = gpu_seconds()
    with clock("model"):
        batch = next(batches, None)
        if batch is None:
            return None
        answer = checked_predictions(model, batch) if isinstance(model, Predictor) else checked_features(model, batch)
    clock.add("gpu", gpu_seconds() - before)
    return answer


def whole_passes(model: Model, spec: TileSpec) -> int | None:
    """Patches in a batch of the default size that leaves no pass of a network half empty; None for other models."""
    per_pass: int | None = getattr(model, "batch", None)
    return per_pass and max(1, BATCH_PIXELS // spec.patch**2 // per_pass) * per_pass


@dataclass(slots=True, eq=False)
class _Supertile:
    """A super-tile that was read, and what its windows gave."""

    grid: TileGrid
    kept: TileGrid
    """Windows that are good enough to be predicted."""
    quality: Quality
    dropped: NDArray[np.int64]
    bad: tuple[BadTile, ...]
    readable: bool
    clock: Clock
    collected: _Predictions | InstanceCollector | None
    files: dict[str, str] = field(default_factory=dict)

    def take(self, answer: Any) -> None:
        """Collect what the model said of the next batch."""
        assert self.collected is not None  # it was asked
        with self.clock("post"):
            self.collected.add(answer)

    def save(self) -> None:
        """Spool what was collected."""
        with self.clock("post"):
            paths = [] if self.collected is None else self.collected.save()
            self.files = {path.name: sha256_of(path) for path in paths}

    def result(self) -> TaskResult:
        """What the caller is told."""
        busy = Busy.of(self.clock.steps())
        seen = self.quality, self.dropped, self.bad, self.readable
        return TaskResult(*seen, self.files, busy, os.getpid(), peak_rss_mb())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Predictions:
    """Collects the predictions of a super-tile's windows, in their order, and knows the cores that own them."""

    def __init__(
        self, collected: MapCollector | ObjectCollector, density: DensityCollector | None, grid: TileGrid
    ) -> None:
        self._collectors: list[Any] = [collected] if density is None else [collected, density]
        self._cores = (grid.core(i) for i in range(len(grid)))

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Take those of the next windows, checked to be of the kind that the collector is for."""
        for prediction in predictions:
            core = next(self._cores)
            for collected in self._collectors:
                collected.add(prediction, core)

    def save(self) -> list[Path]:
        """Spool them; returns the files."""
        return [path for collected in self._collectors for path in collected.save()]


def _collector(job: Job, grid: TileGrid, bad: list[Box], index: int) -> _Predictions | InstanceCollector:
    model = job.model
    if not isinstance(model, Predictor):
        return InstanceCollector(grid, bad, job.spool, index)
    cell = density_cell(model)
    density = DensityCollector(grid, cell, bad, job.spool, index) if cell else None
    return _Predictions(collector(model.produces, grid, len(model.labels), bad, job.spool, index), density, grid)


def _is_readable(slide: Slide, patch: Region, bad: Sequence[Box]) -> bool:
    """Whether any of a patch that lies on the slide could be decoded."""
    inside = patch.intersection(slide.plane(patch.mpp))
    return inside is None or sum(inside.overlap(box) for box in bad) < inside.width * inside.height - 0.5
