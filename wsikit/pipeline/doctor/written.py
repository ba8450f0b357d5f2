"""doctor.json and doctor.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsikit.atomic import output_errors, replace_file
from wsikit.pipeline.doctor import Checkup
from wsikit.pipeline.doctor.findings import SEVERITIES, Diagnosis
from wsikit.pipeline.lettering import printable
from wsikit.pipeline.state import versions

SCHEMA = 1
"""Of doctor.json."""
COLUMNS = ("slide_id", "path", "patient", "verdict", "codes", "findings", "remedies")
FACTS = ("bytes", "reader", "vendor", "width", "height", "levels", "mpp", "power")
MORE_FACTS = ("tiles", "tiles_seen", "tiles_bad", "tissue_mm2", "tissue_share", "windows")
FORECAST = ("seconds", "bytes", "memory_bytes")


def as_json(checkup: Checkup) -> str:
    """All that was found, as one JSON object: ``schema``, ``verdict``, ``slides`` (``Diagnosis.record`` of each),
    ``findings`` of no slide in particular, ``parts`` (path -> slide id), ``total`` and ``versions``.

    Undecodable bytes of file names are escaped, and a number that is none is null.
    """
    said = {
        "schema": SCHEMA,
        "verdict": checkup.verdict,
        "counts": counts(checkup),
        "slides": [slide.record() for slide in checkup.slides],
        "findings": [asdict(finding) for finding in checkup.findings],
        "parts": dict(checkup.parts),
        "total": dict(checkup.total),
        "versions": versions(),
    }
    return json.dumps(_finite(said), indent=2, ensure_ascii=True, allow_nan=False)


def counts(checkup: Checkup) -> dict[str, int]:
    """Verdict -> slides."""
    verdicts = [slide.verdict for slide in checkup.slides]
    return {verdict: verdicts.count(verdict) for verdict in (*SEVERITIES, "ok")}


def as_csv(checkup: Checkup) -> str:
    """A row per slide, the worst finding first in its cells; empty where not known. With the columns slide_id, path,
    patient and mpp it is a manifest too, once the slides that are not to be run are taken out."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *FACTS, *MORE_FACTS, *(f"run_{name}" for name in FORECAST)])
    for slide in checkup.slides:
        writer.writerow(["" if cell is None else printable(cell) for cell in _cells(slide)])
    return text.getvalue()


def write(checkup: Checkup, out: Path) -> None:
    """Write OUT/doctor.csv and OUT/doctor.json. Raises OutputError."""
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "doctor.csv", as_csv(checkup).encode())
    replace_file(out / "doctor.json", as_json(checkup).encode())


def _cells(slide: Diagnosis) -> list[Any]:
    findings = slide.findings
    absolute = str(Path(slide.path).absolute())
    return [
        *(slide.slide_id, absolute, slide.patient, slide.verdict),
        " ".join(dict.fromkeys(finding.code for finding in findings)),
        " | ".join(finding.message for finding in findings),
        " | ".join(dict.fromkeys(finding.remedy for finding in findings if finding.remedy)),
        *(_rounded(slide.facts.get(name)) for name in (*FACTS, *MORE_FACTS)),
        *(_rounded(slide.forecast.get(name)) for name in FORECAST),
    ]


def _rounded(value: Any) -> Any:
    """Numbers to six digits: an mpp of them is exact to a pixel over the largest slide."""
    return value if not isinstance(value, float) else round(value) if abs(value) >= 1e6 else float(f"{value:.6g}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
