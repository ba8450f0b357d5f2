"""Slides to patch datasets: ``wsikit tile``.

open_slide -> tissue -> windows -> PatchEncoder -> PatchWriter
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsikit.atomic import output_errors, remove
from wsikit.config import TileConfig
from wsikit.errors import ConfigError, OutputError, PluginError, WorkerError, WsikitError
from wsikit.patches import FORMATS, PatchWriter
from wsikit.pipeline.busy import Clock
from wsikit.pipeline.cutting import Cutting, describe, draw, patch_set
from wsikit.pipeline.each import (
    HIDDEN,
    OVERVIEW,
    Advance,
    Observer,
    clear,
    each_slide,
    refuse_foreign,
    refuse_other_slide,
    refuse_out,
)
from wsikit.pipeline.encode import own_level
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.planned import Planned
from wsikit.pipeline.provenance import given
from wsikit.pipeline.roi import check_roi, content_hash, roi_file
from wsikit.pipeline.settings import quality_filter, tissue_of
from wsikit.pipeline.stamps import size_on_disk, source_stamp
from wsikit.pipeline.state import (
    Record,
    digest,
    is_settled,
    read_record,
    write_record,
)
from wsikit.pipeline.stopping import Stop
from wsikit.pipeline.windows import choose_windows, coords_file
from wsikit.pipeline.workers import Workers
from wsikit.pipeline.workers.opening import open_workers
from wsikit.slides import Slide, open_slide

RESULT_VERSION = 3
"""Raised whenever the same slide and parameters would give other patches than before."""
POLL_S = 0.1
"""Between two looks at how far a child is."""
SLIDES_AT_ONCE = 2
"""While one slide's tissue is looked for and its picture drawn, which one core does, another's tiles are decoded."""


def tile_many(
    entries: Sequence[SlideEntry],
    out: str | Path,
    config: TileConfig,
    *,
    force: bool = False,
    retry_failed: bool = False,
    stop: Stop | None = None,
    observer: Observer | None = None,
    command: str = "",
    source: str = "",
) -> list[Record]:
    """Cut many slides into patches, with one record each: see ``each_slide``, which says what is left in ``out``.

    Args: see ``run_many``.

    Raises:
        UnknownNameError: the format does not exist.
        ConfigError: a configuration that no slide could be cut with.
        OutputError: the output folder cannot be written, would replace files that are not of this verb, or another run
            works in it (code busy).
        StoppedError: ``stop`` was set; what was done is kept, and the same call goes on.
    """
    out = Path(out)
    check_tiling(entries, config)
    _refuse_foreign(entries, out)
    threads = config.num_workers or os.cpu_count() or 1
    return each_slide(
        entries,
        out,
        config,
        _tiling(out, config, threads),
        at_once=min(threads, SLIDES_AT_ONCE),
        force=force,
        retry_failed=retry_failed,
        stop=stop,
        observer=observer,
        command=command,
        told=given(source),
    )


def check_tiling(entries: Sequence[SlideEntry], config: TileConfig) -> None:
    """Raise what ``tile_many`` does for a configuration that no slide could be cut with."""
    FORMATS.load(config.format)
    quality_filter(config)
    check_roi(entries, config)
    if config.size != "native" and config.overlap >= config.size:
        raise ConfigError(f"patches of {config.size} px share less than all of it, got an overlap of {config.overlap}")
    if config.coords is not None and not config.coords.is_dir():
        raise ConfigError(f"--coords {config.coords} is no folder; give that of a CLAM run or of --format coords")


def plan_tiling(
    entries: Sequence[SlideEntry], out: Path, config: TileConfig, *, force: bool = False, retry_failed: bool = False
) -> Iterator[Planned]:
    """One line per slide and a total. Opens every slide and finds its tissue; writes nothing.

    Raises as ``tile_many``.
    """
    check_tiling(entries, config)
    refuse_out(out)
    _refuse_foreign(entries, out)
    todo = patches = 0
    for entry in entries:
        folder = out / entry.slide_id
        if entry.part_of is not None:
            yield Planned.part(entry)
        elif not force and is_settled(
            read_record(folder), tiling_key(entry, config), folder, retry_failed=retry_failed
        ):
            yield Planned.kept(entry, folder)
        else:
            try:
                refuse_other_slide(folder, entry)
                with (
                    open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate) as slide,
                    for_pixels(slide, config) as source,
                ):
                    windows = choose_windows(source, entry, config, tissue_of(slide, entry, config))
                    line = f"{slide.width}x{slide.height} px at {slide.mpp:.4g} um/px ({slide.reader.name}), {windows}"
            except WsikitError as error:
                yield Planned.failing(entry, error)
                continue
            todo, patches = todo + 1, patches + len(windows.grid)
            yield Planned(f"{entry.slide_id}: {line}")
    yield Planned(f"{todo} of {len(entries)} slides to cut, {patches} patches, format {config.format}, into {out}")


def _refuse_foreign(entries: Sequence[SlideEntry], out: Path) -> None:
    """Raise OutputError where what would be replaced was written by no run: in slides' folders or, as CLAM's own
    patches/ID.h5, beside them."""
    own = _own_names()
    for entry in entries:
        folder = out / entry.slide_id
        refuse_foreign(folder, own)
        if read_record(folder) is not None:
            continue
        for path in _paths(out, entry.slide_id):
            if not path.is_relative_to(folder) and path.exists():
                raise OutputError(
                    f"{path} would be replaced, and no run has written it: {folder} holds no slide.json",
                    code="foreign_files",
                    remedy="choose another output folder with -o, or remove the file",
                )


def tiling_key(entry: SlideEntry, config: TileConfig) -> str:
    """Changes with anything that could change a slide's patches, or what is said of them."""
    named = roi_file_or_none(entry, config), coords_file(entry, config)
    return digest(
        {
            "parameters": config.result_parameters(),
            "mpp_override": entry.mpp or config.mpp_override,
            "mask": content_hash(entry.mask_path),
            "files": [[path is not None, content_hash(path)] for path in named],
            "columns": [entry.patient, entry.label, entry.split],
            "source": source_stamp(entry.path, entry.parts),
            "tile_version": RESULT_VERSION,
        }
    )


