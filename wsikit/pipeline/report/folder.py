"""A run's output folder read back: run.yaml and the slide.json files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wsikit.errors import ConfigError
from wsikit.pipeline.lease import NAME, find
from wsikit.pipeline.report.facts import bad_record, problem
from wsikit.pipeline.state import SCHEMA

PROVENANCE = "provenance"
"""Key of run.yaml under which a run writes of itself: command, started, versions; ``slides`` (slide id -> path, in the
run's order), ``part_of`` (slide id -> the slide that it is read with), what doing it again takes (``provenance.py``);
and once it has ended ``seconds`` and ``unrecorded`` (what became of slides that no slide.json says it of)."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What holds for the run and not for one slide. All of it is optional."""

    command: str = ""
    """The command line."""
    wall_seconds: float | None = None
    """From start to end of the run; without it the slides' own seconds are added up, and called so."""
    parameters: Mapping[str, Any] | None = None
    """name -> value, as in run.yaml."""
    started: str = ""
    """When, as text."""
    ended: bool = True
    """False while it is going on, and for good where it did not come to its end."""
    stopped: str = ""
    """Where it did not: why, as the end of a sentence about the run."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What a run's output folder says."""

    facts: RunFacts
    records: list[dict[str, Any]]
    """In the run's order, files that are part of another slide included."""


def read_run(out: Path) -> RunFolder:
    """Read run.yaml and every slide.json of a run; what cannot be read becomes the record of a failed slide.

    Raises ConfigError (code no_run) where there is no run.yaml that a run has written.
    """
    values = read_run_yaml(out)
    told = values.pop(PROVENANCE)
    slides = told.get("slides")
    ended = "seconds" in told or slides is None
    facts = RunFacts(
        command=str(told.get("command") or ""),
        wall_seconds=told.get("seconds"),
        parameters={name: value for name, value in values.items() if value not in (None, [], "")},
        started=str(told.get("started") or ""),
        ended=ended,
        stopped="" if ended else _stopped(out, told),
    )
    if slides is None:  # a run of a version that did not write it
        slides = {path.parent.name: "" for path in sorted(out.glob("*/slide.json"))}
    unrecorded = {record["slide_id"]: record for record in told.get("unrecorded") or ()}
    part_of = told.get("part_of") or {}
    return RunFolder(
        facts,
        [
            skipped(slide_id, path, part_of[slide_id])
            if slide_id in part_of
            else unrecorded.get(slide_id) or _record(out / slide_id, slide_id, path, facts)
            for slide_id, path in slides.items()
        ],
    )


def read_run_yaml(out: Path) -> dict[str, Any]:
    """What a run has written into run.yaml: its configuration, and what it says of itself under ``PROVENANCE``.

    Raises ConfigError (code no_run) where there is none.
    """
    path = out / "run.yaml"
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no YAML"
        raise _no_run(out, f"{path.name} cannot be read: {problem}") from error
    told = values.get(PROVENANCE) if isinstance(values, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("slides", {}), dict):
        raise _no_run(out, f"its {path.name} does not tell of a run")
    return dict(values)


def _no_run(out: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"{out} is no output of a run: {problem}",
        code="no_run",
        remedy="give the folder that `wsikit run` was given with -o",
    )


def skipped(slide_id: str, path: str, owner: str) -> dict[str, Any]:
    """The record of a file that is read with another one."""
    dicom = path.lower().endswith(".dcm")
    return {
        "slide_id": slide_id,
        "path": path,
        "status": "skipped",
        "reason": "same_series" if dicom else "same_slide",
        "message": f"a file of {'the same DICOM series as' if dicom else 'the slide'} {owner}, read with it",
    }


STOPPED = {
    "interrupt": "was interrupted",
    "terminated": "was stopped by SIGTERM",
    "walltime": "stopped before the end of its wall time",
    "lease_lost": "lost its output folder to another run",
}
"""Why a run ended before its time -> the end of a sentence about it."""


def _stopped(out: Path, told: Mapping[str, Any]) -> str:
    """Why a run that has not ended is not going on; empty where it is."""
    if "stopped" in told:
        return STOPPED.get(told["stopped"], "was stopped")
    found = find(out / NAME)
    # the clock of this machine will do for what is only shown
    return "died" if found is None or found.is_dead(time.time()) else ""


def _record(folder: Path, slide_id: str, path: str, run: RunFacts) -> dict[str, Any]:
    """The slide's record as it lies on disk, checked; without one the slide waits, or has lost it."""
    known = {"slide_id": slide_id, "path": path}
    try:
        record = json.loads((folder / "slide.json").read_text("utf-8"))
    except FileNotFoundError:
        waiting = {**known, "status": "waiting", "reason": "", "message": "not begun"}
        return bad_record(known, "it is missing") if run.ended else waiting
    except OSError as error:
        return bad_record(known, str(error.strerror))
    except ValueError:
        return bad_record(known, "it is no JSON")
    if not isinstance(record, dict):
        return bad_record(known, "it is no JSON object")
    if record.get("schema") != SCHEMA:
        return bad_record(known, f"its schema is {record.get('schema')!r}, this version of wsikit reads {SCHEMA}")
    record = {**record, "slide_id": slide_id}
    if record.get("status") == "running" and (run.ended or run.stopped):
        record |= {"status": "stopped", "message": "stopped on the way; run again to go on"}
    wrong = problem(record)
    return bad_record({**record, **known} if path else record, wrong) if wrong else record
