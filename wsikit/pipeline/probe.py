"""What goes into the prediction of a run's memory: the slides' sizes, and a batch of one of them through the model.

All of it is done by a worker process, which may crash, hang or take too much as any other: the caller opens no slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsikit.config import RunConfig
from wsikit.errors import ConfigError, WorkerError, WsikitError
from wsikit.geometry import TileSpec
from wsikit.pipeline.contract import checked_features, checked_predictions
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.memory import CHANNELS, MB, Demand, Promise, Sizes, collected_bytes, merged_bytes
from wsikit.pipeline.resident import held, peak_rss_mb
from wsikit.pipeline.run import prepared
from wsikit.pipeline.supertile import Answer, whole_passes
from wsikit.pipeline.workers import Workers, bounded
from wsikit.pipeline.workers.opening import chosen_gpus, open_workers
from wsikit.predictions import Batch, Model, Predictor
from wsikit.predictors.files import dumps, loads_once
from wsikit.sinks import sink_class
from wsikit.slides import Slide, open_slide
from wsikit.slides.slide import MAX_READ_PIXELS, STRIP_TILES
from wsikit.tiling import BATCH_PIXELS, SUPERTILE, TileGrid
from wsikit.tissue import TissueMask, mask_mpp

TRIES = 3
"""Slides that a batch is tried on, from the largest on, until one of them can be used."""
HEADER_S = 60.0
"""Longest that looking at a slide's header may take."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a slide is for a model. All that is not known of one that cannot be opened is 0."""

    mask_pixels: int = 0
    strip_bytes: int = 0
    lattice_pixels: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """What a batch took in a fresh process; resident bytes."""

    loaded_bytes: int
    batch_bytes: int
    answer_bytes: int


def promised(entries: Sequence[SlideEntry], config: RunConfig, model: Model, workers: int) -> Promise | None:
    """Sizes with which a run over these slides takes at most ``config.max_memory``.

    None where that is not asked for, and where none of the largest slides can be used: workers then share what is
    allowed.

    Args:
        entries: the slides that the run will work on.
        config: of the run.
        model: not bound to a slide.
        workers: that are asked for.

    Raises:
        ConfigError: code no_memory, the run cannot fit; or its workers are none of this machine.
    """
    if config.max_memory is None or not entries:
        return None
    if config.cluster not in {"local", "threads"}:
        raise ConfigError(
            f"--max-memory is for processes of this machine, and tasks go to {config.cluster}",
            remedy="a cluster's workers have a limit of their own: give it where they are started",
        )
    gpus = chosen_gpus(config.gpus)
    here = held()
    if config.max_memory <= here:
        raise ConfigError(
            f"--max-memory is {config.max_memory // MB} MB, and this process holds {here // MB} MB before any slide",
            code="no_memory",
            remedy="give --max-memory more",
        )
    with open_workers("local", slots=max(1, len(gpus)), gpus=gpus, memory=config.max_memory - here) as probing:
        extents = _extents(probing, entries, config, model.tile)
        largest = sorted(extents, key=lambda entry: -extents[entry].lattice_pixels)
        tried = _tried(probing, [entry for entry in largest if extents[entry].lattice_pixels], config, model)
    if tried is None:
        return None
    lattice = max(extent.lattice_pixels for extent in extents.values())
    demand = Demand(
        spec=model.tile,
        parent_bytes=here,
        loaded_bytes=tried.loaded_bytes,
        batch_bytes=tried.batch_bytes,
        answer_bytes=tried.answer_bytes,
        collected=collected_bytes(model),
        merged_bytes=merged_bytes(model, lattice),
        mask_pixels=max(extent.mask_pixels for extent in extents.values()),
        strip_bytes=max(extent.strip_bytes for extent in extents.values()),
        lattice_pixels=lattice,
        slides=len(entries),
    )
    asked = Sizes(workers, config.supertile or SUPERTILE, workers == 1 or bool(gpus))
    return Promise.of(demand, asked, config.max_memory, threads=config.cluster == "threads")


