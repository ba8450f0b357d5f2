"""``wsikit tissue``: where the tissue is, without running a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import running

if TYPE_CHECKING:
    from wsikit.pipeline.tissue import TissueOutcome


def tissue(
    source: Annotated[str, typer.Option("--input", "-i", help="Folder, glob, one file or CSV manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder, one folder per slide.")],
    mpp_override: Annotated[
        float | None,
        typer.Option(help="Micrometres per level-0 pixel, for every slide of the input, whatever its file says."),
    ] = None,
    isolate: running.Isolate = None,
) -> None:
    """Find tissue and write it to OUT/<slide>/, of plain images too: pen ink and cover-slip edges are left out.

    tissue.geojson is an annotation that opens in QuPath, tissue.png a mask that a manifest's column mask_path takes,
    overview.png a picture (tissue-overview.png where a run has put its own). Exit codes: 0 all done, 2 wrong usage,
    3 some slides failed.
    """
    from wsikit.pipeline.inputs import find_slides
    from wsikit.pipeline.tissue import find_tissues

    entries = find_slides(source, out, isolate=bool(isolate))
    done = failed = 0
    for outcome in find_tissues(entries, out, mpp_override, isolate=bool(isolate)):
        print(_line(outcome), flush=True)
        done, failed = done + (outcome.mask is not None), failed + (outcome.mask is None)
    print(f"{done + failed} slide{'s' if done + failed != 1 else ''}: {done} done, {failed} failed; written to {out}")
    if failed:
        raise typer.Exit(3)


def _line(outcome: TissueOutcome) -> str:
    if outcome.mask is None:
        why = outcome.failed
        text = f"{outcome.slide_id}: failed ({why['reason']}): {why['message']}"
        return f"{text}\n  what to do: {why['remedy']}" if why["remedy"] else text
    inks = outcome.mask.info.get("inks")
    pen = f", pen ink left out ({inks})" if inks else ""
    return f"{outcome.slide_id}: {outcome.mask.area_um2 / 1e6:.2f} mm^2 of tissue{pen}"
