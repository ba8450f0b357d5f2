"""Many slides: one record each, whatever happens; running again does only what is missing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import yaml

from wsikit.atomic import output_errors, replace_file
from wsikit.config import RunConfig
from wsikit.errors import ConfigError, OutputError, PluginError, SlideOpenError, WsikitError
from wsikit.pipeline.busy import Clock
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.model import load_model
from wsikit.pipeline.report import write_reports
from wsikit.pipeline.report.folder import PROVENANCE, skipped
from wsikit.pipeline.roi import check_roi, content_hash, drawn_tissue, limited_to_roi, roi_file
from wsikit.pipeline.run import default_tissue, refuse_idle, run
from wsikit.pipeline.schedule import workers as local_workers
from wsikit.pipeline.state import (
    RESULT_VERSION,
    SCHEMA,
    Record,
    describe,
    digest,
    failure,
    is_settled,
    model_card,
    read_record,
    source_stamp,
    versions,
    write_record,
)
from wsikit.predictions import Model
from wsikit.quality import ANY_QUALITY, QualityFilter
from wsikit.sinks import SINKS, Sink, sink_class
from wsikit.slides import Slide, open_slide
from wsikit.tissue import TissueMask, find_tissue

SPOOL = ".spool"
OVERVIEW = "overview.png"
OTHERS = ("tissue.geojson", "tissue.png", "tissue-overview.png")
"""What other verbs write into a slide's folder; a run leaves it alone."""


class Observer(Protocol):
    """Told what happens, from several threads."""

    def started(self, entry: SlideEntry) -> None:
        """Work on a slide begins."""
        ...

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        """Some of its super-tiles are done."""
        ...

    def finished(self, entry: SlideEntry, record: Record, *, kept: bool) -> None:
        """A slide has its outcome; ``kept`` when it is an earlier run's."""
        ...


class Silent:
    """An observer that says nothing."""

    def started(self, entry: SlideEntry) -> None:
        """Nothing."""

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, entry: SlideEntry, record: Record, *, kept: bool) -> None:
        """Nothing."""


class _InterruptedSlide(BaseException):
    """Ends the work on a slide, whose record goes on saying that it is running; no error of the slide's."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What all slides of a run share."""

    out: Path
    config: RunConfig
    predictor: Model
    force: bool
    observer: Observer
    client: Any
    interrupted: threading.Event = field(default_factory=threading.Event)

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        """Pass on that super-tiles are done, or stop here."""
        if self.interrupted.is_set():
            raise _InterruptedSlide
        self.observer.progress(entry, done, total)


