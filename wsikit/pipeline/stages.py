"""A slide of a folder run as tasks for workers: begin, predict super-tiles, finish.

The caller touches neither the slide nor the model: all that may crash, hang or swell happens in tasks. What a task
needs lies in the slide's spool, on a disk that all workers see::

    OUT/<slide_id>/.spool/
      plan          the model bound to the slide, tissue and windows, pickled; read back by its sha256 only
      plan.json     the slide's key and the super-tiles' side: whether, and how, a killed run can be gone on with
      <key>-<side>/
        o*, m*, i*, d*  what super-tiles found
        t*          that they are done

A task that a cluster could not stop may still write into the folder of an earlier try: that is never the folder of
another key, or of super-tiles of another size.

Nothing pickled is believed that this run has not written: ``begin`` makes the plan anew, which costs seconds, and the
same key gives the same plan.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wsikit.atomic import output_errors, replace_file
from wsikit.config import RunConfig
from wsikit.errors import OutputError, SlideOpenError
from wsikit.geometry import Box
from wsikit.pipeline.busy import Clock
from wsikit.pipeline.each import OVERVIEW
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.regions import REGIONS
from wsikit.pipeline.results import digests, is_done, load_result, save_result
from wsikit.pipeline.run import Plan, choose_supertiles, finish_run, plan_run
from wsikit.pipeline.settings import make_sinks, quality_filter, tissue_of
from wsikit.pipeline.state import Record, describe, digest, model_card
from wsikit.pipeline.supertile import Job, predict_supertiles
from wsikit.predictors.files import dumps, loads_once
from wsikit.slides import Slide, open_slide
from wsikit.tiling import TileGrid

SPOOL = ".spool"


@dataclass(frozen=True, slots=True)
class SlideTask:
    """What the tasks of one slide share."""

    entry: SlideEntry
    folder: Path
    """Of the slide's results."""
    config: RunConfig
    key: str
    """See ``Work.key``: what a spool was made with."""
    slots: int
    """Tasks at once, for the size of super-tiles where none was asked for."""
    most_side: int | None = None
    """Of super-tiles, where memory is short."""

    @property
    def spool(self) -> Path:
        """Folder of intermediate results."""
        return self.folder / SPOOL

    def found(self, side: int) -> Path:
        """Folder of what super-tiles of a side gave."""
        return self.spool / f"{self.key[:12]}-{side}"


@dataclass(frozen=True, slots=True)
class Begun:
    """What ``begin`` tells the caller."""

    plan: str
    """sha256 of the plan's file."""
    side: int
    """Of the super-tiles, in lattice pixels."""
    core: int
    """Of the model's windows: super-tiles are no smaller."""
    count: int
    """Super-tiles."""
    done: tuple[int, ...]
    """Those that an earlier run has done."""
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is pickled: a plan less the slide, which every worker opens for itself."""

    mpp_override: float | None
    reader: str
    """The one that took the file, so that all tasks read the same pixels."""
    stamp: tuple[int, int]
    """Size and modification time of the file: one that was replaced must not be read on in."""
    made: Plan
    side: int


def begin(task: SlideTask, model: bytes) -> Begun:
    """Open a slide, find its tissue, bind the model, and say what super-tiles there are. Writes the spool at its end.

    Args:
        task: the slide.
        model: not yet bound; pickled by ``predictors.files``.

    Raises what ``open_slide``, ``tissue_of`` and ``plan_run`` do.
    """
    entry, config, clock = task.entry, task.config, Clock()
    override = entry.mpp or config.mpp_override
    with clock("open"):
        opened = open_slide(entry.path, override, isolate=config.isolate)
    with opened as slide:
        stamp = _stamp(entry.path)
        with clock("tissue"):
            tissue = tissue_of(slide, entry, config)
        with clock("prepare"):
            made = plan_run(slide, loads_once(model), tissue)
    kept = _kept_side(task)
    side = kept or choose_supertiles(made.grid, config.supertile, task.slots, task.most_side)
    count = len(made.grid.supertiles(side))
    pickled = dumps(_Plan(override, slide.reader.name, stamp, made, side))
    with output_errors(task.spool):
        if kept is None:
            shutil.rmtree(task.spool, ignore_errors=True)
        task.found(side).mkdir(parents=True, exist_ok=True)
    replace_file(task.spool / "plan", pickled)
    replace_file(task.spool / "plan.json", json.dumps({"key": task.key, "side": side}).encode())
    done = tuple(index for index in range(count) if kept and is_done(task.found(side), index))
    return Begun(hashlib.sha256(pickled).hexdigest(), side, made.grid.spec.core, count, done, clock.steps())


def predict(task: SlideTask, plan: str, indices: Sequence[int]) -> None:
    """Predict super-tiles into the spool; those that are done are left as they are."""
    made = _loaded(task.spool / "plan", plan)
    slide = _opened(task.entry.path, made)
    found = task.found(made.side)
    job = Job(slide, made.made.model, found, task.config.batch_size, quality_filter(task.config))
    grids = _parts(task.spool / "plan", plan)
    todo = [index for index in indices if not is_done(found, index)]
    parts = [(index, grids[index]) for index in todo]
    with closing(predict_supertiles(job, parts, side_by_side=len(parts) > 1)) as results:
        for index, result in zip(todo, results, strict=True):
            save_result(found, index, result)


def finish(task: SlideTask, plan: str) -> Record:
    """Merge the spools into the outputs; returns what the slide's record says of them, and removes the spool."""
    clock = Clock()
    made = _loaded(task.spool / "plan", plan)
    found = task.found(made.side)
    with open_slide(task.entry.path, made.mpp_override, made.reader) as slide:
        results = [load_result(found, index) for index in range(len(_parts(task.spool / "plan", plan)))]
        report = finish_run(
            slide,
            made.made,
            results,
            make_sinks(task.config, task.folder),
            slide_id=task.entry.slide_id,
            patient=task.entry.patient,
            spool=found,
            qc=quality_filter(task.config),
            overview=task.folder / OVERVIEW,
            regions=task.folder / REGIONS,
            clock=clock,
        )
        record = describe(slide, made.made.model, report)
    record["supertiles"] = {"side": made.side, "digests": digests(results)}
    shutil.rmtree(task.spool, ignore_errors=True)
    return record


