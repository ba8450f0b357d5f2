"""``wsikit run``: the main job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wsikit.config import RunConfig
    from wsikit.pipeline.inputs import SlideEntry


def run(
    source: Annotated[
        str, typer.Option("--input", "-i", help="Folder (searched recursively), glob, one file or CSV manifest.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; running again does only what is missing.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="`wsikit models` lists them; nuclei if not given.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel that the model sees; its own if not given.")
    ] = None,
    mag: Annotated[float | None, typer.Option(help="The same as objective power: 20 means --mpp 0.5.")] = None,
    mpp_override: Annotated[
        float | None,
        typer.Option(help="Micrometres per level-0 pixel, for every slide of the input, whatever its file says."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Patches per model call; about 4 megapixels if not given.")
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option("--num-workers", "-n", help="Processes; one per core if not given.")
    ] = None,
    supertile: Annotated[
        int | None, typer.Option(help="Pixels a side that a task reads at once, 4096 at most if not given.")
    ] = None,
    tissue: Annotated[
        str | None,
        typer.Option(help="auto (find it on slides, take plain images whole), detect or whole; auto if not given."),
    ] = None,
    min_tissue: Annotated[
        float | None, typer.Option(help="Smallest tissue share of a patch, 0 to 1; the model's own if not given.")
    ] = None,
    tissue_class: Annotated[
        list[str] | None,
        typer.Option(help="Class that is tissue in a mask that is an annotation file; repeatable; all if not given."),
    ] = None,
    roi: Annotated[
        Path | None,
        typer.Option(help="Annotation file, or folder with one per slide: only what lies inside is run."),
    ] = None,
    roi_class: Annotated[
        list[str] | None, typer.Option(help="Class of --roi that counts; repeatable; all if not given.")
    ] = None,
    qc: Annotated[
        str | None,
        typer.Option(help='Patches good enough to be run: "pen<=0.1,sharpness>=20" or default; all if not given.'),
    ] = None,
    stain: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD:REFERENCE",
            help="Normalise stains: macenko or reinhard, and an image, profile or slide.json to look like.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; auto if not given.")] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="Comma-separated outputs; geojson.gz,omezarr if not given.")
    ] = None,
    ngff: Annotated[
        str | None, typer.Option(help="OME-Zarr version: 0.4 (QuPath reads it) or 0.5 (few files); 0.4 if not given.")
    ] = None,
    split: Annotated[
        int | None, typer.Option(help="Most objects per GeoJSON file; more make several files. One file if not given.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML (`wsikit config init` writes one); --set and flags override it."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the configuration; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many slides.", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Redo slides that are done.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")] = False,
) -> None:
    """Run a model over slides and write objects, masks, pictures and a report.

    Exit codes: 0 all slides complete, 2 wrong usage, 3 some slides not complete.
    """
    from wsikit.config import RunConfig, load_config
    from wsikit.errors import ConfigError
    from wsikit.pipeline.batch import all_complete, run_many
    from wsikit.pipeline.inputs import find_slides

    if mag is not None:
        if mpp is not None or not mag > 0:
            raise ConfigError(f"--mag {mag:g}: give a positive objective power, and not --mpp as well")
        mpp = 10 / mag
    flags = {
        "model": model,
        "mpp": mpp,
        "mpp_override": mpp_override,
        "batch_size": batch_size,
        "num_workers": num_workers,
        "supertile": supertile,
        "tissue": tissue,
        "tissue_class": tissue_class,
        "roi": roi,
        "roi_class": roi_class,
        "qc": qc,
        "stain": stain,
        "min_tissue": min_tissue,
        "device": device,
        "format": [name.strip() for name in formats.split(",")] if formats is not None else None,
        "ngff": ngff,
        "split": split,
    }
    chosen = load_config(RunConfig, config, set_ or [], flags)
    entries = find_slides(source, out)[:limit]
    if dry_run:
        _plan(entries, out, chosen)
        return
    from .progress import observer

    with observer(sum(entry.part_of is None for entry in entries)) as watching:
        command = shlex.join(["wsikit", *sys.argv[1:]])
        records = run_many(entries, out, chosen, force=force, observer=watching, command=command)
    print(_closing(records, out))
    if not all_complete(records):
        raise typer.Exit(3)


def _closing(records: list[dict[str, Any]], out: Path) -> str:
    from collections import Counter

    counts = Counter(record["status"] for record in records)
    listed = ", ".join(
        f"{counts[name]} {name}" for name in ("complete", "partial", "failed", "skipped") if counts[name]
    )
    return f"{len(records)} file{'s' if len(records) != 1 else ''}: {listed}\nreport: {out / 'report.html'}"


def _plan(entries: list[SlideEntry], out: Path, config: RunConfig) -> None:
    from wsikit.pipeline.plan import plan

    for line in plan(entries, out, config):
        print(line)