def roi_file_or_none(entry: SlideEntry, config: TileConfig) -> Path | None:
    """The slide's region of interest; a slide that should have one and has none fails when it is cut."""
    try:
        return roi_file(entry, config)
    except ConfigError:
        return None


@contextmanager
def for_pixels(slide: Slide, config: TileConfig) -> Iterator[Slide]:
    """The slide that patches are read from: where mpp lies between two levels, one that decodes at a reduced size.

    Tissue and pictures are those of the slide itself, as for every other verb.
    """
    no_pixels = config.coords is not None or not FORMATS.load(config.format).has_pixels
    if not config.scaled_decode or no_pixels or own_level(slide, slide.resolve(config.mpp)) is not None:
        yield slide
        return
    with open_slide(slide.path, slide.mpp_override, scaled=True, isolate=config.isolate) as scaled:
        yield scaled


def writer_of(entry: SlideEntry, out: Path, config: TileConfig) -> PatchWriter:
    """The writer of a slide's patches."""
    kind = FORMATS.load(config.format)
    writer: PatchWriter = kind(out / kind.filename.format(slide_id=entry.slide_id))
    return writer


def _own_names() -> tuple[str, ...]:
    """What some format writes into a slide's folder: see ``Work.own``."""
    inside = (name.removeprefix("{slide_id}/") for name in _filenames())
    return (re.escape(OVERVIEW), HIDDEN, *(re.escape(name) for name in inside if "/" not in name))


def _filenames() -> list[str]:
    """Where the formats put a slide's patches; those of a package that is broken now are nobody's."""
    found = []
    for name in FORMATS:
        with suppress(PluginError):
            found.append(FORMATS.load(name).filename)
    return found


def _paths(out: Path, slide_id: str) -> list[Path]:
    """Of a slide's patches in each format."""
    return [out / name.format(slide_id=slide_id) for name in _filenames()]


