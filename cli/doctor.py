"""``wsikit doctor``: what would go wrong with slides, and what a run would take, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import running

if TYPE_CHECKING:
    from wsikit.pipeline.doctor import Checkup, Diagnosis

FOUND = 3
"""Exit code where some slide has an error."""
SHOWN = 40
"""Slides up to which those with nothing to say have a row as well."""
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def doctor(
    source: Annotated[
        str, typer.Argument(metavar="SLIDES", help="Folder (searched recursively), glob, one file or CSV manifest.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for doctor.csv and doctor.json; not the slides' own.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model of the run that is planned; nuclei if not given.")
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Look at the files alone; try no model and foretell nothing.")
    ] = False,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel that the model sees; its own if not given.")
    ] = None,
    mag: running.Mag = None,
    mpp_override: running.MppOverride = None,
    num_workers: Annotated[
        int | None,
        typer.Option("--num-workers", "-n", help="Processes, now and of the run; one per core if not given."),
    ] = None,
    tissue: running.Tissue = None,
    device: running.Device = None,
    formats: Annotated[
        str | None,
        typer.Option("--format", help="Comma-separated outputs of the run; geojson.gz,omezarr if not given."),
    ] = None,
    sample: Annotated[int | None, typer.Option(help="Tiles decoded per level; 100 if not given.", min=1)] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every tile of every level.")] = False,
    config: running.Config = None,
    set_: running.Set = None,
    limit: running.Limit = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at slides before computing: damaged tiles, wrong resolutions, missing files, duplicates, tissue, and what a
    run would take in time, disk and memory.

    Nothing is written beside the slides. The same file shows the same sample of tiles each time. Exit codes: 0 no
    slide has an error, 2 wrong usage, 3 some slide has one.
    """
    from wsikit.config import RunConfig, load_config
    from wsikit.pipeline.doctor import SAMPLE, check_up
    from wsikit.pipeline.inputs import find_slides

    flags = {
        "model": model,
        "mpp": running.resolution(mpp, mag),
        "mpp_override": mpp_override,
        "num_workers": num_workers,
        "tissue": tissue,
        "device": device,
        "format": running.names(formats),
    }
    planned = load_config(RunConfig, config, set_ or [], flags)
    entries = find_slides(source, out, isolate=True)[:limit]
    wanted = None if full else sample or SAMPLE
    with _watching(sum(entry.part_of is None for entry in entries), silent=json) as seen:
        checkup = check_up(entries, planned, source=source, out=out, with_model=not no_model, sample=wanted, seen=seen)
    _tell(checkup, out, json=json)
    if any(slide.verdict == "error" for slide in checkup.slides):
        raise typer.Exit(FOUND)


@contextmanager
def _watching(total: int, *, silent: bool) -> Iterator[Any]:
    """A bar on the terminal while slides are looked at, gone at the end."""
    from rich.console import Console
    from rich.progress import Progress

    # not where the output goes, which may be a file
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=silent or not console.is_terminal) as progress:
        task = progress.add_task("looking", total=total)
        yield lambda _: progress.advance(task)


def _tell(checkup: Checkup, out: Path | None, *, json: bool) -> None:
    from wsikit.pipeline.doctor.written import as_json, write

    if out is not None:
        write(checkup, out)
    if json:
        print(as_json(checkup))
        return
    from rich.console import Console

    console = Console()
    console.print(_table(checkup))
    _print_findings(console, checkup)
    _print_closing(console, checkup, out)


def _table(checkup: Checkup) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from wsikit.pipeline.lettering import printable

    from .progress import shortened

    table = Table("slide", "found", box=SIMPLE_HEAD, pad_edge=False)
    shown = [slide for slide in checkup.slides if len(checkup.slides) <= SHOWN or slide.verdict in ("error", "warning")]
    cells = [_cells(slide) for slide in shown]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for slide, row in zip(shown, cells, strict=True):
        title = Text(printable(shortened(slide.slide_id, 40)), overflow="fold")
        found = Text(_worst(slide), STYLES[slide.verdict])
        table.add_row(title, found, *(row.get(column, "") for column in columns))
    return table


def _worst(slide: Diagnosis) -> str:
    """What the first finding means, and how many there are more."""
    if not slide.findings:
        return "ok"
    more = f" (+{len(slide.findings) - 1})" if len(slide.findings) > 1 else ""
    return f"{slide.verdict}: {slide.findings[0].title}{more}"


def _cells(slide: Diagnosis) -> dict[str, str]:
    """Column -> text, of what is known."""
    from wsikit.pipeline.report.formats import duration, number, percent

    facts = slide.facts
    return {
        **({"um/px": f"{facts['mpp']:.4g}"} if facts.get("mpp") else {}),
        **({"tissue": percent(facts["tissue_share"])} if "tissue_share" in facts else {}),
        **({"windows": number(facts["windows"])} if "windows" in facts else {}),
        **({"run": duration(slide.forecast["seconds"])} if slide.forecast else {}),
    }


def _print_findings(console: Any, checkup: Checkup) -> None:
    """Each kind of finding once: what it means, the slides that have it, and what to do."""
    from rich.text import Text

    from wsikit.pipeline.lettering import printable

    for (severity, title), told in _grouped(checkup).items():
        console.print(Text(f"{severity}: ", STYLES[severity]) + Text(title, "bold"))
        for name, message in told["slides"][:SHOWN]:
            console.print(Text(printable(f"  {name}: {message}" if name else f"  {message}")), soft_wrap=True)
        if len(told["slides"]) > SHOWN:
            console.print(f"  and {len(told['slides']) - SHOWN} more")
        for remedy in told["remedies"]:
            console.print(Text(f"  what to do: {printable(remedy)}", "green"), soft_wrap=True)


def _grouped(checkup: Checkup) -> dict[tuple[str, str], dict[str, Any]]:
    """(severity, title) -> slides with their messages, and remedies each once; the worst first."""
    from wsikit.pipeline.doctor.findings import SEVERITIES

    listed = [(slide.slide_id, finding) for slide in checkup.slides for finding in slide.findings]
    listed += [("", finding) for finding in checkup.findings]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, finding in sorted(listed, key=lambda item: SEVERITIES.index(item[1].severity)):
        told = found.setdefault((finding.severity, finding.title), {"slides": [], "remedies": {}})
        told["slides"].append((name, finding.message))
        if finding.remedy:
            told["remedies"][finding.remedy] = None
    return found


def _print_closing(console: Any, checkup: Checkup, out: Path | None) -> None:
    from wsikit.pipeline.doctor.written import counts
    from wsikit.pipeline.report.formats import counted

    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts(checkup).items() if count)
    more = f"; {counted(len(checkup.parts), 'file')} read with others" if checkup.parts else ""
    console.print(f"{counted(len(checkup.slides), 'slide')}: {listed}{more}", highlight=False)
    if checkup.total:
        console.print(_foretold(checkup.total), highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"written to {out / 'doctor.csv'} and doctor.json", highlight=False, soft_wrap=True)


def _foretold(total: Mapping[str, Any]) -> str:
    from wsikit.pipeline.report.formats import counted, duration, size

    slides, windows = counted(total["slides"], "slide"), counted(total["windows"], "window")
    with_ = f"{total['processes']} process{'es' if total['processes'] > 1 else ''}"
    return (
        f"a run of {slides} ({windows}) with {with_}: about {duration(total['seconds'])}, {size(total['bytes'])} of "
        f"outputs and {size(total['spool_bytes'])} beside them meanwhile, {size(total['memory_bytes'])} of memory"
    )