def _extents(
    workers: Workers, entries: Sequence[SlideEntry], config: RunConfig, spec: TileSpec
) -> dict[SlideEntry, Extent]:
    found = {}
    with closing(bounded(workers, partial(extent, config, spec), entries, seconds=HEADER_S)) as results:
        for entry, future in results:
            try:
                found[entry] = future.result()
            except (WsikitError, OSError) as error:
                _refuse_short(error, f"a worker has no room for the libraries and the header of {entry.slide_id}")
                found[entry] = Extent()
    return found


def _refuse_short(error: Exception, what: str) -> None:
    """Raise ConfigError where it was for want of memory: then no slide could be run."""
    if isinstance(error, WorkerError) and error.code == "worker_memory":
        raise ConfigError(
            f"{what}: {error}", code="no_memory", remedy="give --max-memory more, or a smaller --batch-size"
        ) from error


def extent(config: RunConfig, spec: TileSpec, entry: SlideEntry) -> Extent:
    """Of a slide, by its header."""
    with open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate) as slide:
        mask, mpp = mask_mpp(slide), slide.resolve(spec.mpp)
        (columns, rows), (width, height) = slide.size_at(mask), slide.size_at(mpp)
        strips = _strip_bytes(slide, mask, columns), _strip_bytes(slide, mpp, min(width, SUPERTILE + 2 * spec.halo))
        return Extent(columns * rows, max(strips), width * height)


def _strip_bytes(slide: Slide, mpp: float, width: int) -> int:
    """Of what a read of ``width`` lattice pixels holds of the finer level that it averages; see ``read_partial``."""
    if any(level.mpp == mpp for level in slide.levels):
        return 0
    level = [level for level in slide.levels if level.mpp < mpp][-1]
    across = width * mpp / level.mpp
    return int(min(MAX_READ_PIXELS, across * STRIP_TILES * slide.reader.tile_size(level.index)[1])) * CHANNELS


def _tried(workers: Workers, entries: Sequence[SlideEntry], config: RunConfig, model: Model) -> Tried | None:
    """A batch of the first slide that can be used; None where there is none."""
    pickled = dumps(model)
    for entry in entries[:TRIES]:
        try:
            return workers.submit(try_batch, entry, config, pickled, gpu=True, seconds=config.task_timeout).result()
        except (WsikitError, OSError) as error:
            _refuse_short(error, f"the model {model.name!r} has no room for one batch of {entry.slide_id}")
    return None


def try_batch(entry: SlideEntry, config: RunConfig, model: bytes) -> Tried:
    """Run the model on one window, which loads what it loads, then on a batch from the middle of a slide."""
    for name in config.format:
        sink_class(name)
    with open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate) as slide:
        bound = prepared(loads_once(model), slide, TissueMask.whole(slide))
        grid = TileGrid.cover(slide, bound.tile)
        count = config.batch_size or whole_passes(bound, grid.spec) or max(1, BATCH_PIXELS // grid.spec.patch**2)
        windows = grid[max(0, min(len(grid) // 2, len(grid) - count)) :][:count]
        _answer(bound, slide, windows[:1])
        loaded = held()
        answer = _answer(bound, slide, windows)
    # what an earlier step took at its peak counts for the batch: too much rather than too little
    return Tried(loaded, max(0, int(peak_rss_mb() * MB) - loaded), _bytes(answer) * count // len(windows))


def _answer(model: Model, slide: Slide, windows: TileGrid) -> Answer:
    batch = Batch(np.stack([slide.read_partial(region).pixels for region in windows]), tuple(windows))
    return checked_predictions(model, batch) if isinstance(model, Predictor) else checked_features(model, batch)


def _bytes(answer: Answer) -> int:
    """Of the arrays of an answer; what else there is of it, outlines, counts as collected."""
    names = ("scores", "density")
    arrays = [answer] if isinstance(answer, np.ndarray) else [getattr(one, n, None) for one in answer for n in names]
    return sum(array.nbytes for array in arrays if array is not None)
