"""``run.yaml``: the configuration of a run and what the run says of itself, enough to build its report again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from wsikit.atomic import replace_file
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.lease import Lease
from wsikit.pipeline.report.folder import PROVENANCE
from wsikit.pipeline.state import Record, read_record, versions


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(entries: Sequence[SlideEntry], lease: Lease) -> dict[str, Any]:
    """What run.yaml says of a run that begins, beyond its configuration."""
    holder, dead = lease.holder.facts(), lease.taken_over
    return {
        "command": holder.pop("command"),
        **holder,
        **({"taken_over": dead.holder.facts()} if dead else {}),
        "versions": versions(),
        "slides": {entry.slide_id: str(entry.path) for entry in entries},
        "part_of": {entry.slide_id: entry.part_of for entry in entries if entry.part_of is not None},
    }


def unrecorded(out: Path, records: Iterable[Record]) -> list[Record]:
    """Outcomes that no slide.json tells, because it could not be written or still tells of results that were kept."""
    keys = ("slide_id", "path", "patient", "status", "reason", "message", "remedy", "seconds")
    return [
        {key: record[key] for key in keys if key in record}
        for record in records
        if read_record(out / record["slide_id"]) != record
    ]


def write_run_yaml(out: Path, config: BaseModel, told: dict[str, Any]) -> None:
    """Replace OUT/run.yaml. Raises OutputError."""
    values = config.model_dump(mode="json") | {PROVENANCE: told}
    replace_file(out / "run.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
