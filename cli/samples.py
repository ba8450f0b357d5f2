"""``wsikit samples``: a real slide to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def samples(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("samples"),
    pyramid: Annotated[
        int | None, typer.Option(min=16, help="Also write a multi-level slide of this many pixels square.")
    ] = None,
    tissue: Annotated[float, typer.Option(min=0, max=1, help="Share of that slide that is tissue.")] = 1.0,
) -> None:
    """Find or fetch the sample slide (CMU-1-Small-Region, H&E, CC0) and print the paths written."""
    from wsikit.samples import NAME, sample, settle, write_whole
    from wsikit.slides import open_slide
    from wsikit.slides.pyramid import write_pyramid

    found = sample()
    write_whole(out / NAME, found.read_bytes())
    print(out / NAME)
    if pyramid is not None:
        target = out / f"pyramid-{pyramid}.svs"
        with open_slide(found) as slide:
            fresh = write_pyramid(out / f".new-{target.name}", slide, size=(pyramid, pyramid), tissue=tissue)
        settle(fresh, target)
        print(target)
