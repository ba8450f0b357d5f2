"""Slides looked at before anything is computed: what would fail, what is doubtful, and what a run will take."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsikit.config import RunConfig
from wsikit.errors import WsikitError
from wsikit.pipeline.batch import checked_model
from wsikit.pipeline.doctor.files import (
    duplicates,
    fingerprint,
    look_at_file,
    parts_of_others,
    stamps,
    still_written,
    strays,
)
from wsikit.pipeline.doctor.findings import Diagnosis, Finding, in_order, worst
from wsikit.pipeline.doctor.forecast import SECONDS, Rates, forecast, shortages, to_measure, total
from wsikit.pipeline.doctor.tiles import SAMPLE
from wsikit.pipeline.doctor.ward import Ward
from wsikit.pipeline.inputs import SlideEntry
from wsikit.predictions import Model
from wsikit.slides.isolated import LostChildError

__all__ = ["SAMPLE", "Checkup", "Diagnosis", "Finding", "check_up"]

GROWING = 1.0
"""Seconds in which a file that is being copied grows or is touched."""
SEED_DIGITS = 8
"""Of a file's digest, in base 16: the seed of its sample."""
Seen = Callable[[Diagnosis], None]
"""Called, from several threads, when a slide was looked at."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """What is to be said of all slides."""

    slides: tuple[Diagnosis, ...]
    """In the order of the entries."""
    findings: tuple[Finding, ...] = ()
    """Of no slide in particular: files that are passed over, a model that could not be tried."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Path -> slide id of files that are read with another one."""
    total: Mapping[str, Any] = field(default_factory=dict)
    """What a run over all of them would need (``forecast.total``)."""

    @property
    def verdict(self) -> str:
        """The worst severity found, or "ok"."""
        found = [finding for slide in self.slides for finding in slide.findings]
        return worst([*found, *self.findings])


def check_up(
    entries: Sequence[SlideEntry],
    config: RunConfig,
    *,
    source: str | Path = "",
    out: Path | None = None,
    with_model: bool = True,
    sample: int | None = SAMPLE,
    seen: Seen | None = None,
) -> Checkup:
    """Look at slides without computing anything on them; writes nothing, and nowhere near them.

    Args:
        entries: from ``find_slides``.
        config: of the run that is planned.
        source: what the entries come from; of a folder, files that are passed over are told too.
        out: a folder on the disk that a run would write to; nothing is written there.
        with_model: whether to count the windows of the model and run it for some seconds to foretell time, disk and
            memory.
        sample: tiles to decode per level; None is all of them.
        seen: told of each slide.

    Raises:
        UnknownNameError, ConfigError: a configuration that no slide could be run with.
    """
    model = checked_model(entries, config) if with_model else None
    slides = [entry for entry in entries if entry.part_of is None]
    count = max(1, min(config.num_workers or os.cpu_count() or 1, len(slides)))
    before = stamps(slides)
    with _wards(count, config, with_model) as wards:
        found, prints = _look_at_all(slides, wards, sample, seen or (lambda _: None))
        found, problems = _foretold(slides, found, wards, config, model)
    fresh = [entry.path for entry, one in zip(slides, found, strict=True) if _has(one, "just_written")]
    of_files = [duplicates(prints), parts_of_others(slides), still_written(before, fresh, GROWING)]
    found = [
        _with(one, [more for of in of_files for more in of.get(entry.path, ())])
        for entry, one in zip(slides, found, strict=True)
    ]
    parts = {str(entry.path): entry.part_of for entry in entries if entry.part_of is not None}
    needed = total(found, _processes(config))
    return Checkup(tuple(found), (*problems, *shortages(needed, out), *strays(source)), parts, needed)


def _processes(config: RunConfig) -> int:
    """Of a run."""
    return config.num_workers or os.cpu_count() or 1


def _has(one: Diagnosis, code: str) -> bool:
    return any(finding.code == code for finding in one.findings)


def _with(one: Diagnosis, findings: Sequence[Finding]) -> Diagnosis:
    return replace(one, findings=in_order([*one.findings, *findings])) if findings else one


@contextmanager
def _wards(count: int, config: RunConfig, with_model: bool) -> Iterator[queue.SimpleQueue[Ward]]:
    """So many children, each taken by the thread that needs one and put back; they start when they are first asked."""
    wards = [Ward(config, with_model=with_model) for _ in range(count)]
    free: queue.SimpleQueue[Ward] = queue.SimpleQueue()
    for ward in wards:
        free.put(ward)
    try:
        yield free
    finally:
        for ward in wards:
            ward.close()


def _look_at_all(
    slides: Sequence[SlideEntry], wards: queue.SimpleQueue[Ward], sample: int | None, seen: Seen
) -> tuple[list[Diagnosis], dict[Path, Any]]:
    """Every slide looked at, and the fingerprint of its file."""

    def look(entry: SlideEntry) -> tuple[Diagnosis, Any]:
        of_file, printed = list(look_at_file(entry)), fingerprint(entry.path)
        seed = int(printed.digest[:SEED_DIGITS], 16) if printed else 0
        hopeless = any(finding.severity == "error" and finding.code != "missing_companion" for finding in of_file)
        one = Diagnosis(entry.slide_id, str(entry.path), entry.patient)
        if not hopeless:
            ward = wards.get()
            try:
                one = ward.look(entry, sample, seed)
            finally:
                wards.put(ward)
        one = _with(one, of_file)
        seen(one)
        return one, printed

    with ThreadPoolExecutor(wards.qsize()) as pool:
        looked = list(pool.map(look, slides))
    prints = {entry.path: printed for entry, (_, printed) in zip(slides, looked, strict=True)}
    return [one for one, _ in looked], prints


def _foretold(
    slides: Sequence[SlideEntry],
    found: list[Diagnosis],
    wards: queue.SimpleQueue[Ward],
    config: RunConfig,
    model: Model | None,
) -> tuple[list[Diagnosis], list[Finding]]:
    """The slides with what a run would take; findings where the model could not be tried."""
    if model is None:
        return found, []
    entries, rates, problems = {entry.slide_id: entry for entry in slides}, {}, []
    chosen, ward = to_measure(found), wards.get()
    for one in chosen:
        try:
            rates[one.slide_id] = Rates(**ward.measure(entries[one.slide_id], SECONDS / len(chosen)))
        except (WsikitError, LostChildError) as error:
            said = f"the model could not be tried on {one.slide_id}: {error}"
            problems.append(Finding(error.code, "warning", said, getattr(error, "remedy", "")))
    wards.put(ward)
    return forecast(found, rates, config, model, _processes(config)), problems
