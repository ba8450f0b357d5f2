"""Each slide to its record, whatever happens to it; running again does only what is missing."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import BaseModel

from wsikit.atomic import output_errors, replace_file
from wsikit.errors import OutputError, SlideOpenError, WsikitError
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.report import write_reports
from wsikit.pipeline.report.folder import PROVENANCE, skipped
from wsikit.pipeline.state import (
    SCHEMA,
    Record,
    failure,
    is_settled,
    read_record,
    source_stamp,
    versions,
    write_record,
)

OVERVIEW = "overview.png"
OTHERS = ("tissue.geojson", "tissue.png", "tissue-overview.png")
"""What other verbs write into a slide's folder; a run leaves it alone."""
Advance = Callable[[int, int], None]
"""Called with (parts of a slide done, parts in all)."""


class Observer(Protocol):
    """Told what happens, from several threads."""

    def started(self, entry: SlideEntry) -> None:
        """Work on a slide begins."""
        ...

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        """Some of its parts (super-tiles, patches) are done."""
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


class Work(Protocol):
    """What is done to every slide of a run."""

    @property
    def own(self) -> Sequence[str]:
        """Patterns of the names that it writes into a slide's folder, beside slide.json."""
        ...

    def key(self, entry: SlideEntry) -> str:
        """Changes with anything that could change the slide's results."""
        ...

    def do(self, entry: SlideEntry, folder: Path, base: Record, advance: Advance) -> Record:
        """Do it, and return what the record says beyond ``base``. May raise anything: the slide has failed then.

        What an earlier run left is removed with ``clear`` when it is sure that the slide can be used, not before.
        """
        ...

    def stop(self) -> None:
        """Let what goes on end at once: ``do`` raises CancelledError, or anything, soon after."""
        ...


@dataclass(frozen=True, slots=True)
class _Run:
    """What all slides of a run share."""

    out: Path
    work: Work
    force: bool
    observer: Observer
    interrupted: threading.Event = field(default_factory=threading.Event)

    def advance(self, entry: SlideEntry, done: int, total: int) -> None:
        """Pass on that parts are done, or stop here."""
        if self.interrupted.is_set():
            raise _InterruptedSlide
        self.observer.progress(entry, done, total)


def each_slide(
    entries: Sequence[SlideEntry],
    out: Path,
    config: BaseModel,
    working: AbstractContextManager[Work],
    *,
    at_once: int,
    force: bool = False,
    observer: Observer | None = None,
    command: str = "",
) -> list[Record]:
    """Do a piece of work to many slides and leave one folder per slide, run.yaml, summary.csv and report.html.

    A slide that fails costs only itself: its record says why, the others go on. A slide whose record shows that it is
    done with the same key is kept as it is.

    Args:
        entries: from ``find_slides``.
        out: the output folder, made if it is not there.
        config: written into run.yaml.
        working: gives the work; entered once for the run.
        at_once: how many slides are worked on at a time, in threads of this process.
        force: redo slides that are done.
        observer: told what happens.
        command: the command line, for run.yaml and the report.

    Returns:
        The records (what slide.json holds), in the order of the entries; files that are part of another entry's slide
        have the status "skipped" and no slide.json.

    Raises:
        OutputError: the output folder cannot be written.
    """
    clock, provenance = time.perf_counter(), _provenance(entries, command)
    _write_run_yaml(out, config, provenance)
    with working as work, ThreadPoolExecutor(max(1, min(at_once, len(entries)))) as pool:
        run = _Run(out, work, force, observer or Silent())
        slides = [entry for entry in entries if entry.part_of is None]
        outcomes = dict(zip(slides, _all_slides(run, pool, slides), strict=True))
        # a crash also counts against tasks of other slides that waited for the same worker: only alone is guilt certain
        for entry in [entry for entry, record in outcomes.items() if record.get("reason") == "worker_lost"]:
            outcomes[entry] = _slide(run, entry)
    ended = {"seconds": round(time.perf_counter() - clock, 3), "unrecorded": _unrecorded(out, outcomes.values())}
    _write_run_yaml(out, config, provenance | ended)
    write_reports(out)
    return [
        outcomes[entry] if entry in outcomes else skipped(entry.slide_id, str(entry.path), entry.part_of or "")
        for entry in entries
    ]


def _all_slides(run: _Run, pool: ThreadPoolExecutor, entries: Sequence[SlideEntry]) -> list[Record]:
    try:
        return list(pool.map(partial(_slide, run), entries))
    except BaseException:
        # the pool waits for slides that are running: let them stop at their next part, not at their end
        run.interrupted.set()
        run.work.stop()
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


def _write_run_yaml(out: Path, config: BaseModel, provenance: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder {out} cannot be made: {error.strerror}", remedy="choose another folder with -o"
        ) from error
    values = config.model_dump(mode="json") | {PROVENANCE: provenance}
    replace_file(out / "run.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def _slide(run: _Run, entry: SlideEntry) -> Record:
    """One slide to its record; nothing but an interrupt gets out of here."""
    folder = run.out / entry.slide_id
    key = run.work.key(entry)
    record = read_record(folder)
    if record is not None and not run.force and is_settled(record, key, folder):
        run.observer.finished(entry, record, kept=True)
        return record
    run.observer.started(entry)
    record = _attempt(run, entry, folder, key)
    run.observer.finished(entry, record, kept=False)
    return record


def _attempt(run: _Run, entry: SlideEntry, folder: Path, key: str) -> Record:
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
        record = base | run.work.do(entry, folder, base, partial(run.advance, entry))
        _refuse_changed(entry.path, base["source"])
    except Exception as error:  # one slide must not hurt another; the record says what happened
        if run.interrupted.is_set():
            raise _InterruptedSlide from error
        record = base | _explained(error, entry.path, base["source"])
        record["seconds"] = {"total": round(time.perf_counter() - clock, 3)}
        if (read_record(folder) or base)["status"] in {"complete", "partial"}:
            # it failed before anything was touched
            return record | {"message": f"{record['message']} (results of an earlier run are kept as they were)"}
        # a failed slide shows no results: some outputs may have been finished before another one failed
        with suppress(OSError):
            _remove_own(folder, run.work.own)
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


def refuse_foreign(folder: Path, own: Sequence[str]) -> None:
    """Keep away from a folder that no run has made: its files are about to be replaced. Raises OutputError."""
    if not folder.is_dir() or (folder / "slide.json").exists():
        return
    foreign = sorted(
        path.name for path in folder.iterdir() if not _is_own(path, own) and path.name not in ("slide.json", *OTHERS)
    )
    if foreign:
        raise OutputError(
            f"{folder} would be replaced by a slide's results, and holds {foreign[0]!r}, which no run has written",
            code="foreign_files",
            remedy="choose another output folder with -o",
        )


def _is_own(path: Path, own: Sequence[str]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in own)


def _remove_own(folder: Path, own: Sequence[str]) -> None:
    """Remove what a run writes, but for the record."""
    for path in folder.iterdir():
        if path.name != "slide.json" and _is_own(path, own):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def clear(folder: Path, own: Sequence[str]) -> None:
    """Remove what an earlier attempt left, so that outputs of different parameters never stand side by side."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the record goes last: it says that the rest is ours
        _remove_own(folder, own)
        (folder / "slide.json").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def all_complete(records: Sequence[Record]) -> bool:
    """Whether every slide ended complete: exit code 0 rather than 3. A skipped file is part of another slide."""
    return all(record.get("status") in {"complete", "skipped"} for record in records)
