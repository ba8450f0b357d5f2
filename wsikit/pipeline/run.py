"""One slide, from pixels to files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.atomic import output_errors
from wsikit.errors import ConfigError, PixelReadError, PredictionError, WsikitError
from wsikit.pipeline.busy import Busy, Clock
from wsikit.pipeline.merge import Merged, merge
from wsikit.pipeline.resident import peak_rss_mb
from wsikit.pipeline.stamps import size_on_disk
from wsikit.pipeline.supertile import Job, TaskResult, predict_supertiles
from wsikit.pipeline.workers import bounded
from wsikit.pipeline.workers.threads import ThreadWorkers
from wsikit.predictions import BagPredictor, Encoder, Model, Predictor, check_area_spec, check_density_cell
from wsikit.quality import ANY_QUALITY, Quality, QualityFilter
from wsikit.sinks import Sink
from wsikit.slides import BadTile, Slide
from wsikit.tiling import SUPERTILE, TileGrid
from wsikit.tissue import TissueMask, find_tissue

MAX_LABELS = 255
"""Class masks are uint8 and 0 is nothing."""
Progress = Callable[[int, int], None]
"""Called with (super-tiles done, super-tiles in all)."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did and found."""

    slide_id: str
    status: str
    """"complete", or "partial" where tiles of the file could not be decoded."""
    patches: int
    """Windows predicted."""
    quality: Quality
    """Of all windows on tissue, those that were not good enough included."""
    qc: QualityFilter
    """Which of them were."""
    merged: Merged
    """Objects, areas and seam conflicts."""
    tissue_um2: float
    tissue: Mapping[str, float | str]
    """How tissue was found."""
    bound: Mapping[str, Any]
    """What ``prepare`` bound for this slide."""
    mpp: float
    """um per pixel of the prediction: the level's own where one was near the wish."""
    core: int
    halo: int
    bad_tiles: tuple[BadTile, ...]
    seconds: Mapping[str, float]
    """Per step and in total; ``predict`` is wall time over all workers."""
    busy: Busy
    """What the stages of ``predict`` did of that."""
    peak_rss_mb: float
    """Largest resident memory of this process and its workers so far, added up."""
    outputs: Mapping[str, int] = field(default_factory=dict)
    """File name -> bytes."""

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.merged.objects_per_class.items())
        areas = ", ".join(f"{share:.1%} {name}" for name, share in self.merged.area_fractions.items())
        scores = ", ".join(f"{name} {score:.3f}" for name, score in self.merged.scores.items())
        features = "{} x {} features".format(*self.merged.features) if self.merged.features else ""
        bad = f", {len(self.bad_tiles)} bad tiles" if self.bad_tiles else ""
        dropped = len(self.quality) - self.patches
        bad += f", {dropped} patches not good enough" if dropped else ""
        counts += f" ({self.merged.density_count:.1f} by density)" if self.merged.density_count is not None else ""
        found = counts or areas or scores or features or "nothing found"
        bound = f" ({self.busy})" if self.busy.bound() else ""
        return (
            f"{self.slide_id}: {self.status}, {self.patches} patches, {found}{bad}, "
            f"{self.seconds['total']:.1f} s{bound}, peak {self.peak_rss_mb:.0f} MB"
        )


def prepared(predictor: Model, slide: Slide, tissue: TissueMask) -> Model:
    """Bind a model to a slide.

    Raises PredictionError: code predictor_error where the model itself raised, bad_predictions for too many labels,
    patches of a bag that do not begin at the slide's corner, or cells of density that do not fit the windows, or
    areas that are no AreaSpec of a class map.
    """
    count = len(predictor.labels)
    scores = isinstance(predictor, Predictor | BagPredictor)
    if scores and not 1 <= count <= MAX_LABELS:
        raise PredictionError(
            f"the predictor {predictor.name!r} has {count} labels; masks hold a label in 8 bits: 1 to {MAX_LABELS}"
        )
    if predictor.tile.step != predictor.tile.core:
        raise PredictionError(
            f"the model {predictor.name!r} has windows {predictor.tile.step} px apart with cores of "
            f"{predictor.tile.core} px; cores must tile the slide, each pixel in one: leave TileSpec.stride out"
        )
    check_density_cell(predictor)
    check_area_spec(predictor)
    if isinstance(predictor, BagPredictor) and predictor.tile.phase != (0, 0):
        raise PredictionError(
            f"the model {predictor.name!r} has patches of phase {predictor.tile.phase}; heat maps have a pixel per "
            "patch from the slide's corner: phase (0, 0) is needed"
        )
    try:
        return predictor.prepare(slide, tissue)
    except (WsikitError, OSError):
        raise
    except Exception as error:  # a plug-in may raise anything, and the report must say whose error it was
        raise PredictionError(
            f"the predictor {predictor.name!r} raised {type(error).__name__} in prepare: {error}",
            code="predictor_error",
        ) from error


