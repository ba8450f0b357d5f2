"""``wsikit run``: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from . import running


def run(
    source: running.Source = None,
    out: running.Out = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A name (`wsikit models` lists them), predictor.py:MyPredictor, or model.pt or model.onnx with a card "
            "beside it; nuclei if not given.",
        ),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel that the model sees; its own if not given.")
    ] = None,
    mag: running.Mag = None,
    mpp_override: running.MppOverride = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Patches per model call; about 4 megapixels if not given.")
    ] = None,
    num_workers: running.NumWorkers = None,
    supertile: running.Supertile = None,
    tissue: running.Tissue = None,
    min_tissue: Annotated[
        float | None, typer.Option(help="Smallest tissue share of a patch, 0 to 1; the model's own if not given.")
    ] = None,
    tissue_class: running.TissueClass = None,
    roi: running.Roi = None,
    roi_class: running.RoiClass = None,
    qc: running.Qc = None,
    stain: running.Stain = None,
    isolate: running.Isolate = None,
    device: running.Device = None,
    cluster: running.Cluster = None,
    cluster_options: running.ClusterOptions = None,
    gpus: running.Gpus = None,
    task_timeout: running.TaskTimeout = None,
    max_memory: running.MaxMemory = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="Comma-separated outputs; geojson.gz,omezarr if not given.")
    ] = None,
    ngff: Annotated[
        str | None, typer.Option(help="OME-Zarr version: 0.4 (QuPath reads it) or 0.5 (few files); 0.4 if not given.")
    ] = None,
    split: Annotated[
        int | None, typer.Option(help="Most objects per GeoJSON file; more make several files. One file if not given.")
    ] = None,
    config: running.Config = None,
    set_: running.Set = None,
    limit: running.Limit = None,
    force: running.Force = False,
    retry_failed: running.RetryFailed = False,
    walltime: running.Walltime = None,
    dry_run: running.DryRun = False,
) -> None:
    """Run a model over slides and write objects, masks, pictures and a report.

    Exit codes: 0 all slides complete, 2 wrong usage, 3 some slides not complete, 4 stopped by --walltime, 130 by
    Ctrl-C, 143 by SIGTERM: run again to go on.
    """
    from wsikit.config import RunConfig, load_config

    flags = {
        "model": model,
        "mpp": running.resolution(mpp, mag),
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
        "isolate": isolate,
        "device": device,
        "cluster": cluster,
        "cluster_options": cluster_options,
        "gpus": running.gpus(gpus),
        "task_timeout": task_timeout,
        "max_memory": max_memory,
        "format": running.names(formats),
        "ngff": ngff,
        "split": split,
    }
    chosen = load_config(RunConfig, config, set_ or [], flags)
    running.carry_out(
        chosen, config, source, out, limit, force=force, retry_failed=retry_failed, walltime=walltime, dry_run=dry_run
    )
