"""``wsikit tissue``: where the tissue is, without running a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tissue(
    source: Annotated[str, typer.Option("--input", "-i", help="Folder, glob, one file or CSV manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder, one folder per slide.")],
    mpp_override: Annotated[
        float | None,
        typer.Option(help="Micrometres per level-0 pixel, for every slide of the input, whatever its file says."),
    ] = None,
) -> None:
    """Find tissue and write OUT/<slide>/tissue.geojson, an annotation that opens in QuPath, and overview.png."""
    from wsikit.errors import WsikitError
    from wsikit.pipeline.inputs import find_slides
    from wsikit.pipeline.tissue import write_tissue

    failed = 0
    for entry in find_slides(source, out):
        if entry.part_of is not None:
            continue
        try:
            area = write_tissue(entry, out / entry.slide_id, mpp_override)
        except WsikitError as error:
            failed += 1
            print(f"{entry.slide_id}: failed ({error.code}): {error}" + (f"; {error.remedy}" if error.remedy else ""))
        else:
            print(f"{entry.slide_id}: {area / 1e6:.2f} mm^2 of tissue, {out / entry.slide_id / 'tissue.geojson'}")
    if failed:
        raise typer.Exit(3)
