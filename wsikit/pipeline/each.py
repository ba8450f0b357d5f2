"""Each slide to its record, whatever happens to it; running again does only what is missing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wsikit.atomic import output_errors
from wsikit.config import TissueConfig
from wsikit.errors import OutputError, SlideOpenError, WsikitError
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.lease import NAME, Lease, busy, find
from wsikit.pipeline.provenance import absolute, now, provenance, unrecorded, write_run_yaml
from wsikit.pipeline.report import write_reports
from wsikit.pipeline.report.folder import skipped
from wsikit.pipeline.stamps import output_facts, source_stamp
from wsikit.pipeline.state import (
    SCHEMA,
    Record,
    failure,
    has_results,
    is_settled,
    read_record,
    versions,
    write_record,
)
from wsikit.pipeline.stopping import Stop, Stopping

OVERVIEW = "overview.png"
OTHERS = ("tissue.geojson", "tissue.png", "tissue-overview.png")
"""What other verbs write into a slide's folder; a run leaves it alone."""
HIDDEN = r"\..*\.tmp"
"""Regular expression of the names of what is being written: see ``atomic.temporary``."""
Advance = Callable[[int, int], None]
"""Called with (parts of a slide done, parts in all)."""
WAKE_S = 0.5
"""Seconds that a signal may wait for its handler."""
PROGRESS_S = 5.0
"""Seconds between two notes of a slide's progress in its record: each takes a flush to disk."""


class Observer(Protocol):
    """Told what happens, from several threads."""

    def notice(self, text: str) -> None:
        """Something of the run as a whole that the user should know."""
        ...

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

    def notice(self, text: str) -> None:
        """Nothing."""

    def started(self, entry: SlideEntry) -> None:
        """Nothing."""

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, entry: SlideEntry, record: Record, *, kept: bool) -> None:
        """Nothing."""


class Work(Protocol):
    """What is done to every slide of a run."""

    @property
    def own(self) -> Sequence[str]:
        """Regular expressions of the names that it writes into a slide's folder, beside slide.json."""
        ...

    def key(self, entry: SlideEntry) -> str:
        """Changes with anything that could change the slide's results."""
        ...

    def do(self, entry: SlideEntry, folder: Path, base: Record, advance: Advance) -> Record:
        """Do it, and return what the record says beyond ``base``. May raise anything: the slide has failed then.

        ``outputs`` has the names of what was written, relative to the folder; ``seconds`` has a total. What ``advance``
        raises goes through: the run ends, and the slide with it.

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
    retry_failed: bool
    observer: Observer
    stop: Stop
    lease: Lease
    outcomes: dict[SlideEntry, Record] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ``Stopping`` where the run is to end, or has lost its folder."""
        self.lease.check()
        self.stop.check()


@dataclass(slots=True)
class _Advance:
    """Told that parts of a slide are done: passes it on, writes it down now and then, or ends the work."""

    run: _Run
    entry: SlideEntry
    base: Record
    written: float = field(default_factory=time.monotonic)

    def __call__(self, done: int, total: int) -> None:
        self.run.check()
        self.run.observer.progress(self.entry, done, total)
        if time.monotonic() - self.written >= PROGRESS_S:
            write_record(self.run.out / self.entry.slide_id, self.base | {"progress": {"done": done, "total": total}})
            self.written = time.monotonic()


