"""``wsikit embed``: feature vectors of patches."""

from __future__ import annotations

from typing import Annotated

import typer

from . import running


def embed(
    source: running.Source = None,
    out: running.Out = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The encoder: a timm name (resnet18), NAME:WEIGHTS, a TorchScript file, or a folder with config.json.",
        ),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of the patches; 0.5 if not given.")] = None,
    mag: running.Mag = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of the patches in pixels; what the encoder takes if not given.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that neighbouring patches share, an even number; 0 if not given.")
    ] = None,
    mpp_override: running.MppOverride = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", help="Patches in a pass on a GPU, 64 if not given; on the CPU it is 8."),
    ] = None,
    num_workers: running.NumWorkers = None,
    supertile: running.Supertile = None,
    tissue: running.Tissue = None,
    min_tissue: Annotated[
        float | None, typer.Option(help="Smallest tissue share of a patch, 0 to 1; 0.25 if not given.")
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
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; what the card says, else float32, if not given.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format", help="features.zarr, features.h5 (for CLAM, TRIDENT) or both; the first if not given."
        ),
    ] = None,
    config: running.Config = None,
    set_: running.Set = None,
    limit: running.Limit = None,
    force: running.Force = False,
    retry_failed: running.RetryFailed = False,
    walltime: running.Walltime = None,
    dry_run: running.DryRun = False,
) -> None:
    """Make a feature vector of every patch of tissue with an encoder, and write tables, pictures and a report.

    Nothing is downloaded: weights are a file, or lie in the Hugging Face cache already.

    Exit codes: 0 all slides complete, 2 wrong usage, 3 some slides not complete, 4 stopped by --walltime, 130 by
    Ctrl-C, 143 by SIGTERM: run again to go on.
    """
    from wsikit.config import EmbedConfig, load_config

    flags = {
        "model": model,
        "mpp": running.resolution(mpp, mag),
        "patch": patch,
        "overlap": overlap,
        "mpp_override": mpp_override,
        "batch_size": batch_size,
        "num_workers": num_workers,
        "supertile": supertile,
        "tissue": tissue,
        "min_tissue": min_tissue,
        "tissue_class": tissue_class,
        "roi": roi,
        "roi_class": roi_class,
        "qc": qc,
        "stain": stain,
        "isolate": isolate,
        "device": device,
        "cluster": cluster,
        "cluster_options": cluster_options,
        "gpus": running.gpus(gpus),
        "task_timeout": task_timeout,
        "max_memory": max_memory,
        "precision": precision,
        "format": running.names(formats),
    }
    chosen = load_config(EmbedConfig, config, set_ or [], flags)
    running.carry_out(
        chosen, config, source, out, limit, force=force, retry_failed=retry_failed, walltime=walltime, dry_run=dry_run
    )
