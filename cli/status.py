"""``wsikit status``: how far a run is."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsikit.pipeline.report.facts import SlideFacts
    from wsikit.pipeline.status import Status

SHOWN = 10
"""Slides listed one by one under each heading; --json has all."""


def status(
    out: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """Say what of a run is done, running, waiting and failed, and why, and how long it will take. Writes nothing.

    Works while the run goes on, from any machine that sees the folder, and after it has ended or died.

    Exit codes: 0 all slides complete, 2 no folder of a run, 3 some slides not complete.
    """
    from wsikit.pipeline.lettering import printable
    from wsikit.pipeline.status import as_json, read_status

    found = read_status(out)
    if json:
        print(json_text.dumps(as_json(found), indent=2))
    else:
        for line in _lines(out, found):
            print(printable(line))
    if not found.all_complete:
        raise typer.Exit(3)


def _lines(out: Path, found: Status) -> Iterator[str]:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    yield f"{out}: {len(found.slides)} file{'s' if len(found.slides) != 1 else ''}: {counts}"
    yield f"run: {_run(found)}"
    unfinished = found.of("running", "stopped")
    if unfinished:
        yield "on the way:"
        yield from _listed(f"  {slide.slide_id}: {_progress(slide)}" for slide in unfinished)
    for problem in found.problems:
        yield f"{problem.status}: {problem.cause} ({problem.code}): {len(problem.slides)}"
        yield from _listed(f"  {slide.slide_id}: {slide.message}" for _, slide in problem.slides)
        yield from (f"  what to do: {remedy}" for remedy in problem.remedies)
    yield from _time_left(found)


def _run(found: Status) -> str:
    if found.alive and found.lease:
        return f"going on, {found.lease.holder}, last heartbeat {found.heartbeat_s:.0f} s ago"
    if found.run.ended:
        return f"ended, started {found.run.started}"
    return f"{found.run.stopped}, started {found.run.started}; run the same command again to go on"


def _progress(slide: SlideFacts) -> str:
    parts = f"{slide.progress.done} of {slide.progress.total} parts" if slide.progress else "no part noted yet"
    again = f", attempt {slide.attempts}" if slide.attempts > 1 else ""
    return f"{parts}, {slide.host} pid {slide.pid} since {slide.started}{again}"


def _listed(lines: Iterator[str]) -> Iterator[str]:
    every = list(lines)
    yield from every[:SHOWN]
    if len(every) > SHOWN:
        yield f"  and {len(every) - SHOWN} more"


def _time_left(found: Status) -> Iterator[str]:
    from wsikit.pipeline.report.formats import duration, size

    pace = found.pace
    if pace is not None:
        how = f"{size(pace.left)} of slides at the pace of this run, {size(pace.bytes)} in {duration(pace.seconds)}"
        yield f"{'time left' if found.alive else 'it would still take'}: about {duration(pace.seconds_left)} ({how})"