def run_many(
    entries: Sequence[SlideEntry],
    out: str | Path,
    config: RunConfig,
    *,
    force: bool = False,
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
        observer: told what happens.
        command: the command line, for run.yaml and the report.

    Returns:
        The records (what slide.json holds), in the order of the entries; files that are part of another entry's slide
        have the status "skipped" and no slide.json.

    Raises:
        UnknownNameError: the model or an output format does not exist.
        ConfigError: a configuration that no slide could be run with.
        OutputError: the output folder cannot be written, or would replace files that no run has written.
    """
    out = Path(out)
    predictor = checked_model(entries, config)
    for entry in entries:
        _refuse_foreign(out / entry.slide_id)
    clock, provenance = time.perf_counter(), _provenance(entries, command)
    _write_run_yaml(out, config, provenance)
    count = config.num_workers or os.cpu_count() or 1
    with local_workers(count, processes=True) as client, ThreadPoolExecutor(min(count, len(entries) or 1)) as pool:
        shared = _Run(out, config, predictor, force, observer or Silent(), client)
        slides = [entry for entry in entries if entry.part_of is None]
        outcomes = dict(zip(slides, _all_slides(shared, pool, slides), strict=True))
        # a crash also counts against tasks of other slides that waited for the same worker: only alone is guilt certain
        for entry in [entry for entry, record in outcomes.items() if record.get("reason") == "worker_lost"]:
            outcomes[entry] = _slide(shared, entry)
    ended = {"seconds": round(time.perf_counter() - clock, 3), "unrecorded": _unrecorded(out, outcomes.values())}
    _write_run_yaml(out, config, provenance | ended)
    write_reports(out)
    return [
        outcomes[entry] if entry in outcomes else skipped(entry.slide_id, str(entry.path), entry.part_of or "")
        for entry in entries
    ]


def checked_model(entries: Sequence[SlideEntry], config: RunConfig) -> Model:
    """The model of a run; raises what ``run_many`` does for a configuration that no slide could be run with."""
    sinks = {name: sink_class(name) for name in config.format}
    predictor = load_model(config)
    quality_filter(config)
    refuse_idle(predictor, ((name, sink.takes) for name, sink in sinks.items()))
    check_roi(entries, config)
    return predictor


def _all_slides(shared: _Run, pool: ThreadPoolExecutor, entries: Sequence[SlideEntry]) -> list[Record]:
    try:
        return list(pool.map(partial(_slide, shared), entries))
    except BaseException:
        # the pool waits for slides that are running: let them stop at the next super-tile, not at their end
        shared.interrupted.set()
        raise


def _provenance(entries: Sequence[SlideEntry], command: str) -> dict[str, Any]:
    """What run.yaml says of the run beyond its configuration: enough to build its report again."""
    return {
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "slides": {entry.slide_id: str(entry.path) for entry in entries},
        "part_of": {entry.slide_id: entry.part_of for entry in entries if entry.part_of is not None},
    }


def _unrecorded(out: Path, records: Iterable[Record]) -> list[Record]:
    """Outcomes that no slide.json tells, because it could not be written or still tells of results that were kept."""
    keys = ("slide_id", "path", "patient", "status", "reason", "message", "remedy", "seconds")
    return [
        {key: record[key] for key in keys if key in record}
        for record in records
        if read_record(out / record["slide_id"]) != record
    ]


def _write_run_yaml(out: Path, config: RunConfig, provenance: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder {out} cannot be made: {error.strerror}", remedy="choose another folder with -o"
        ) from error
    values = config.model_dump(mode="json") | {PROVENANCE: provenance}
    replace_file(out / "run.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def _slide(shared: _Run, entry: SlideEntry) -> Record:
    """One slide to its record; nothing but an interrupt gets out of here."""
    folder = shared.out / entry.slide_id
    key = _key(entry, shared.config, shared.predictor)
    record = read_record(folder)
    if record is not None and not shared.force and is_settled(record, key, folder):
        shared.observer.finished(entry, record, kept=True)
        return record
    shared.observer.started(entry)
    record = _attempt(shared, entry, folder, key)
    shared.observer.finished(entry, record, kept=False)
    return record


def _key(entry: SlideEntry, config: RunConfig, predictor: Model) -> str:
    """Changes with anything that could change a slide's results."""
    return digest(
        {
            "parameters": config.result_parameters(),
            "model": model_card(predictor),
            "mpp_override": entry.mpp or config.mpp_override,
            "mask": content_hash(entry.mask_path),
            "roi": [entry.roi_path is not None or config.roi is not None, content_hash(_roi_or_none(entry, config))],
            "source": source_stamp(entry.path),
            "result_version": RESULT_VERSION,
        }
    )


def _roi_or_none(entry: SlideEntry, config: RunConfig) -> Path | None:
    """The slide's region of interest; a slide that should have one and has none fails when it is run."""
    try:
        return roi_file(entry, config)
    except ConfigError:
        return None


def is_done(entry: SlideEntry, out: Path, config: RunConfig, predictor: Model) -> bool:
    """Whether a run with these parameters would keep what it finds of a slide."""
    folder = out / entry.slide_id
    return is_settled(read_record(folder), _key(entry, config, predictor), folder)


def _attempt(shared: _Run, entry: SlideEntry, folder: Path, key: str) -> Record:
    base: Record = {
        "schema": SCHEMA,
        "slide_id": entry.slide_id,
        "path": str(entry.path),
        "patient": entry.patient,
        "status": "running",
        "reason": "",
        "message": "",
        "remedy": "",
        "key": key,
        "source": source_stamp(entry.path),
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    clock = time.perf_counter()
    try:
        record = base | _run_one(shared, entry, folder, base)
        _refuse_changed(entry.path, base["source"])
    except Exception as error:  # noqa: BLE001  # one slide must not hurt another; the record says what happened
        record = base | _explained(error, entry.path, base["source"])
        record["seconds"] = {"total": round(time.perf_counter() - clock, 3)}
        if (read_record(folder) or base)["status"] in {"complete", "partial"}:
            # it failed before anything was touched
            return record | {"message": f"{record['message']} (results of an earlier run are kept as they were)"}
        _discard_outputs(folder)
    record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return write_record(folder, record)
    except WsikitError as error:
        return record | failure(error)


def _refuse_changed(path: Path, stamp: dict[str, int] | None) -> None:
    """Raise SlideOpenError(slide_changed) where the file is not the one that the run began with."""
    if source_stamp(path) != stamp:
        raise SlideOpenError(
            f"{path.name} was replaced, removed or written to while it was read",
            code="slide_changed",
            remedy="wait until the file is complete, then run again",
        )


def _explained(error: Exception, path: Path, stamp: dict[str, int] | None) -> Record:
    """Why a slide failed: what its file underwent during the run explains most errors that follow from it."""
    try:
        _refuse_changed(path, stamp)
    except SlideOpenError as changed:
        return failure(changed)
    return failure(error)


def _discard_outputs(folder: Path) -> None:
    """A failed slide shows no results: some outputs may have been finished before another one failed."""
    with suppress(OSError):
        _remove_own(folder)


def _refuse_foreign(folder: Path) -> None:
    """Keep away from a folder that no run has made: its files are about to be replaced."""
    if not folder.is_dir() or (folder / "slide.json").exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not _is_own(path) and path.name not in OTHERS)
    if foreign:
        raise OutputError(
            f"{folder} would be replaced by a slide's results, and holds {foreign[0]!r}, which no run has written",
            code="foreign_files",
            remedy="choose another output folder with -o",
        )


@cache
def _own_patterns() -> tuple[str, ...]:
    """What a run writes into a slide's folder: its own files and those of every sink, numbered parts included."""
    names = []
    for name in SINKS:
        # files of a package that is broken now are nobody's; whoever asks for its format is told
        with suppress(PluginError):
            names.append(sink_class(name).filename.partition("."))
    return ("slide.json", OVERVIEW, SPOOL, ".*.tmp", *(f"{stem}*.{suffix}" for stem, _, suffix in names))


def _is_own(path: Path) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in _own_patterns())


