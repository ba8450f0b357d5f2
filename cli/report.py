"""``wsikit report``: the report of a run, built again from what lies in its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    out: Annotated[Path, typer.Argument(help="Output folder of a run.")],
) -> None:
    """Build report.html and summary.csv again from the slides' records, also while a run is going on."""
    from wsikit.pipeline.report import write_reports

    from .running import closing

    print(closing(write_reports(out), out))
