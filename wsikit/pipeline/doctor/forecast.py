"""What a run will take: seconds, bytes on disk, and memory, from running the model on a few places of the slides.

1. At most ``SLIDES`` slides, by their number of windows evenly spread, the largest among them, are run for about
   ``SECONDS`` in all: the pipeline itself, on one window and then on some groups of windows evenly spread over the
   tissue, into a folder that is thrown away. A first go on one window is not counted: it loads libraries.
2. Per window that gives the seconds of reading, model and post-processing, and the bytes of the spool; from the
   difference of the two, the seconds of merging and the bytes of outputs per window, and what both are for no window
   at all (the overview, the pictures in the outputs); per slide, the seconds of ``prepare`` and the peak of memory.
3. A slide takes what looking at it took for opening and tissue, ``prepare``, and its windows times the rates. A slide
   that was measured counts by its own rates, the others by those of all measured windows together.
4. A run takes the sum over its slides divided by its processes, or as long as its longest slide, of which only the
   prediction is shared among processes; and ``START`` for these.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import shapely

from wsikit.config import RunConfig
from wsikit.pipeline.doctor.findings import Diagnosis, Finding
from wsikit.pipeline.each import OVERVIEW
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.report.formats import size
from wsikit.pipeline.resident import peak_rss_mb
from wsikit.pipeline.run import RunReport, run
from wsikit.pipeline.settings import make_sinks, quality_filter, tissue_of
from wsikit.pipeline.stamps import size_on_disk
from wsikit.predictions import Model
from wsikit.slides import Slide, open_slide
from wsikit.tiling import SUPERTILE, TileGrid
from wsikit.tissue import TissueMask

SECONDS = 8.0
"""That the model is run for, over all measured slides. A window and a group of them are run whatever they take."""
SLIDES = 2
"""Slides that are measured at most."""
GROUP = 2048
"""Side in lattice px of a group of windows: with less, a window's halo would be read more often than a run reads it."""
START = 1.5
"""Seconds until worker processes are up, where there are several: 1.1 to 2.2 s on the machine of docs/measured.md when
it was idle, 5 to 8 s with four tasks per core."""
PARENT_BYTES = 250 << 20
"""Resident memory of the process that watches over worker processes."""
CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Rates:
    """What windows took, and what a slide takes once."""

    windows: float
    """That were run."""
    predict: float
    """Wall seconds per window where one process runs all, its stages side by side."""
    work: float
    """Seconds per window of all stages, one after another as in a worker process."""
    spool_bytes: float
    """Per window."""
    merge: float
    """Seconds per window."""
    merge_once: float
    bytes: float
    """Of the outputs per window."""
    bytes_once: float
    prepare: float
    """Seconds, once."""
    peak_bytes: float
    """Most resident memory of the process that ran them."""

    @classmethod
    def together(cls, rates: Iterable[Rates]) -> Rates:
        """Of several slides, by their windows; the peak is the largest."""
        found = list(rates)
        windows = np.array([rate.windows for rate in found], np.float64)
        values = {field.name: [getattr(rate, field.name) for rate in found] for field in fields(cls)}
        mean = {name: float(np.average(column, weights=windows)) for name, column in values.items()}
        whole: dict[str, float] = {
            "windows": float(windows.sum()),
            "peak_bytes": max(rate.peak_bytes for rate in found),
        }
        return cls(**(mean | whole))


