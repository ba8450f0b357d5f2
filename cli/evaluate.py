"""``wsikit evaluate``: a model against what experts said."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import running

if TYPE_CHECKING:
    from wsikit.pipeline.evaluate import Evaluation, Summary


class Split(StrEnum):
    """Parts of training data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


SHOWN = 8
"""Images that failed are named up to this many."""


def evaluate(
    model: Annotated[str, typer.Argument(help="`wsikit models` lists them.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of images with their truth beside them; or a pattern, one image, a manifest. With --split: "
            "where the training data lies now, if it moved."
        ),
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(help="For METHOD:CHECKPOINT: the method's own metrics on this part of its training data."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for metrics.csv, metrics.json and examples.png.")
    ] = None,
    mpp_override: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of every image, whatever its file says.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel that the model sees; its own if not given.")
    ] = None,
    radius_um: Annotated[float, typer.Option(help="Largest distance of a detection from its true point, um.")] = 6.0,
    mask_class: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE=NAME",
            help="What a value of a class mask means: a class of the model, or ignore. If not given, 0 is background "
            "and the others are places in the model's list of classes from 1.",
        ),
    ] = None,
    stain: running.Stain = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; auto if not given.")] = None,
    num_workers: Annotated[int, typer.Option("--num-workers", "-n", help="Processes.", min=1)] = 1,
) -> None:
    """Run a model over annotated images and say how good it is: F1, PQ, AJI, Dice, IoU, counts.

    The truth of IMAGE.png is IMAGE_labels.png (every object a number of its own), IMAGE_mask.png (classes), IMAGE.xml
    (Aperio), IMAGE.geojson (QuPath) or IMAGE.csv (points), whichever is there. All of an image counts as tissue.

    Of a GeoJSON file, detections and cells are the objects where there are any, a cell by its nucleus if it has one.
    Else annotations are: points where there are any, and areas beside them are no objects. What was left out is said.

    Exit codes: 0 all images scored, 2 wrong usage or no truth, 3 some images failed.
    """
    if split is not None:
        _evaluate_split(model, split.value, data, device, out)
        return
    if data is None:
        raise typer.BadParameter("a folder of annotated images is missing", param_hint="--data")
    from wsikit.config import RunConfig, load_config
    from wsikit.pipeline.evaluate import evaluate as measure
    from wsikit.pipeline.model import load_model
    from wsikit.pipeline.scores import Settings

    flags = {"model": model, "mpp": mpp, "mpp_override": mpp_override, "device": device, "stain": stain}
    config = load_config(RunConfig, None, (), flags)
    settings = Settings(radius_um, config.mpp_override, dict(_meaning(text) for text in mask_class or []))
    command = shlex.join(["wsikit", *sys.argv[1:]])
    evaluation = measure(
        load_model(config), data, settings=settings, limit=limit, num_workers=num_workers, out=out, command=command
    )
    _show(evaluation)
    if out is not None:
        drawn = ", examples.png" if (out / "examples.png").exists() else ""
        print(f"written: {out / 'metrics.csv'}, metrics.json{drawn}")
    if not evaluation.all_complete:
        raise typer.Exit(3)


def _evaluate_split(model: str, split: str, data: str | None, device: str | None, out: Path | None) -> None:
    """The metrics that a method has for what it learns, which need no truth but its labels."""
    from rich.console import Console
    from rich.table import Table

    from wsikit.atomic import output_errors, replace_file
    from wsikit.errors import ConfigError
    from wsikit.predictors import METHODS
    from wsikit.training.checkpoint import load_checkpoint

    method, colon, checkpoint = model.partition(":")
    if not (colon and method in METHODS):
        raise ConfigError(
            f"--split is for METHOD:CHECKPOINT with a method of {', '.join(METHODS)}, got {model!r}",
            remedy="leave out --split, or give a checkpoint that wsikit train wrote",
        )
    module = METHODS.load(method)
    _, card = load_checkpoint(Path(checkpoint))
    told = card.config if data is None else {**card.config, "data": data}
    predictor = module.load_predictor(Path(checkpoint), device=device or "auto")
    metrics = module.evaluate(predictor, module.dataset(module.Config.model_validate(told), split))
    table = Table("metric", split, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, value in metrics.items():
        table.add_row(name, _number(value))
    Console().print(table)
    if out is not None:
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        replace_file(out / "metrics.json", json.dumps({"model": model, "split": split, "metrics": metrics}).encode())
        print(f"written: {out / 'metrics.json'}")


def _meaning(text: str) -> tuple[int, str]:
    from wsikit.errors import ConfigError

    value, _, name = text.partition("=")
    if not (value.strip().isdecimal() and name.strip()):
        raise ConfigError(f"--mask-class takes VALUE=NAME with a whole number, such as 255=ignore; got {text!r}")
    return int(value), name.strip()


def _show(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    for heading in ("pooled", "mean", "± sd", "median", "worst", "best", "n", "trivial"):
        table.add_column(heading, justify="right", no_wrap=True)
    metrics = evaluation.metrics()
    for name, summary in metrics.items():
        # Text, not markup: iou[Nucleus] holds brackets
        table.add_row(Text(name), *_cells(name, summary))
    if metrics:
        console.print(table)
        console.print("trivial: what a model reaches that " + _lazy(metrics.values()), highlight=False)
    for group, reason in evaluation.missing.items():
        console.print(f"not computed: {group}: {reason}", markup=False, highlight=False)
    for note in evaluation.notes:
        console.print(f"truth: {note}", markup=False, highlight=False)
    left = [image for image in evaluation.images if image.status != "complete"]
    for image in left[:SHOWN]:
        console.print(f"{image.slide_id}: {image.status} ({image.reason}): {image.message}", markup=False)
    if len(left) > SHOWN:
        console.print(f"and {len(left) - SHOWN} more")
    for remedy in dict.fromkeys(image.remedy for image in left if image.remedy):
        console.print(f"what to do: {remedy}", markup=False, highlight=False)
    console.print(f"{len(evaluation.scored)} of {len(evaluation.images)} images scored, {evaluation.seconds:.1f} s")


def _cells(name: str, summary: Summary) -> list[str]:
    from wsikit.pipeline.evaluate import LOWER_IS_BETTER

    ends = [summary.minimum, summary.maximum]
    worst, best = ends[::-1] if name in LOWER_IS_BETTER else ends
    figures = (summary.pooled, summary.mean, summary.std, summary.median, worst, best)
    return [*map(_number, figures), str(summary.images), _number(summary.trivial)]


def _lazy(summaries: Iterable[Summary]) -> str:
    return "; or ".join(dict.fromkeys(s.trivial_model for s in summaries if not math.isnan(s.trivial)))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