@dataclass(frozen=True, slots=True)
class Again:
    """What some super-tiles of a slide give now."""

    model: str
    """Hash of the model as it is bound to the slide."""
    count: int
    """Super-tiles."""
    digests: dict[int, str]
    """Index of a super-tile -> digest, as in the slide's record; empty where ``count`` is not as expected."""
    boxes: dict[int, Box]
    """Index -> x0, y0, x1, y1 in level-0 pixels of what its windows cover."""


def predict_again(task: SlideTask, model: bytes, indices: Sequence[int], count: int) -> Again:
    """Predict some super-tiles of a slide afresh, into a folder of its own, and tell what they gave.

    Args:
        task: the slide, with the super-tiles' side in its configuration; its folder is not there yet.
        model: see ``begin``.
        indices: which super-tiles, of ``count``.
        count: how many there should be; where there are more or fewer, indices mean nothing and none is predicted.

    Raises what ``begin`` and ``predict`` do.
    """
    begun = begin(task, model)
    path = task.spool / "plan"
    made = _loaded(path, begun.plan)
    chosen = list(indices) if begun.count == count else []
    predict(task, begun.plan, chosen)
    grids, slide, found = _parts(path, begun.plan), _opened(task.entry.path, made), task.found(begun.side)
    return Again(
        model=digest(model_card(made.made.model)),
        count=begun.count,
        digests=dict(zip(chosen, digests(load_result(found, index) for index in chosen), strict=True)),
        boxes={index: grids[index].extent().level0(slide) for index in chosen},
    )


def _kept_side(task: SlideTask) -> int | None:
    """Side of the super-tiles of a spool that can be gone on with; None where there is none."""
    try:
        kept = json.loads((task.spool / "plan.json").read_text("utf-8"))
        fits = task.most_side is None or kept["side"] <= task.most_side
        return int(kept["side"]) if kept["key"] == task.key and fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4)
def _loaded(path: Path, sha256: str) -> _Plan:
    """A plan that this run has written. A worker keeps it, and what its model loads, from task to task."""
    with output_errors(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OutputError(f"{path} is not what this run wrote: does another run write to the folder?")
    plan: _Plan = loads_once(data)
    return plan


@lru_cache(maxsize=4)
def _parts(path: Path, sha256: str) -> list[TileGrid]:
    made = _loaded(path, sha256)
    return made.made.grid.supertiles(made.side)


def _opened(path: Path, made: _Plan) -> Slide:
    if _stamp(path) != made.stamp:
        raise SlideOpenError(f"{path.name} was replaced or written to while it was read", code="slide_changed")
    return _kept_open(path, made.mpp_override, made.reader, made.stamp)


@lru_cache(maxsize=4)
def _kept_open(path: Path, mpp_override: float | None, reader: str, _: tuple[int, int]) -> Slide:
    """A worker keeps its slides open from task to task; an evicted one closes when nobody uses it any more."""
    return open_slide(path, mpp_override, reader)
