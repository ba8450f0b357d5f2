"""``wsikit train``: a method on weak labels, to a checkpoint."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    method: Annotated[str, typer.Argument(help="`wsikit models` lists them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for stages, curves and the checkpoint.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML; `wsikit config init METHOD.yaml` writes one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="What to learn from; wins over the file.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; auto if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits, first weights and order; 0 if not given.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option; counter.recipe.epochs=10.")
    ] = None,
) -> None:
    """Train a method; the same command goes on where an earlier one was ended.

    Images are split by patient where patients are known. The epoch is chosen on the validation images, and what the
    checkpoint's card says was measured on test images that training never saw. `wsikit run -m METHOD:CHECKPOINT` runs
    it.
    """
    from wsikit.atomic import output_errors
    from wsikit.config import load_config
    from wsikit.pipeline.lease import Lease
    from wsikit.pipeline.stopping import Stop
    from wsikit.predictors import METHODS

    from .training import Progress, show_card

    module = METHODS.load(method)
    settings = load_config(module.Config, config, overrides or (), {"data": data, "device": device, "seed": seed})
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with Lease(out, shlex.join(["wsikit", *sys.argv[1:]]), Stop()), Progress() as progress:
        checkpoint = module.train(settings, out, progress)
    show_card(method, checkpoint)