TAKEN = {Predictor: {"features", "masks"}, BagPredictor: {"features", "masks", "instances"}, Encoder: {"instances"}}
"""Kind of model -> what it gives to sinks; the first kind that fits counts."""


def refuse_idle(model: Model, takes: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError for the first (name, what it takes) of sinks that the model gives nothing to."""
    given = next(kinds for kind, kinds in TAKEN.items() if isinstance(model, kind))
    for name, wanted in takes:
        if wanted not in given:
            raise ConfigError(
                f"the model {model.name!r} gives {', '.join(sorted(given))}, and {name} takes {wanted}: nothing would "
                "be written; choose another --format"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a slide: the model bound to it, and the windows that it predicts."""

    model: Model
    tissue: TissueMask
    grid: TileGrid


def plan_run(slide: Slide, predictor: Model, tissue: TissueMask) -> Plan:
    """Bind a model to a slide and find its windows.

    Raises:
        ResolutionError: the slide holds nothing as fine as the predictor wants.
        PredictionError: the predictor broke its contract.
    """
    bound = prepared(predictor, slide, tissue.unlimited())
    return Plan(bound, tissue, TileGrid.cover(slide, bound.tile, tissue))


def run(
    slide: Slide,
    predictor: Model,
    *sinks: Sink,
    mask: TissueMask | None = None,
    slide_id: str | None = None,
    patient: str | None = None,
    workers: int = 1,
    batch_size: int | None = None,
    supertile: int | None = None,
    qc: QualityFilter = ANY_QUALITY,
    overview: Path | None = None,
    regions: Path | None = None,
    spool: Path | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Run a predictor over one slide and write what it says to the sinks, in this process.

    Args:
        slide: an open slide.
        predictor: not yet bound; ``prepare`` is called here.
        sinks: where results go; each becomes visible only when it is complete, one after another at the very end.
        mask: where to look. By default tissue is found, except that plain images are all tissue.
        slide_id: names the slide in stable feature ids; by default the file's stem.
        patient: whose slide it is, for sinks that tell.
        workers: threads of this process.
        batch_size: patches per call of ``predict``; by default as many as make 4 megapixels.
        supertile: side in lattice pixels of what a task reads; by default 4096, smaller where that leaves workers
            idle. It changes speed and memory, never the result.
        qc: which windows are good enough to be predicted; by default all. Nothing is kept in the cores of others.
        overview: PNG to draw of the slide, its tissue and what was found.
        regions: CSV to write of the objects in each region of interest, or piece of tissue: see ``pipeline.regions``.
        spool: folder in which intermediate results get a temporary one of their own, removed at the end; it is made
            where it is not there. By default it is the system's for temporary files.
        progress: called as super-tiles complete.

    Raises:
        ResolutionError: the slide holds nothing as fine as the predictor wants.
        PixelReadError: no pixel that was needed could be decoded.
        PredictionError: the predictor broke its contract.
        OutputError: a sink could not write; see ``merge`` for what is there then.
    """
    if workers < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigError(f"batch_size and workers must be at least 1, got {batch_size} and {workers}")
    refuse_idle(predictor, ((type(sink).__name__, sink.takes) for sink in sinks))
    clock = Clock()
    tissue = mask
    if tissue is None:
        with clock("tissue"):
            tissue = default_tissue(slide)
    with clock("prepare"):
        plan = plan_run(slide, predictor, tissue)
    with spool_folder(spool) as folder:
        with clock("predict"):
            job = Job(slide, plan.model, folder, batch_size, qc)
            parts = plan.grid.supertiles(choose_supertiles(plan.grid, supertile, workers))
            results = list(_counted(_predict(job, parts, workers), len(parts), progress))
        name = slide_id if slide_id is not None else slide.path.stem
        return finish_run(
            slide,
            plan,
            results,
            sinks,
            slide_id=name,
            patient=patient,
            spool=folder,
            qc=qc,
            overview=overview,
            regions=regions,
            clock=clock,
        )


def finish_run(
    slide: Slide,
    plan: Plan,
    results: Sequence[TaskResult],
    sinks: Sequence[Sink],
    *,
    slide_id: str,
    patient: str | None,
    spool: Path,
    qc: QualityFilter,
    overview: Path | None,
    regions: Path | None,
    clock: Clock,
) -> RunReport:
    """Merge what the super-tiles spooled into the sinks.

    Args: see ``run``; ``results`` are those of all super-tiles, ``clock`` goes on.

    Raises:
        PixelReadError: no pixel that was needed could be decoded.
        OutputError: a sink could not write.
    """
    grid, tissue = plan.grid, plan.tissue
    if results and not any(result.readable for result in results):
        raise PixelReadError(f"{slide.path.name}: none of the pixels that were needed can be decoded")
    quality = Quality.joined(result.quality for result in results)
    if len(quality) != len(grid):
        raise WsikitError(f"{slide.path.name}: not all of its {len(grid)} patches were looked at")
    dropped = {(column, row) for result in results for column, row in result.dropped.tolist()}
    kept = grid.where(np.array([(column, row) not in dropped for column, row in grid.cells.tolist()], np.bool_))
    bad = tuple(sorted({*tissue.bad, *(tile for result in results for tile in result.bad)}, key=_reading_order))
    with clock("merge"):
        merged = merge(
            slide, slide_id, plan.model, kept, tissue, bad, spool, sinks, overview, dropped, patient, regions
        )
    written = [*(path for sink in sinks for path in written_by(sink)), *([regions] if regions else [])]
    return RunReport(
        slide_id=slide_id,
        status="partial" if bad else "complete",
        patches=len(kept),
        quality=quality,
        qc=qc,
        merged=merged,
        tissue_um2=tissue.area_um2,
        tissue=tissue.info,
        bound=plan.model.bound,
        mpp=grid.spec.mpp,
        core=grid.spec.core,
        halo=grid.spec.halo,
        bad_tiles=bad,
        seconds=clock.seconds(),
        busy=Busy.total(result.busy for result in results),
        peak_rss_mb=_total_peak(results),
        outputs={path.name: size_on_disk(path) for path in written if path.exists()},
    )


def _reading_order(tile: BadTile) -> tuple[int, int, int]:
    return tile.level, tile.box[1], tile.box[0]


def default_tissue(slide: Slide) -> TissueMask:
    """Found by colour, except that a plain image (a field somebody chose) is all tissue."""
    return TissueMask.whole(slide) if slide.reader.is_field else find_tissue(slide)


def _predict(job: Job, parts: Sequence[TileGrid], workers: int) -> Generator[TaskResult]:
    """The super-tiles' results; in their order with one worker, as they complete with several."""
    if workers == 1:
        yield from predict_supertiles(job, enumerate(parts), side_by_side=len(parts) > 1)
        return
    pool = ThreadWorkers(workers)
    try:
        with closing(bounded(pool, partial(_predict_one, job), enumerate(parts))) as futures:
            for _, future in futures:
                yield future.result()
    finally:
        pool.stop()


def _predict_one(job: Job, numbered: tuple[int, TileGrid]) -> TaskResult:
    return next(predict_supertiles(job, [numbered]))


def _counted(results: Generator[TaskResult], total: int, progress: Progress | None) -> Iterator[TaskResult]:
    if progress:
        progress(0, total)
    with closing(results):
        for done, result in enumerate(results, 1):
            if progress:
                progress(done, total)
            yield result


def choose_supertiles(grid: TileGrid, side: int | None, slots: int, most: int | None = None) -> int:
    """The side of super-tiles in lattice pixels: as asked for, or 4096 px and smaller while workers would be idle.

    ``most`` is what memory allows.
    """
    if side is not None:
        return min(side, most or side)
    side = most or SUPERTILE
    while slots > 1 and side // 2 >= grid.spec.core and len(grid.supertiles(side)) < 2 * slots:
        side //= 2
    return side


@contextmanager
def spool_folder(folder: Path | None) -> Iterator[Path]:
    """A temporary folder in the given one, or where the system has its own: what else lies there is not touched.

    Raises OutputError where none can be made.
    """
    with output_errors(folder or Path(tempfile.gettempdir())):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix="wsikit-spool-", dir=folder, ignore_cleanup_errors=True)
    with temporary as name:
        yield Path(name)


def _total_peak(results: Sequence[TaskResult]) -> float:
    peaks = {os.getpid(): peak_rss_mb()}
    for result in results:
        peaks[result.pid] = max(peaks.get(result.pid, 0.0), result.peak_rss_mb)
    return round(sum(peaks.values()), 1)


def written_by(sink: Sink) -> tuple[Path, ...]:
    """What a sink has committed: its path, or the parts that it was split into."""
    paths: tuple[Path, ...] = getattr(sink, "paths", ())
    return paths or (sink.path,)