@dataclass(frozen=True, slots=True)
class CutTask:
    """A slide that is to be cut, for whoever does it."""

    entry: SlideEntry
    out: Path
    config: TileConfig
    threads: int
    base: Record
    """Of the slide's record, while it is cut."""

    @property
    def folder(self) -> Path:
        """Of the slide's record and picture."""
        return self.out / self.entry.slide_id

    @property
    def progress(self) -> Path:
        """What a child tells its parent while it works: parts done and parts in all."""
        return self.folder / ".progress.tmp"

    def clear(self) -> None:
        """Remove what an earlier attempt left, in the slide's folder and beside it."""
        clear(self.folder, _own_names())
        for path in _paths(self.out, self.entry.slide_id):
            with output_errors(path):
                remove(path)
        self.clear_hidden()

    def clear_hidden(self) -> None:
        """Remove what is not complete and nobody goes on with."""
        for path in _paths(self.out, self.entry.slide_id):
            for hidden in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                with output_errors(path):
                    remove(hidden)
        self.progress.unlink(missing_ok=True)


def cut(task: CutTask, advance: Advance) -> Record:
    """Cut a slide that can be cut; only then is what an earlier run left touched. Returns what its record says."""
    entry, config, folder, clock = task.entry, task.config, task.folder, Clock()
    with clock("open"):
        opened = open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate)
    with opened as slide, for_pixels(slide, config) as source:
        with clock("tissue"):
            tissue = tissue_of(slide, entry, config)
            windows = choose_windows(source, entry, config, tissue)
        task.clear()
        write_record(folder, task.base)
        writer = writer_of(entry, task.out, config)
        cutting = Cutting(source, windows, config, task.threads)
        with clock("patches"):
            cutting.write(writer, patch_set(source, entry, config, tissue, windows), advance)
        with clock("picture"):
            draw(slide, entry.slide_id, tissue, cutting, folder / OVERVIEW)
        name = Path(os.path.relpath(writer.path, folder)).as_posix()
        return describe(source, tissue, cutting) | {
            "outputs": {name: size_on_disk(writer.path)},
            "seconds": clock.seconds(),
        }


def cut_in_child(task: CutTask) -> Record:
    """The same, telling how far it is in a file that the parent looks at."""
    record = cut(task, partial(_note, task.progress))
    task.progress.unlink(missing_ok=True)
    return record


def _note(path: Path, done: int, total: int) -> None:
    path.write_text(f"{done} {total}")


def _noted(path: Path) -> tuple[int, int] | None:
    """(done, total); None where nothing is told yet, or is being written."""
    try:
        done, total = map(int, path.read_text().split())
    except (OSError, ValueError):
        return None
    return done, total


@dataclass(frozen=True, slots=True)
class _Tiling:
    """Cutting into patches, as work on every slide of a run."""

    out: Path
    config: TileConfig
    threads: int
    workers: Workers | None
    """Children, a slide in each; None is this process."""

    @property
    def own(self) -> Sequence[str]:
        """See ``Work``."""
        return _own_names()

    def key(self, entry: SlideEntry) -> str:
        """See ``Work``."""
        return tiling_key(entry, self.config)

    def do(self, entry: SlideEntry, folder: Path, base: Record, advance: Advance) -> Record:
        """See ``Work``. A slide whose child crashed is tried once more."""
        task = CutTask(entry, self.out.absolute(), self.config, self.threads, base)
        if self.workers is None:
            return cut(task, advance)
        try:
            try:
                return self._watched(self.workers, task, advance)
            except WorkerError as error:
                if error.code != "worker_crash":
                    raise
            return self._watched(self.workers, task, advance)
        except BaseException:
            if folder.is_dir():
                task.clear_hidden()
            raise

    def _watched(self, workers: Workers, task: CutTask, advance: Advance) -> Record:
        task.progress.unlink(missing_ok=True)  # what an attempt before told
        future = workers.submit(cut_in_child, task, seconds=self.config.task_timeout)
        seen = None
        while not future.done():
            wait([future], POLL_S)
            if (noted := _noted(task.progress)) and noted != seen:
                seen = noted
                advance(*noted)
        return future.result()

    def stop(self) -> None:
        """See ``Work``. In this process every part of a slide asks whether it should go on, which is soon enough."""
        if self.workers is not None:
            self.workers.stop()


@contextmanager
def _tiling(out: Path, config: TileConfig, threads: int) -> Iterator[_Tiling]:
    if config.cluster != "local":
        yield _Tiling(out, config, threads, None)
        return
    with open_workers(config.cluster, slots=min(threads, SLIDES_AT_ONCE)) as workers:
        yield _Tiling(out, config, threads, workers)