def _remove_own(folder: Path) -> None:
    """Remove what a run writes, but for the record."""
    for path in filter(_is_own, folder.iterdir()):
        if path.name != "slide.json":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left, so that outputs of different parameters never stand side by side."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the record goes last: it says that the rest is ours
        _remove_own(folder)
        (folder / "slide.json").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def _run_one(shared: _Run, entry: SlideEntry, folder: Path, base: Record) -> Record:
    """Run a slide that can be run; only then does it touch what an earlier run left."""
    config, clock = shared.config, Clock()
    with clock("open"):
        opened = open_slide(entry.path, entry.mpp or config.mpp_override)
    with opened as slide:
        with clock("tissue"):
            mask = tissue_of(slide, entry, config)
        slide.resolve(shared.predictor.tile.mpp)
        _clear(folder)
        write_record(folder, base)
        report = run(
            slide,
            shared.predictor,
            *make_sinks(config, folder),
            mask=mask,
            slide_id=entry.slide_id,
            client=shared.client,
            batch_size=config.batch_size,
            supertile=config.supertile,
            qc=quality_filter(config),
            overview=folder / OVERVIEW,
            spool=folder / SPOOL,
            progress=partial(shared.progress, entry),
        )
        return describe(slide, shared.predictor, report) | {"seconds": dict(report.seconds) | clock.seconds()}


def quality_filter(config: RunConfig) -> QualityFilter:
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


def tissue_of(slide: Slide, entry: SlideEntry, config: RunConfig) -> TissueMask:
    """Where to look on a slide: the manifest's mask, or what the configuration says; inside the region of interest."""
    roi = roi_file(entry, config)
    if entry.mask_path is not None:
        mask = drawn_tissue(entry.mask_path, slide, config)
    elif config.tissue == "whole":
        mask = TissueMask.whole(slide)
    else:
        mask = find_tissue(slide) if config.tissue == "detect" else default_tissue(slide)
    return mask if roi is None else limited_to_roi(mask, roi, slide, config)


def all_complete(records: Sequence[Record]) -> bool:
    """Whether every slide ended complete: exit code 0 rather than 3. A skipped file is part of another slide."""
    return all(record.get("status") in {"complete", "skipped"} for record in records)
