"""``wsikit tile``: patch datasets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from . import running


def tile(
    source: running.Source = None,
    out: running.Out = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of the patches; 0.5 if not given.")] = None,
    mag: running.Mag = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="PX",
            help="Side of the patches in pixels; native: as the file's own tiles; 256 if not given.",
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that neighbouring patches share, less than the size; 0 if not given.")
    ] = None,
    edge: Annotated[
        str | None,
        typer.Option(help="Patches past the slide's edge: drop, or pad with background; drop if not given."),
    ] = None,
    min_tissue: Annotated[
        float | None, typer.Option(help="Smallest tissue share of a patch, 0 to 1; 0.25 if not given.")
    ] = None,
    tissue: running.Tissue = None,
    tissue_class: running.TissueClass = None,
    roi: running.Roi = None,
    roi_class: running.RoiClass = None,
    qc: running.Qc = None,
    coords: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Cut at the coordinates of a CLAM or TRIDENT run or of --format coords (<slide_id>.h5) instead.",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="zarr, folder, webdataset or coords (for CLAM, no pixels); zarr if not given."),
    ] = None,
    passthrough: Annotated[
        str | None,
        typer.Option(
            help="Patches that are one JPEG tile of the file keep its bytes, with no decoding: auto (where possible), "
            "never, only (make no others); auto if not given."
        ),
    ] = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify", help="Decode those too, so that a damaged tile is found now; off if not given."
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="JPEG quality of the patches that are encoded, 1 to 100; 90 if not given.")
    ] = None,
    subsampling: Annotated[
        str | None,
        typer.Option(
            help="Of their colours: 444 (none), 422, 420, or auto (that of the file's own tiles where patches lie on "
            "their blocks of 16 px, else 444); auto if not given."
        ),
    ] = None,
    lossless: Annotated[
        bool | None,
        typer.Option("--lossless/--lossy", help="PNG, unless all patches keep their bytes; lossy if not given."),
    ] = None,
    skip_glass: Annotated[
        str | None,
        typer.Option(
            help="Leave out patches whose tiles are compressed as small as the slide's glass: auto or off; auto if not "
            "given."
        ),
    ] = None,
    scaled_decode: Annotated[
        bool | None,
        typer.Option(
            "--scaled-decode/--no-scaled-decode",
            help="Where mpp lies between two levels, decode at a reduced size; on if not given.",
        ),
    ] = None,
    mpp_override: running.MppOverride = None,
    num_workers: Annotated[
        int | None, typer.Option("--num-workers", "-n", help="Threads; one per core if not given.")
    ] = None,
    isolate: running.Isolate = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="local (supervised processes) or threads; local if not given."),
    ] = None,
    task_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Longest that a slide may take before it is ended; 21600 if not given."),
    ] = None,
    config: running.Config = None,
    set_: running.Set = None,
    limit: running.Limit = None,
    force: running.Force = False,
    retry_failed: running.RetryFailed = False,
    walltime: running.Walltime = None,
    dry_run: running.DryRun = False,
) -> None:
    """Cut slides into patch datasets, one per slide: Zarr, a folder of images, WebDataset, or coordinates alone.

    Patches lie on a grid from the slide's upper left corner and hold enough tissue. Those that are exactly a tile of
    the file are its compressed bytes, untouched; the others are encoded once. A manifest's patient, label and split go
    with them. Exit codes: 0 all slides complete, 2 wrong usage, 3 some slides not complete, 4 stopped by --walltime,
    130 by Ctrl-C, 143 by SIGTERM: run again to go on.
    """
    from wsikit.config import TileConfig, load_config
    from wsikit.pipeline.tile import plan_tiling, tile_many

    flags = {
        "mpp": running.resolution(mpp, mag),
        "size": int(size) if size and size.isdecimal() else size,
        "overlap": overlap,
        "edge": edge,
        "min_tissue": min_tissue,
        "tissue": tissue,
        "tissue_class": tissue_class,
        "roi": roi,
        "roi_class": roi_class,
        "qc": qc,
        "coords": coords,
        "format": format_,
        "passthrough": passthrough,
        "verify": verify,
        "quality": quality,
        "subsampling": subsampling,
        "lossless": lossless,
        "skip_glass": skip_glass,
        "scaled_decode": scaled_decode,
        "mpp_override": mpp_override,
        "num_workers": num_workers,
        "isolate": isolate,
        "cluster": cluster,
        "task_timeout": task_timeout,
    }
    chosen = load_config(TileConfig, config, set_ or [], flags)
    if chosen.cluster is None:
        chosen = chosen.model_copy(update={"cluster": "local"})
    chosen, again = running.begun(chosen, config, source, out, limit)
    options: dict[str, Any] = {"force": force, "retry_failed": retry_failed}
    if dry_run:
        running.foretold(plan_tiling(again.entries, again.out, chosen, **options), walltime)
        return
    work = partial(tile_many, again.entries, again.out, chosen, source=again.input, **options)
    running.watched(again, work, walltime)
