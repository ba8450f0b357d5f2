"""``wsikit verify``: whether a run's folder holds what the run left, and whether it would come out the same."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import running

if TYPE_CHECKING:
    from rich.table import Table

    from wsikit.pipeline.verify import Verified

SHOWN = 40
"""Slides up to which sound ones have a row as well."""


def verify(
    out: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    sample: Annotated[
        int, typer.Option("--sample", help="Super-tiles of each slide that are predicted again.", min=0)
    ] = 2,
    no_rerun: Annotated[
        bool, typer.Option("--no-rerun", help="Predict none again: checksums and slides alone, without the model.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Another number draws other super-tiles.")] = 0,
    num_workers: running.NumWorkers = None,
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """Check a run: outputs by checksum, slides by what their files were, and some super-tiles by predicting them again.

    Where the model says something else than it did, the super-tiles are named, and the versions that differ since.
    Slides without results (failed, waiting) are none of its concern: `wsikit status` tells of them. Nothing is written
    into the folder.

    Exit codes: 0 all that could be checked is sound, 2 no folder of a run, 3 something is not.
    """
    from wsikit.pipeline.verify import as_json
    from wsikit.pipeline.verify import verify as verified

    with _watching(silent=json) as advance:
        slides = verified(out, sample=0 if no_rerun else sample, seed=seed, workers=num_workers, advance=advance)
    if json:
        print(json_text.dumps(as_json(slides), indent=2))
    else:
        _tell(slides)
    if not all(slide.sound for slide in slides):
        raise typer.Exit(3)


@contextmanager
def _watching(*, silent: bool) -> Iterator[Any]:
    """A bar on the terminal, gone at the end."""
    from rich.console import Console
    from rich.progress import Progress

    # not where the output goes, which may be a file
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=silent or not console.is_terminal) as progress:
        task = progress.add_task("verifying", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _tell(slides: Sequence[Verified]) -> None:
    from rich.console import Console

    from wsikit.pipeline.lettering import printable

    Console().print(_table([slide for slide in slides if len(slides) <= SHOWN or not slide.sound]))
    for slide in slides:
        for line in _said(slide):
            print(printable(f"{slide.slide_id}: {line}"))
    wrong = sum(not slide.sound for slide in slides)
    unchecked = sum(slide.sound and not slide.outputs for slide in slides)
    checked = len(slides) - unchecked
    print(f"{checked} of {len(slides)} slides checked, {checked - wrong} sound, {wrong} not")


def _table(slides: Sequence[Verified]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from wsikit.pipeline.lettering import printable

    from .progress import shortened

    table = Table("slide", "status", "found", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("outputs", "super-tiles"):
        table.add_column(name, justify="right", no_wrap=True)
    for slide in slides:
        found, style = _verdict(slide)
        title = Text(printable(shortened(slide.slide_id, 40)), overflow="fold")
        redone = f"{slide.supertiles} of {slide.of}" if slide.of else ""
        table.add_row(title, slide.status, Text(found, style), str(slide.outputs or ""), redone)
    return table


def _verdict(slide: Verified) -> tuple[str, str]:
    """In a word or two, and its colour."""
    if not slide.sound:
        return ", ".join(dict.fromkeys(finding.code.replace("_", " ") for finding in slide.findings)), "bold red"
    return ("sound", "green") if slide.outputs else ("not checked", "yellow")


def _said(slide: Verified) -> Iterator[str]:
    from wsikit.pipeline.verify import cause

    yield from (finding.message for finding in slide.findings)
    if slide.drifted:
        yield f"since then: {cause(slide)}"
    yield from slide.notes