def each_slide(
    entries: Sequence[SlideEntry],
    out: Path,
    config: TissueConfig,
    working: AbstractContextManager[Work],
    *,
    at_once: int,
    force: bool = False,
    retry_failed: bool = False,
    stop: Stop | None = None,
    observer: Observer | None = None,
    command: str = "",
    told: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Do a piece of work to many slides and leave one folder per slide, run.yaml, summary.csv and report.html.

    A slide that fails costs only itself: its record says why, the others go on. A slide whose record shows that it is
    done with the same key is kept as it is. No other run can work in ``out`` meanwhile.

    Args:
        entries: from ``find_slides``.
        out: the output folder, made if it is not there.
        config: written into run.yaml.
        working: gives the work; entered once for the run.
        at_once: how many slides are worked on at a time, in threads of this process.
        force: redo slides that are done.
        retry_failed: redo slides that failed, also where the slide itself was the reason.
        stop: whoever sets it ends the run.
        observer: told what happens.
        command: the command line, for run.yaml and the report.
        told: what else the caller has to say in run.yaml: ``input`` as it was given, ``model``.

    Returns:
        The records (what slide.json holds), in the order of the entries; files that are part of another entry's slide
        have the status "skipped" and no slide.json.

    Raises:
        OutputError: the output folder cannot be written; code busy where another run works in it.
        StoppedError: ``stop`` was set; what was done is kept, and the same call goes on.
    """
    clock, stop, observer = time.perf_counter(), stop or Stop(), observer or Silent()
    _make(out)
    with Lease(out, command, stop) as lease:
        if lease.taken_over:
            observer.notice(f"the run of {lease.taken_over.holder} in {out} is dead: its place is taken")
        told = provenance(entries, lease, config, told or {})
        write_run_yaml(out, config, told)
        slides = [entry for entry in entries if entry.part_of is None]
        outcomes: dict[SlideEntry, Record] = {}
        try:
            with working as work, ThreadPoolExecutor(max(1, min(at_once, len(entries)))) as pool:
                stop.on_stop(work.stop)
                _all_slides(_Run(out, work, force, retry_failed, observer, stop, lease, outcomes), pool, slides)
        except Stopping:
            if stop.reason != "lease_lost":
                _close(out, config, {**told, "stopped": stop.reason}, outcomes.values())
            raise stop.error() from None
        _close(out, config, {**told, "seconds": round(time.perf_counter() - clock, 3)}, outcomes.values())
    return [
        outcomes[entry] if entry in outcomes else skipped(entry.slide_id, absolute(entry.path), entry.part_of or "")
        for entry in entries
    ]


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(out, error.strerror or str(error)) from error


def _cannot_be_made(out: Path, why: str) -> OutputError:
    return OutputError(f"the output folder {out} cannot be made: {why}", remedy="choose another folder with -o")


def refuse_out(out: Path) -> None:
    """Raise the OutputError that a run would meet as it begins, as far as can be told without writing anything.

    Codes: io_error where ``out`` cannot be made or written to, busy where a run works in it.
    """
    there = next(path for path in (out, *out.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise _cannot_be_made(out, os.strerror(errno.EEXIST if there == out else errno.ENOTDIR))
    if not os.access(there, os.W_OK | os.X_OK):
        raise _cannot_be_made(out, os.strerror(errno.EACCES))
    with output_errors(out / NAME):
        found = find(out / NAME)
    # the clock of this machine will do: nothing is taken over here
    if found is not None and not found.is_dead(time.time()):
        raise busy(out, found, time.time())


def _all_slides(run: _Run, pool: ThreadPoolExecutor, entries: Sequence[SlideEntry]) -> None:
    try:
        _wait_for(pool.submit(_slide, run, entry) for entry in entries)
        # a crash also counts against tasks of other slides that waited for the same worker: only alone is guilt certain
        for entry in entries:
            if run.outcomes[entry].get("reason") == "worker_lost":
                _wait_for([pool.submit(_slide, run, entry)])
    except BaseException:
        # the pool waits for slides that are running: let them stop at their next part, not at their end
        run.stop.set("interrupt")
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _wait_for(futures: Iterable[Future[None]]) -> None:
    """In short waits: a signal may come to another thread of the process, and wakes none that waits for ever."""
    for future in list(futures):
        while not future.done():
            wait([future], WAKE_S)
        future.result()


def _close(out: Path, config: TissueConfig, told: Mapping[str, Any], outcomes: Collection[Record]) -> None:
    """Write what is left when a run ends."""
    write_run_yaml(out, config, {**told, "unrecorded": unrecorded(out, outcomes)})
    write_reports(out)


def _slide(run: _Run, entry: SlideEntry) -> None:
    """One slide to its outcome; nothing but an interrupt gets out of here."""
    run.check()
    folder = run.out / entry.slide_id
    key = run.work.key(entry)
    record = read_record(folder)
    kept = record is not None and not run.force and is_settled(record, key, folder, retry_failed=run.retry_failed)
    if record is None or not kept:
        run.observer.started(entry)
        record = _attempt(run, entry, key, record)
    run.outcomes[entry] = record
    run.observer.finished(entry, record, kept=kept)


def _begun(entry: SlideEntry, key: str, previous: Record | None) -> Record:
    """The record of a slide that is begun now."""
    again = previous is not None and previous.get("key") == key
    return {
        "schema": SCHEMA,
        "slide_id": entry.slide_id,
        "path": absolute(entry.path),
        "patient": entry.patient,
        "status": "running",
        "reason": "",
        "message": "",
        "remedy": "",
        "key": key,
        "attempts": 1 + (previous.get("attempts", 0) if previous and again else 0),
        "source": source_stamp(entry.path, entry.parts),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "versions": versions(),
        "started": now(),
    }


def _attempt(run: _Run, entry: SlideEntry, key: str, previous: Record | None) -> Record:
    folder, clock = run.out / entry.slide_id, time.perf_counter()
    base = _begun(entry, key, previous)
    try:
        refuse_other_slide(folder, entry)
        if not has_results(previous):
            _record(folder, base)
        record = base | run.work.do(entry, folder, base, _Advance(run, entry, base))
        run.check()
        record |= _checked(folder, record)
        _refuse_changed(entry, base["source"])
    except Exception as error:  # noqa: BLE001  # one slide must not hurt another; the record says what happened
        run.check()  # what stopped workers raise is no error of the slide's
        record = base | _explained(error, entry, base["source"])
        record["seconds"] = {"total": round(time.perf_counter() - clock, 3)}
        if has_results(read_record(folder)):
            # it failed before anything was touched
            return record | {"message": f"{record['message']} (results of an earlier run are kept as they were)"}
        # a failed slide shows no results: some outputs may have been finished before another one failed
        with suppress(OSError):
            _remove_own(folder, run.work.own)
    run.check()
    try:
        return _record(folder, record | {"finished": now()})
    except WsikitError as error:
        return record | {"finished": now()} | failure(error)


def _record(folder: Path, record: Record) -> Record:
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return write_record(folder, record)


def _checked(folder: Path, record: Record) -> Record:
    """Checksums of a slide's outputs, and what they took."""
    clock = time.perf_counter()
    with output_errors(folder):
        outputs = {name: output_facts(folder / name) for name in record["outputs"]}
    took = time.perf_counter() - clock
    seconds = record["seconds"] | {"checksums": round(took, 3)}
    return {"outputs": outputs, "seconds": seconds | {"total": round(seconds["total"] + took, 3)}}


def _refuse_changed(entry: SlideEntry, stamp: dict[str, Any] | None) -> None:
    """Raise SlideOpenError(slide_changed) where the file is not the one that the run began with."""
    if source_stamp(entry.path, entry.parts) != stamp:
        raise SlideOpenError(
            f"{entry.path.name} was replaced, removed or written to while it was read",
            code="slide_changed",
            remedy="wait until the file is complete, then run again",
        )


def _explained(error: Exception, entry: SlideEntry, stamp: dict[str, Any] | None) -> Record:
    """Why a slide failed: what its file underwent during the run explains most errors that follow from it."""
    try:
        _refuse_changed(entry, stamp)
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


def refuse_other_slide(folder: Path, entry: SlideEntry) -> None:
    """Keep finished results of another slide: of another path, and of a file that is not the entry's.

    The same file at another path is a cohort that was moved, another file at the same path a slide scanned again.

    Raises:
        OutputError: code id_taken.
    """
    record = read_record(folder)
    if record is None or not has_results(record):
        return
    other = absolute(str(record.get("path")))
    if other == absolute(entry.path):
        return
    stamp, known = source_stamp(entry.path, entry.parts), record.get("source") or {}
    # a file that is not there replaces nothing, and has a reason of its own to fail; copies have times of their own
    if stamp is None or all(stamp[name] == known.get(name) for name in ("bytes", "quick")):
        return
    raise OutputError(
        f"{folder} holds results of another slide, {other}; {entry.path} has the same slide id, "
        f"{entry.slide_id}, and would replace them",
        code="id_taken",
        remedy="give the slide another id, by a manifest with the columns path and slide_id, or choose another output "
        f"folder with -o; where the results are not needed, remove {folder}",
    )


def _is_own(path: Path, own: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, path.name) for pattern in own)


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
