"""``report.html``, ``summary.csv``, ``regions.csv``: what a run over many slides did, told by what lies in its folder.

``write_reports`` is what a run calls at its end and what ``wsikit report`` calls at any time: both read run.yaml and
the slide.json files (``folder``), so both write the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsikit.pipeline.report.folder import RunFacts, read_run
from wsikit.pipeline.report.page import write_report
from wsikit.pipeline.report.regions import write_regions
from wsikit.pipeline.report.summary import write_summary

__all__ = ["RunFacts", "read_run", "write_report", "write_reports", "write_summary"]


def write_reports(out: Path) -> list[dict[str, Any]]:
    """Write OUT/report.html, OUT/summary.csv and, of slides that have one, OUT/regions.csv of what OUT holds.

    Returns its records in the run's order.

    A run may be going on meanwhile: slides that it has not finished are shown as running or waiting.

    Raises:
        ConfigError: code no_run where OUT is no output folder of a run.
        OutputError: they cannot be written.
    """
    run = read_run(out)
    write_summary(out, run.records)
    write_regions(out, run.records)
    # a file that is read with another one is a row of the summary and no slide of its own
    write_report(out, [record for record in run.records if record["status"] != "skipped"], run=run.facts)
    return run.records
