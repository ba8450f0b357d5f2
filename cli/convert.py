"""``wsikit convert``: annotation files from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsikit.pipeline.convert import Outcome


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An annotation file, or a folder of them.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The new file; for a folder the new folder, one file each.")
    ],
    source_format: Annotated[
        str | None,
        typer.Option(
            "--from", help="geojson, dsa, aperio, asap, csv, dots or labels; by suffix and content if not given."
        ),
    ] = None,
    target_format: Annotated[
        str | None, typer.Option("--to", help="One of the same; by suffix if not given and only one has it.")
    ] = None,
    slide: Annotated[
        Path | None,
        typer.Option(
            help="The slide, or a folder of slides of the same names. QuPath counts from the corner of the scanned "
            "area: files from or for it need the slide where that is not the corner of the image (MIRAX)."
        ),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per level-0 pixel, for tables in um; the slide's if not given.")
    ] = None,
    downsample: Annotated[float, typer.Option(help="Level-0 pixels per pixel of a label image.", min=1e-3)] = 1.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop, writing nothing, where anything would be left out or changed.")
    ] = False,
) -> None:
    """Convert annotations: QuPath GeoJSON, ASAP and Aperio XML, DSA JSON, label images, tables and images of points.

    Dots are PNGs with a pixel for each point, called NAME_label_point.png or NAME_points.png. In dots and tables areas
    become points; points cannot become areas, and are left out of label images.

    What the new format cannot hold is printed. Exit codes: 0 done, 2 wrong usage or a file that cannot be converted,
    3 some files of a folder failed.
    """
    from wsikit.pipeline.convert import Conversion, convert_file, convert_folder

    how = Conversion(source_format, target_format, slide, mpp, downsample, strict)
    if not source.is_dir():
        _say(convert_file(source, target, how))
        return
    outcomes = [_say(outcome) for outcome in convert_folder(source, target, how)]
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(3)


def _say(outcome: Outcome) -> Outcome:
    if outcome.error is not None:
        remedy = f"; {outcome.error.remedy}" if outcome.error.remedy else ""
        print(f"{outcome.source}: failed ({outcome.error.code}): {outcome.error}{remedy}")
    elif outcome.annotations is not None:
        print(f"{outcome.source} -> {outcome.target}: {len(outcome.annotations)} objects")
        for kind, classes in outcome.annotations.counts().items():
            listed = ", ".join(f"{n} {name or 'without class'}" for name, n in classes.items())
            print(f"  {kind}: {listed}")
        for sentence in outcome.left_out:
            print(f"  changed or left out: {sentence}")
    return outcome
