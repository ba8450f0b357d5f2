"""The regions of all slides of a run in one table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsikit.atomic import output_errors
from wsikit.pipeline.regions import REGIONS, write_rows
from wsikit.pipeline.report.facts import SlideFacts


def write_regions(out_dir: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write OUT/regions.csv from those of the slides, in the order of their records; none where no slide has one.

    Columns are those that any slide has, in order of their first appearance; what a slide has not is empty.

    Raises:
        OutputError: one cannot be read, or it cannot be written.
    """
    slides = [SlideFacts.of(record) for record in records]
    paths = [out_dir / slide.slide_id / REGIONS for slide in slides if slide.done and REGIONS in slide.outputs]
    path = out_dir / REGIONS
    with output_errors(path):
        if not paths:
            path.unlink(missing_ok=True)
            return
        tables = [_read(found) for found in paths if found.is_file()]
    columns = list(dict.fromkeys(name for names, _ in tables for name in names))
    write_rows(path, columns, ([row.get(name, "") for name in columns] for _, rows in tables for row in rows))


def _read(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Columns and rows. Somebody may have changed the file: what is no text is replaced, not an error."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames or (), list(reader)
