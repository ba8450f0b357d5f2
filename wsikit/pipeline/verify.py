"""Whether a run's outputs are as it left them, its slides as it found them, and whether it would say the same now.

Nothing is written into the run's folder. Slides and outputs are read in child processes: one that crashes its reader
costs what there is to say of it, and no other slide.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wsikit.atomic import remove
from wsikit.config import EmbedConfig, RunConfig, load_config
from wsikit.errors import WsikitError
from wsikit.geometry import Box
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.model import load_model
from wsikit.pipeline.provenance import recorded_entries
from wsikit.pipeline.report import read_run
from wsikit.pipeline.report.folder import PROVENANCE, read_run_yaml
from wsikit.pipeline.stages import Again, SlideTask, predict_again
from wsikit.pipeline.stamps import output_facts, source_stamp
from wsikit.pipeline.state import SCHEMA, Record, failure, has_results, versions
from wsikit.pipeline.workers import Workers, bounded
from wsikit.pipeline.workers.opening import open_workers
from wsikit.predictors.files import dumps

SAMPLE = 2
"""Super-tiles of each slide that are predicted again."""
CONFIGS = {kind.verb: kind for kind in (RunConfig, EmbedConfig)}
"""Verbs whose results are checked in super-tiles."""
STAMPS = {"bytes": "size", "mtime_ns": "modification time", "quick": "content", "parts": "other files"}
"""Key of a source stamp -> what differs, in words."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A super-tile of which the model says something else than it did."""

    index: int
    box: Box
    """x0, y0, x1, y1 in level-0 pixels."""
    was: str
    now: str
    """Digests."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    code: str
    """bad_record, output_missing, output_changed, source_missing, source_changed, drift, or the code of the error that
    kept super-tiles from being predicted again."""
    message: str
    drift: Drift | None = None


@dataclass(slots=True)
class Verified:
    """What there is to say of a slide."""

    slide_id: str
    status: str = ""
    """As recorded."""
    outputs: int = 0
    """Looked at."""
    supertiles: int = 0
    """Predicted again."""
    of: int = 0
    """Super-tiles recorded."""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be checked, and why."""
    versions: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """What differs between the record and now: name -> (was, is)."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong, as far as could be checked."""
        return not self.findings

    @property
    def drifted(self) -> bool:
        """Whether the model says something else than it did."""
        return any(finding.code == "drift" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Slide:
    """A slide with results, on its way to be checked."""

    entry: SlideEntry
    record: Record
    verified: Verified


def verify(
    out: Path,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    workers: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> list[Verified]:
    """Check every slide of a run: outputs by checksum, its file by its stamp, super-tiles by predicting some again.

    Args:
        out: output folder of a run.
        sample: super-tiles of each slide that are predicted again; 0 is none.
        seed: which ones.
        workers: child processes; None is one per core.
        advance: called with (checks done, checks in all).

    Returns:
        What there is to say of each slide, in the run's order; files that are read with another one are left out.

    Raises ConfigError (code no_run) where ``out`` is no output folder of a run.
    """
    values = read_run_yaml(out)
    told = values[PROVENANCE]
    found = [_looked_up(out, entry, known) for entry, known in _recorded(out, told)]
    slides = [slide for slide in found if has_results(slide.record)]
    drawn = {slide.entry.slide_id: _drawn(slide, sample, seed) for slide in slides}
    again = [slide for slide in slides if drawn[slide.entry.slide_id]]
    total, done = len(slides) + len(again), 0

    def step() -> None:
        nonlocal done
        done += 1
        if advance:
            advance(done, total)

    count = workers or os.cpu_count() or 1
    with open_workers("local", slots=count) as pool, tempfile.TemporaryDirectory(prefix="wsikit-verify-") as spool:
        _check_files(out, slides, pool, step)
        _check_again(out, str(told.get("verb", "")), again, drawn, Path(spool), pool, step)
    return [slide.verified for slide in found]


def as_json(slides: Sequence[Verified]) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {
        "sound": all(slide.sound for slide in slides),
        "slides": [{"sound": slide.sound, **asdict(slide)} for slide in slides],
    }


def _recorded(out: Path, told: Mapping[str, Any]) -> list[tuple[SlideEntry, Record]]:
    """Slides of a run and what is known of each; a run of a version that did not list them has those with records."""
    records = {record["slide_id"]: record for record in read_run(out).records}
    entries = recorded_entries(told) or [
        SlideEntry(name, Path(record.get("path") or "")) for name, record in records.items()
    ]
    return [(entry, records[entry.slide_id]) for entry in entries if entry.part_of is None]


def _looked_up(out: Path, entry: SlideEntry, known: Record) -> _Slide:
    """Judge a slide by its record alone."""
    verified = Verified(entry.slide_id, str(known["status"]))
    slide = _Slide(entry, known, verified)
    schema = _schema(out / entry.slide_id)
    if schema not in (None, SCHEMA):
        verified.status = "unknown"
        verified.notes.append(f"its record is of schema {schema!r} and this version reads {SCHEMA}: nothing is checked")
    elif known.get("reason") == "bad_record":
        verified.findings.append(Finding("bad_record", str(known.get("message", ""))))
    elif not has_results(known):
        verified.notes.append(f"{verified.status}: there are no results to check")
    return slide


def _schema(folder: Path) -> Any:
    """Of a record, whichever version wrote it; None where there is none."""
    try:
        record = json.loads((folder / "slide.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record.get("schema") if isinstance(record, dict) else None


def _drawn(slide: _Slide, sample: int, seed: int) -> list[int]:
    """Super-tiles of a slide that are to be predicted again."""
    recorded = slide.record.get("supertiles") or {}
    digests = recorded.get("digests") or ()
    slide.verified.of = len(digests)
    if "tiles" in slide.record:
        return []  # patches: their checksums say it all
    if not recorded:
        slide.verified.notes.append("no super-tiles are recorded: none can be compared")
    drawing = random.Random(f"{seed} {slide.entry.slide_id}")  # to be drawn alike, not secret
    return sorted(drawing.sample(range(len(digests)), min(sample, len(digests))))


def _check_files(out: Path, slides: Sequence[_Slide], pool: Workers, step: Callable[[], None]) -> None:
    by_id = {slide.entry.slide_id: slide for slide in slides}
    jobs = [(slide.entry, out.absolute() / name, slide.record) for name, slide in by_id.items()]
    for (entry, *_), future in bounded(pool, check_files, jobs):
        verified = by_id[entry.slide_id].verified
        try:
            verified.outputs, findings, notes = future.result()
        except Exception as error:  # noqa: BLE001  # one slide must not hurt another
            findings, notes = [_failed(error, "its files could not be read")], []
        verified.findings += findings
        verified.notes += notes
        step()


def _failed(error: Exception, what: str) -> Finding:
    said = failure(error)
    return Finding(said["reason"], f"{what}: {said['message']}")


def check_files(job: tuple[SlideEntry, Path, Record]) -> tuple[int, list[Finding], list[str]]:
    """Outputs and source of a slide against its record: how many outputs there are, what is wrong, what is not known.

    Args:
        job: the slide, the folder of its results, its record.

    Raises OSError where a file cannot be read.
    """
    entry, folder, record = job
    outputs = record.get("outputs") or {}
    findings = [finding for name, facts in outputs.items() for finding in _output(folder / name, name, facts)]
    notes = [f"{name} has no checksum" for name, facts in outputs.items() if not facts.get("sha256")]
    stamp = record.get("source")
    if stamp is None:
        return len(outputs), findings, [*notes, "what the slide's file was is not recorded"]
    return len(outputs), findings + _source(entry, stamp), notes


def _output(path: Path, name: str, facts: Mapping[str, Any]) -> list[Finding]:
    if not path.exists():
        return [Finding("output_missing", f"{name} is missing")]
    now = output_facts(path)
    if facts["bytes"] != now["bytes"]:
        return [Finding("output_changed", f"{name} has {now['bytes']} bytes, and had {facts['bytes']}")]
    if facts.get("sha256") not in (None, "", now["sha256"]):
        return [Finding("output_changed", f"{name} has other contents than it was written with")]
    return []


def _source(entry: SlideEntry, stamp: Mapping[str, Any]) -> list[Finding]:
    now = source_stamp(entry.path, entry.parts)
    if now is None:
        return [Finding("source_missing", f"the slide's file {entry.path} is not there")]
    differing = [word for key, word in STAMPS.items() if stamp.get(key) != now.get(key)]
    if not differing:
        return []
    same = " (size and sampled content are the same)" if differing == [STAMPS["mtime_ns"]] else ""
    return [Finding("source_changed", f"the slide's file is not as it was: another {', '.join(differing)}{same}")]


def _check_again(
    out: Path,
    verb: str,
    slides: Sequence[_Slide],
    drawn: Mapping[str, list[int]],
    spool: Path,
    pool: Workers,
    step: Callable[[], None],
) -> None:
    """Predict the super-tiles that were drawn, and compare."""
    there = [slide for slide in slides if not _lacks_source(slide.verified)]
    if verb not in CONFIGS:  # a version that did not write it
        for slide in there:
            slide.verified.notes.append("run.yaml does not tell of which verb it is: no super-tile is predicted again")
        return
    try:
        config = load_config(CONFIGS[verb], out / "run.yaml").model_copy(update={"provenance": {}})
        model = dumps(load_model(config))
    except WsikitError as error:
        for slide in there:
            slide.verified.findings.append(_failed(error, "no super-tile could be predicted again"))
        return
    jobs = [_Job.of(slide, config, spool, drawn[slide.entry.slide_id]) for slide in there]
    by_id = {slide.entry.slide_id: slide for slide in there}
    limit = max((config.task_timeout * (1 + len(job.indices)) for job in jobs), default=None)
    for job, future in bounded(pool, partial(_again, model), jobs, gpu=True, seconds=limit):
        slide = by_id[job.task.entry.slide_id]
        try:
            _compare(slide, future.result())
        except Exception as error:  # noqa: BLE001  # one slide must not hurt another
            slide.verified.findings.append(_failed(error, "its super-tiles could not be predicted again"))
        remove(job.task.folder)
        step()


def _lacks_source(verified: Verified) -> bool:
    return any(finding.code == "source_missing" for finding in verified.findings)


@dataclass(frozen=True, slots=True)
class _Job:
    """Super-tiles of a slide that are to be predicted again."""

    task: SlideTask
    indices: list[int]
    count: int

    @classmethod
    def of(cls, slide: _Slide, config: RunConfig, spool: Path, indices: list[int]) -> _Job:
        """In super-tiles of the size that the run had, spooled elsewhere."""
        config = config.model_copy(update={"supertile": slide.record["supertiles"]["side"]})
        task = SlideTask(slide.entry, spool / slide.entry.slide_id, config, key="", slots=1)
        return cls(task, indices, slide.verified.of)


def _again(model: bytes, job: _Job) -> Again:
    return predict_again(job.task, model, job.indices, job.count)


def _compare(slide: _Slide, again: Again) -> None:
    verified, record = slide.verified, slide.record
    was = record["supertiles"]["digests"]
    verified.supertiles = len(again.digests)
    differing = {**_differing(record.get("versions") or {}, versions())}
    model = (record.get("model") or {}).get("hash")
    if model != again.model:
        differing["model"] = (model, again.model)
    if again.count != len(was):
        said = f"there are {again.count} super-tiles to predict now, and were {len(was)}: other tissue or windows"
        verified.findings.append(Finding("drift", said))
    for index, now in again.digests.items():
        if now != was[index]:
            verified.findings.append(_drifted(Drift(index, again.boxes[index], was[index], now)))
    verified.versions = differing
    if "model" in differing and verified.sound:
        verified.notes.append("the model is another one, and says the same of these super-tiles")


def _drifted(drift: Drift) -> Finding:
    box = ", ".join(f"{value:g}" for value in drift.box)
    said = f"super-tile {drift.index} (level-0 box {box}) gives {drift.now} and gave {drift.was}"
    return Finding("drift", said, drift)


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    names = dict.fromkeys([*was, *now])
    return {name: (was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)}


def cause(slide: Verified) -> str:
    """What may have made a slide drift: what differs, or where else to look."""
    if not slide.versions:
        return (
            "nothing that the record holds differs: look at the device, its drivers, and at whether the model says the "
            "same twice"
        )
    return ", ".join(f"{name} {was or 'none'} -> {now or 'none'}" for name, (was, now) in slide.versions.items())