def measure(entry: SlideEntry, config: RunConfig, model: Model, seconds: float) -> dict[str, float]:
    """Run the model on some windows of a slide and tell ``Rates`` as a dictionary.

    Args:
        entry: a slide that has windows.
        config: of the run that is planned; its outputs are made and thrown away.
        model: not bound to a slide.
        seconds: that this should take; a window and a group of windows are run whatever they take.

    Raises WsikitError for what a run would fail by.
    """
    with open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate) as slide:
        tissue = tissue_of(slide, entry, config)
        grid = TileGrid.cover(slide, model.tile, tissue)
        groups, single = grid.supertiles(GROUP), grid[len(grid) // 2 :][:1]
        _loaded(slide, tissue, config, model, single)
        small = _tried(slide, tissue, config, model, [single])
        left = seconds - small.report.seconds["total"]
        count = int(np.clip(left / (small.per_window * len(groups[0])), 1, len(groups)))
        large = _tried(slide, tissue, config, model, _evenly(groups, count))
    return asdict(_rates(small, large))


def _evenly(groups: Sequence[TileGrid], count: int) -> list[TileGrid]:
    """The middle of each of ``count`` equal stretches."""
    return [groups[(2 * i + 1) * len(groups) // (2 * count)] for i in range(count)]


@dataclass(frozen=True, slots=True)
class _Tried:
    """A run over some windows."""

    report: RunReport
    bytes: int
    """Of all that it wrote."""
    spool_bytes: int
    """When the last window was done."""

    @property
    def windows(self) -> int:
        return len(self.report.quality)

    @property
    def per_window(self) -> float:
        """Seconds, at least a little."""
        return max(1e-4, self.report.seconds["predict"] / self.windows)


_LOADED: set[str] = set()
"""Names of the models that have run in this process."""


def _loaded(slide: Slide, tissue: TissueMask, config: RunConfig, model: Model, single: TileGrid) -> None:
    """Run once what loads libraries when it is first used."""
    if model.name not in _LOADED:
        _tried(slide, tissue, config, model, [single])
        _LOADED.add(model.name)


def _tried(slide: Slide, tissue: TissueMask, config: RunConfig, model: Model, groups: Sequence[TileGrid]) -> _Tried:
    """Run the windows of some groups into a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="wsikit-doctor-") as name:
        folder, spool, spooled = Path(name) / "out", Path(name) / "spool", [0]
        folder.mkdir()
        report = run(
            slide,
            model,
            *make_sinks(config, folder),
            mask=_limited(tissue.unlimited(), slide, groups),
            batch_size=config.batch_size,
            supertile=GROUP,
            qc=quality_filter(config),
            overview=folder / OVERVIEW,
            spool=spool,
            progress=lambda done, total: spooled.__setitem__(0, size_on_disk(spool) if done == total else 0),
        )
        return _Tried(report, size_on_disk(folder), spooled[0])


def _limited(tissue: TissueMask, slide: Slide, groups: Sequence[TileGrid]) -> TissueMask:
    """Tissue inside the cores of these windows only, and no window beside them."""
    boxes = [region.level0(slide) for grid in groups for region in (grid.core(i) for i in range(len(grid)))]
    plane = shapely.box(0, 0, slide.width, slide.height)
    return tissue.limited(np.array([shapely.box(*box).intersection(plane) for box in boxes], object), slide)


def _rates(small: _Tried, large: _Tried) -> Rates:
    report, windows = large.report, large.windows
    busy = report.busy
    merge_once, merge = _line(small.windows, small.report.seconds["merge"], windows, report.seconds["merge"])
    bytes_once, bytes_each = _line(small.windows, small.bytes, windows, large.bytes)
    return Rates(
        windows,
        predict=report.seconds["predict"] / windows,
        work=(busy.read + busy.model + busy.post) / windows,
        spool_bytes=large.spool_bytes / windows,
        merge=merge,
        merge_once=merge_once,
        bytes=bytes_each,
        bytes_once=bytes_once,
        prepare=min(small.report.seconds["prepare"], report.seconds["prepare"]),
        peak_bytes=peak_rss_mb() * (1 << 20),
    )


def _line(x0: int, y0: float, x1: int, y1: float) -> tuple[float, float]:
    """(at zero, slope) of the line through two points, neither of them negative; one point is all of it at zero."""
    slope = max(0.0, (y1 - y0) / (x1 - x0)) if x1 > x0 else 0.0
    return max(0.0, y1 - slope * x1), slope


def to_measure(found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """At most ``SLIDES`` of the slides that have windows, by their number of windows evenly spread, the largest among
    them."""
    able = sorted((one for one in found if one.facts.get("windows")), key=lambda one: -int(one.facts["windows"]))
    return [able[i * len(able) // min(SLIDES, len(able))] for i in range(min(SLIDES, len(able)))]


def forecast(
    found: Sequence[Diagnosis], rates: Mapping[str, Rates], config: RunConfig, model: Model, processes: int
) -> list[Diagnosis]:
    """The same slides with what a run would need for each that it would not fail on.

    Args:
        found: slides that were looked at.
        rates: slide id -> what was measured on it; without any, nothing is foretold.
        config: of the run.
        model: of the run.
        processes: that it works with.
    """
    if not rates:
        return list(found)
    pooled = Rates.together(rates.values())
    return [
        one
        if "windows" not in one.facts
        else replace(one, forecast=_of_slide(one, rates.get(one.slide_id, pooled), config, model, processes))
        for one in found
    ]


def _of_slide(one: Diagnosis, rates: Rates, config: RunConfig, model: Model, processes: int) -> dict[str, float]:
    windows, spent = int(one.facts["windows"]), one.facts["seconds"]
    once = spent.get("open", 0.0) + spent.get("tissue", 0.0) + rates.prepare * (windows > 0) + rates.merge_once
    alone = once + windows * rates.merge
    shared = windows * (rates.predict if processes == 1 else rates.work)
    return {
        "seconds": alone + shared,
        "alone_seconds": alone,
        "bytes": rates.bytes_once + windows * rates.bytes,
        "spool_bytes": windows * rates.spool_bytes,
        "memory_bytes": predicted_peak(rates.peak_bytes, model, config, windows, ahead=processes == 1),
    }


def predicted_peak(measured: float, model: Model, config: RunConfig, windows: int, *, ahead: bool) -> float:
    """Resident bytes of a process that works on a slide: an estimate, no promise.

    What was measured on groups of windows (libraries, model, batches and their answers, the tissue picture), and what a
    whole super-tile holds more than such a group: its pixels with the halo, RGB, once, and once more where the next one
    is read ahead.

    Args:
        measured: peak of the process that ran groups of ``GROUP`` px a side.
        model: whose windows they are.
        config: of the run, for its super-tile.
        windows: of the slide: fewer than fill a super-tile take less.
        ahead: whether one process runs all and reads ahead.
    """
    spec = model.tile
    most = spec.step**2 * windows
    side, group = (min(side // spec.step * spec.step or spec.step, most**0.5) for side in (_side(config), GROUP))
    more = (side + 2 * spec.halo) ** 2 - (group + 2 * spec.halo) ** 2
    return float(measured + max(0.0, more) * CHANNELS * (2 if ahead else 1))


def _side(config: RunConfig) -> int:
    return config.supertile or SUPERTILE


def _alone(needed: Mapping[str, float], processes: int) -> float:
    """Seconds of a slide that has all processes to itself."""
    return needed["alone_seconds"] + (needed["seconds"] - needed["alone_seconds"]) / processes


def shortages(needed: Mapping[str, Any], out: Path | None) -> Iterator[Finding]:
    """What the machine lacks for a run: memory, and space where the outputs go.

    Args:
        needed: from ``total``.
        out: a folder on the disk of the outputs, which need not be there yet; None where it is not known.
    """
    if not needed:
        return
    memory, held = needed["memory_bytes"], psutil.virtual_memory().total
    if memory > held:
        said = f"a run would take about {size(memory)} of memory, and the machine has {size(held)}"
        yield Finding("no_memory", "warning", said, "use fewer --num-workers, or a smaller --supertile")
    if out is None:
        return
    there = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.exists())
    wanted, free = needed["bytes"] + needed["spool_bytes"], shutil.disk_usage(there).free
    if wanted > free:
        said = f"a run would write about {size(wanted)}, and {size(free)} are free where {out} is"
        yield Finding("no_space", "warning", said, "free some space, or run into another folder")


def total(found: Sequence[Diagnosis], processes: int) -> dict[str, Any]:
    """What a run over all these slides would need; empty where nothing was foretold.

    ``seconds`` of wall time with ``processes``, ``bytes`` of outputs, ``spool_bytes`` of the slides that are worked on
    at once, ``memory_bytes`` of all processes, ``windows``, and ``slides`` that this is of.
    """
    told = [one for one in found if one.forecast]
    if not told:
        return {}
    several = processes > 1
    spools = sorted((one.forecast["spool_bytes"] for one in told), reverse=True)
    peak = max(one.forecast["memory_bytes"] for one in told)
    work = sum(one.forecast["seconds"] for one in told) / processes
    longest = max(_alone(one.forecast, processes) for one in told)
    return {
        "processes": processes,
        "slides": len(told),
        "windows": sum(int(one.facts["windows"]) for one in told),
        "seconds": max(work, longest) + START * several,
        "bytes": sum(one.forecast["bytes"] for one in told),
        "spool_bytes": sum(spools[:processes]),
        "memory_bytes": peak * processes + PARENT_BYTES * several,
    }
