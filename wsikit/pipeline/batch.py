"""Many slides through a model: one record each, whatever happens; running again does only what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wsikit.config import RunConfig, TissueConfig
from wsikit.errors import ConfigError, PluginError
from wsikit.pipeline.busy import Clock
from wsikit.pipeline.each import OVERVIEW, Advance, Observer, Silent, all_complete, clear, each_slide, refuse_foreign
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.model import load_model
from wsikit.pipeline.roi import check_roi, content_hash, drawn_tissue, limited_to_roi, roi_file
from wsikit.pipeline.run import default_tissue, refuse_idle, run
from wsikit.pipeline.schedule import workers as local_workers
from wsikit.pipeline.stamps import source_stamp
from wsikit.pipeline.state import (
    RESULT_VERSION,
    Record,
    describe,
    digest,
    is_settled,
    model_card,
    read_record,
    write_record,
)
from wsikit.pipeline.stopping import Stop
from wsikit.predictions import Model
from wsikit.quality import ANY_QUALITY, QualityFilter
from wsikit.sinks import SINKS, Sink, sink_class
from wsikit.slides import Slide, open_slide
from wsikit.tissue import TissueMask, find_tissue

__all__ = ["Observer", "Silent", "all_complete", "run_many"]

SPOOL = ".spool"


@dataclass(frozen=True, slots=True)
class _Predicting:
    """A model over slides."""

    config: RunConfig
    predictor: Model
    client: Any
    own: tuple[str, ...]

    def key(self, entry: SlideEntry) -> str:
        """See ``Work``."""
        return _key(entry, self.config, self.predictor)

    def do(self, entry: SlideEntry, folder: Path, base: Record, advance: Advance) -> Record:
        """Run a slide that can be run; only then does it touch what an earlier run left."""
        config, clock = self.config, Clock()
        with clock("open"):
            opened = open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate)
        with opened as slide:
            with clock("tissue"):
                mask = tissue_of(slide, entry, config)
            slide.resolve(self.predictor.tile.mpp)
            clear(folder, self.own)
            write_record(folder, base)
            report = run(
                slide,
                self.predictor,
                *make_sinks(config, folder),
                mask=mask,
                slide_id=entry.slide_id,
                client=self.client,
                batch_size=config.batch_size,
                supertile=config.supertile,
                qc=quality_filter(config),
                overview=folder / OVERVIEW,
                spool=folder / SPOOL,
                progress=advance,
            )
            return describe(slide, self.predictor, report) | {"seconds": dict(report.seconds) | clock.seconds()}


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

    Returns:
        The records (what slide.json holds), in the order of the entries; files that are part of another entry's slide
        have the status "skipped" and no slide.json.

    Raises:
        UnknownNameError: the model or an output format does not exist.
        ConfigError: a configuration that no slide could be run with.
        OutputError: the output folder cannot be written, would replace files that no run has written, or another run
            works in it (code busy).
        StoppedError: ``stop`` was set; what was done is kept, and the same call goes on.
    """
    out = Path(out)
    predictor = checked_model(entries, config)
    for entry in entries:
        refuse_foreign(out / entry.slide_id, _own_patterns())
    count = config.num_workers or os.cpu_count() or 1
    return each_slide(
        entries,
        out,
        config,
        _predicting(config, predictor, count),
        at_once=count,
        force=force,
        retry_failed=retry_failed,
        stop=stop,
        observer=observer,
        command=command,
    )


@contextmanager
def _predicting(config: RunConfig, predictor: Model, workers: int) -> Iterator[_Predicting]:
    with local_workers(workers, processes=True) as client:
        yield _Predicting(config, predictor, client, _own_patterns())


def checked_model(entries: Sequence[SlideEntry], config: RunConfig) -> Model:
    """The model of a run; raises what ``run_many`` does for a configuration that no slide could be run with."""
    sinks = {name: sink_class(name) for name in config.format}
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
    )


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


@cache
def _own_patterns() -> tuple[str, ...]:
    """What a run writes into a slide's folder: its own files and those of every sink, numbered parts included."""
    names = []
    for name in SINKS:
        # files of a package that is broken now are nobody's; whoever asks for its format is told
        with suppress(PluginError):
            names.append(sink_class(name).filename.partition("."))
    return ("slide.json", OVERVIEW, SPOOL, ".*.tmp", *(f"{stem}*.{suffix}" for stem, _, suffix in names))


def quality_filter(config: TissueConfig) -> QualityFilter:
    """Which patches are good enough. Raises ConfigError for what is no filter."""
    return ANY_QUALITY if config.qc is None else QualityFilter.parse(config.qc)


def make_sinks(config: RunConfig, folder: Path) -> list[Sink]:
    """The sinks that a configuration asks for, writing into a slide's folder."""
    options: dict[str, dict[str, Any]] = {"geojson.gz": {"split": config.split}, "omezarr": {"ngff": config.ngff}}
    made: list[Sink] = []
    for name in dict.fromkeys(config.format):
        sink = sink_class(name)
        made.append(sink(folder / sink.filename, **options.get(name, {})))
    return made


def tissue_of(slide: Slide, entry: SlideEntry, config: TissueConfig) -> TissueMask:
    """Where to look on a slide: the manifest's mask, or what the configuration says; inside the region of interest."""
    roi = roi_file(entry, config)
    if entry.mask_path is not None:
        mask = drawn_tissue(entry.mask_path, slide, config)
    elif config.tissue == "whole":
        mask = TissueMask.whole(slide)
    else:
        mask = find_tissue(slide) if config.tissue == "detect" else default_tissue(slide)
    return mask if roi is None else limited_to_roi(mask, roi, slide, config)
