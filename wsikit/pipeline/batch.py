"""Many slides through a model: one record each, whatever happens; running again does only what is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from wsikit.atomic import remove
from wsikit.config import RunConfig
from wsikit.errors import ConfigError, PluginError, WorkerError
from wsikit.pipeline.busy import Clock
from wsikit.pipeline.each import (
    HIDDEN,
    OVERVIEW,
    Advance,
    Observer,
    Silent,
    all_complete,
    clear,
    each_slide,
    refuse_foreign,
)
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.memory import Promise
from wsikit.pipeline.model import load_model
from wsikit.pipeline.probe import promised
from wsikit.pipeline.provenance import given
from wsikit.pipeline.regions import REGIONS
from wsikit.pipeline.roi import check_roi, content_hash, roi_file
from wsikit.pipeline.run import refuse_idle
from wsikit.pipeline.settings import quality_filter
from wsikit.pipeline.stages import SPOOL, Begun, SlideTask, begin, finish, predict
from wsikit.pipeline.stamps import source_stamp
from wsikit.pipeline.state import (
    RESULT_VERSION,
    Record,
    digest,
    is_settled,
    model_card,
    read_record,
    write_record,
)
from wsikit.pipeline.stopping import Stop
from wsikit.pipeline.workers import Workers, bounded
from wsikit.pipeline.workers.opening import open_workers
from wsikit.predictions import Model
from wsikit.predictors.files import dumps
from wsikit.sinks import SINKS, part_names, sink_class

__all__ = ["Observer", "Silent", "all_complete", "run_many"]

SIDE_BY_SIDE = 4
"""Super-tiles in a task of a worker that shares the slide with no other."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Predicting:
    """A model over slides."""

    config: RunConfig
    predictor: Model
    pickled: bytes
    """The same for workers."""
    workers: Workers
    promise: Promise | None = None
    """Sizes that keep memory below a limit, where there is one."""

    @property
    def own(self) -> Sequence[str]:
        """See ``Work``."""
        return own_names()

    def key(self, entry: SlideEntry) -> str:
        """See ``Work``."""
        return _key(entry, self.config, self.predictor)

    def do(self, entry: SlideEntry, folder: Path, base: Record, advance: Advance) -> Record:
        """Run a slide that can be run; only then does it touch what an earlier run left.

        Where memory ran out it is tried once more with super-tiles of half the side, or the smallest.
        """
        task = SlideTask(entry, folder.absolute(), self.config, base["key"], self.workers.slots, self._most_side)
        begun = self._done(begin, task, self.pickled)
        try:
            return self._attempt(task, begun, base, advance)
        except WorkerError as error:
            if error.code != "worker_memory":
                raise
        # also where they can be no smaller: somebody else may have taken the memory, or killed the worker
        side = max(begun.side // 2, begun.core)
        smaller = replace(task, config=self.config.model_copy(update={"supertile": side}))
        remove(task.spool)
        return self._attempt(smaller, self._done(begin, smaller, self.pickled), base, advance)

    def stop(self) -> None:
        """See ``Work``."""
        self.workers.stop()

    def _attempt(self, task: SlideTask, begun: Begun, base: Record, advance: Advance) -> Record:
        clear(task.folder, _outputs())
        write_record(task.folder, base)
        clock = Clock()
        with clock("predict"):
            self._predict(task, begun, advance)
        record = self._done(finish, task, begun.plan)
        seconds = begun.seconds | clock.steps() | record["seconds"]
        total = sum(seconds.values()) - record["seconds"]["total"]
        record["seconds"] = {name: round(value, 3) for name, value in (seconds | {"total": total}).items()}
        return record | ({"predicted_mb": self.promise.workers_mb} if self.promise else {})

    def _predict(self, task: SlideTask, begun: Begun, advance: Advance) -> None:
        """All super-tiles that are not done; one whose worker crashed is tried once more."""
        done = len(begun.done)
        advance(done, begun.count)
        left = sorted(set(range(begun.count)).difference(begun.done))
        groups = [tuple(left[i : i + self._group]) for i in range(0, len(left), self._group)]
        again: list[tuple[int, ...]] = []
        for tried in (groups, again):
            work = partial(predict, task, begun.plan)
            with closing(bounded(self.workers, work, tried, gpu=True, seconds=self._limit)) as results:
                for group, future in results:
                    if _crashed(future) and tried is groups:
                        again.append(group)
                        continue
                    future.result()
                    done += len(group)
                    advance(done, begun.count)

    @property
    def _group(self) -> int:
        """Super-tiles in a task: several are read, predicted and spooled side by side where a worker has no others."""
        if self.promise:
            return SIDE_BY_SIDE if self.promise.sizes.side_by_side else 1
        return SIDE_BY_SIDE if self.workers.slots == 1 or self.config.gpus else 1

    @property
    def _most_side(self) -> int | None:
        return self.promise.sizes.side if self.promise else None

    @property
    def _limit(self) -> float:
        return self.config.task_timeout * self._group

    def _done(self, function: Callable[..., Result], *args: Any) -> Result:
        """The result of one task; it is tried once more where its worker crashed."""
        limit = None if function is finish else self.config.task_timeout
        future = self.workers.submit(function, *args, seconds=limit)
        if _crashed(future):
            future = self.workers.submit(function, *args, seconds=limit)
        return future.result()


def _crashed(future: Future[Any]) -> bool:
    """Waits for the end of a task; whether its worker crashed, which may have been another's fault."""
    error = future.exception()
    return isinstance(error, WorkerError) and error.code == "worker_crash"


def run_many(
    entries: Sequence[SlideEntry],
    out: str | Path,
    config: RunConfig,
    *,
    force: bool = False,
    retry_failed: bool = False,
    stop: Stop | None = None,
    observer: Observer | None = None,
    command: str = "",
    source: str = "",
) -> list[Record]:
    """Run a model over many slides and leave one folder per slide, run.yaml, summary.csv and report.html.

    A slide that fails costs only itself: its record says why, the others go on. A slide whose record shows that it is
    done with the same parameters, file and version is kept as it is.

    Args:
        entries: from ``find_slides``.
        out: the output folder, made if it is not there.
        config: the run's configuration.
        force: redo slides that are done.
        retry_failed: redo slides that failed, also where the slide itself was the reason.
        stop: whoever sets it ends the run.
        observer: told what happens.
        command: the command line, for run.yaml and the report.
        source: what ``find_slides`` was given, for run.yaml.

    Returns:
        The records (what slide.json holds), in the order of the entries; files that are part of another entry's slide
        have the status "skipped" and no slide.json.

    Raises:
        UnknownNameError: the model or an output format does not exist.
        ConfigError: a configuration that no slide could be run with; code no_memory where max_memory is too little.
        OutputError: the output folder cannot be written, would replace files that no run has written, or another run
            works in it (code busy).
        StoppedError: ``stop`` was set; what was done is kept, and the same call goes on.
    """
    out = Path(out)
    predictor = checked_model(entries, config)
    for entry in entries:
        refuse_foreign(out / entry.slide_id, own_names())
    promise = promise_for(entries, out, config, predictor, force=force, retry_failed=retry_failed)
    count = promise.sizes.workers if promise else _workers(config)
    if promise and observer:
        observer.notice(str(promise))
    told = given(source) | {"model": {"name": predictor.name, "hash": digest(model_card(predictor))}}
    return each_slide(
        entries,
        out,
        config,
        _predicting(config, predictor, count, out, promise),
        at_once=count,
        force=force,
        retry_failed=retry_failed,
        stop=stop,
        observer=observer,
        command=command,
        told=told | ({"memory": promise.facts()} if promise else {}),
    )


@contextmanager
def _predicting(
    config: RunConfig, predictor: Model, slots: int, out: Path, promise: Promise | None
) -> Iterator[_Predicting]:
    # without a prediction the workers and this process share what is allowed
    memory = promise.worker_limit if promise else config.max_memory and config.max_memory // (slots + 1)
    with open_workers(
        config.cluster, slots=slots, gpus=config.gpus, memory=memory, options=config.cluster_options, probe=out
    ) as workers:
        yield _Predicting(config, predictor, dumps(predictor), workers, promise)


def _workers(config: RunConfig) -> int:
    return config.num_workers or os.cpu_count() or 1


def promise_for(
    entries: Sequence[SlideEntry],
    out: Path,
    config: RunConfig,
    predictor: Model,
    *,
    force: bool = False,
    retry_failed: bool = False,
) -> Promise | None:
    """Sizes for the slides that a run would work on; see ``promised``."""
    if config.max_memory is None:
        return None
    done = partial(is_done, out=out, config=config, predictor=predictor, retry_failed=retry_failed)
    todo = [entry for entry in entries if entry.part_of is None and (force or not done(entry))]
    return promised(todo, config, predictor, _workers(config))


def checked_model(entries: Sequence[SlideEntry], config: RunConfig) -> Model:
    """The model of a run; raises what ``run_many`` does for a configuration that no slide could be run with."""
    sinks = {name: sink_class(name) for name in config.format}
    for sink in sinks.values():
        getattr(sink, "check_installed", lambda: None)()
    predictor = load_model(config)
    quality_filter(config)
    refuse_idle(predictor, ((name, sink.takes) for name, sink in sinks.items()))
    check_roi(entries, config)
    return predictor


def _key(entry: SlideEntry, config: RunConfig, predictor: Model) -> str:
    """Changes with anything that could change a slide's results."""
    return digest(
        {
            "parameters": config.result_parameters(),
            "model": model_card(predictor),
            "mpp_override": entry.mpp or config.mpp_override,
            "mask": content_hash(entry.mask_path),
            "roi": [entry.roi_path is not None or config.roi is not None, content_hash(_roi_or_none(entry, config))],
            "source": source_stamp(entry.path, entry.parts),
            "result_version": RESULT_VERSION,
        }
        | ({"patient": entry.patient} if any(_names_patient(name) for name in config.format) else {})
    )


def _names_patient(format_: str) -> bool:
    return getattr(sink_class(format_), "names_patient", False)


def _roi_or_none(entry: SlideEntry, config: RunConfig) -> Path | None:
    """The slide's region of interest; a slide that should have one and has none fails when it is run."""
    try:
        return roi_file(entry, config)
    except ConfigError:
        return None


def is_done(entry: SlideEntry, out: Path, config: RunConfig, predictor: Model, *, retry_failed: bool = False) -> bool:
    """Whether a run with these parameters would keep what it finds of a slide."""
    folder = out / entry.slide_id
    return is_settled(read_record(folder), _key(entry, config, predictor), folder, retry_failed=retry_failed)


def own_names() -> tuple[str, ...]:
    """What a run writes into a slide's folder: see ``Work.own``."""
    return (*_outputs(), re.escape(SPOOL))


@cache
def _outputs() -> tuple[str, ...]:
    """The same without what super-tiles left: its own files and those of every sink, numbered parts included.

    Of other files whose names begin like these, a user's objects-corrected.geojson.gz, none is the run's.
    """
    names = [re.escape(name) for name in ("slide.json", OVERVIEW, REGIONS)]
    for name in SINKS:
        # files of a package that is broken now are nobody's; whoever asks for its format is told
        with suppress(PluginError):
            stem, dot, suffix = sink_class(name).filename.partition(".")
            names += [re.escape(stem + dot + suffix), part_names(stem, dot + suffix)]
    return (*names, HIDDEN)
