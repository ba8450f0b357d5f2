"""``run.yaml``: a run's configuration and what it says of itself: enough to report on it and to do it again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from wsikit.atomic import replace_file
from wsikit.config import TissueConfig
from wsikit.errors import ConfigError
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.lease import Lease
from wsikit.pipeline.report.folder import PROVENANCE
from wsikit.pipeline.state import Record, read_record, versions
from wsikit.slides.builds import reader_builds

SEEDS = "none: wsikit draws nothing at random here"
FILES = ("roi", "coords", "cluster_options")
"""Options that name a file or a folder."""
NAMES = ("model", "stain")
"""Options that may, beside something else (METHOD:FILE, FILE:CLASS)."""
_PATHS = ("mask_path", "roi_path")
_MANIFEST = ("mpp", "patient", "split", "label", *_PATHS)
"""What a manifest says of a slide, by its name in ``SlideEntry``."""


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(
    entries: Sequence[SlideEntry], lease: Lease, config: TissueConfig, told: Mapping[str, Any]
) -> dict[str, Any]:
    """What run.yaml says of a run that begins, beyond its configuration.

    Args:
        entries: its slides.
        lease: who runs it.
        config: tells the verb.
        told: what else the caller knows: ``input`` as it was given, ``model`` with its name and hash.
    """
    holder, dead = lease.holder.facts(), lease.taken_over
    return {
        "verb": config.verb,
        "command": holder.pop("command"),
        **holder,
        **({"taken_over": dead.holder.facts()} if dead else {}),
        "folder": str(Path.cwd()),
        **told,
        "seeds": SEEDS,
        "versions": versions(),
        "readers": reader_builds(),
        "slides": {entry.slide_id: absolute(entry.path) for entry in entries},
        "part_of": {entry.slide_id: entry.part_of for entry in entries if entry.part_of is not None},
        "manifest": {entry.slide_id: found for entry in entries if (found := _manifest(entry))},
    }


def given(source: str) -> dict[str, Any]:
    """The input of a run as ``find_slides`` took it, found from any folder; nothing where none is known."""
    return {"input": absolute(source)} if source else {}


def absolute(path: Path | str) -> str:
    """Found from any folder."""
    return os.path.abspath(path)  # noqa: PTH100  # with links as they are: they may be how slides are named


def _manifest(entry: SlideEntry) -> dict[str, Any]:
    said = {name: getattr(entry, name) for name in _MANIFEST if getattr(entry, name) is not None}
    return said | {name: absolute(said[name]) for name in _PATHS if name in said}


def recorded_entries(told: Mapping[str, Any]) -> list[SlideEntry]:
    """The slides of a run as it found them, from the provenance in its run.yaml; empty where it did not write them."""
    part_of, manifest = told.get("part_of") or {}, told.get("manifest") or {}
    parts: dict[str, list[Path]] = {}
    for name, owner in part_of.items():
        parts.setdefault(owner, []).append(Path(told["slides"][name]))
    return [
        SlideEntry(name, Path(path), part_of=part_of.get(name), parts=(*parts.get(name, ()),), **_said(manifest, name))
        for name, path in (told.get("slides") or {}).items()
    ]


def _said(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    said = {key: value for key, value in manifest.get(name, {}).items() if key in _MANIFEST}
    return said | {key: Path(said[key]) for key in _PATHS if key in said}


@dataclass(frozen=True, slots=True)
class Repeated:
    """A run that is told by another one's run.yaml."""

    entries: list[SlideEntry]
    out: Path
    input: str
    """What it is given as input, for its own run.yaml."""
    said: str
    """Which input it takes, in words; nothing where the caller gave it."""


def repeated(config: TissueConfig, file: Path | None, source: str | None, out: Path | None) -> Repeated:
    """Slides and output folder of a run whose configuration may be another run's run.yaml, which knows both.

    Args:
        config: as loaded from ``file``, with its provenance.
        file: run.yaml, or any other configuration.
        source: see ``find_slides``; None is the slides of the run in ``file``, as their manifest described them.
        out: None is the folder that ``file`` lies in, whose run then goes on.

    Raises ConfigError where one is not given and cannot be known, where ``file`` is of another verb, and what
    ``find_slides`` does.
    """
    told = config.provenance
    if told.get("verb", config.verb) != config.verb:
        raise ConfigError(f"{file} is of wsikit {told['verb']}, not of wsikit {config.verb}")
    is_run = file is not None and "slides" in told
    missing = [name for name, value in (("-i", source), ("-o", out)) if value is None and not is_run]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} must be given",
            remedy="or give -c OUT/run.yaml, which knows them",
        )
    folder = out or Path(file or "").parent
    if source is not None:
        return Repeated(find_slides(source, folder, isolate=config.isolate), folder, source, "")
    entries = recorded_entries(told)
    given = f", which was given {told['input']}" if "input" in told else ""
    said = f"input: the {len(entries)} files of the run in {file}{given}; -i takes another input"
    return Repeated(entries, folder, str(told.get("input", "")), said)


def unrecorded(out: Path, records: Iterable[Record]) -> list[Record]:
    """Outcomes that no slide.json tells, because it could not be written or still tells of results that were kept."""
    keys = ("slide_id", "path", "patient", "status", "reason", "message", "remedy", "seconds")
    return [
        {key: record[key] for key in keys if key in record}
        for record in records
        if read_record(out / record["slide_id"]) != record
    ]


def write_run_yaml(out: Path, config: TissueConfig, told: Mapping[str, Any]) -> None:
    """Replace OUT/run.yaml; files are named so that they are found from any folder. Raises OutputError."""
    values = config.model_dump(mode="json")
    values |= {name: absolute(values[name]) for name in FILES if values.get(name)}
    values |= {name: _found_anywhere(values[name]) for name in NAMES if values.get(name)}
    values |= {PROVENANCE: dict(told)}
    # not by libyaml, which is faster and refuses names that no encoding fits
    replace_file(out / "run.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def _found_anywhere(text: str) -> str:
    """Those of the parts that name a file or a folder made absolute; a plain word may be a name of the registry."""
    if _is_path(text):
        return absolute(text)
    return ":".join(absolute(part) if _is_path(part) else part for part in text.split(":"))


def _is_path(text: str) -> bool:
    path = Path(text)
    try:
        return (len(path.parts) > 1 or path.suffix != "") and path.exists()
    except (OSError, ValueError):
        return False
